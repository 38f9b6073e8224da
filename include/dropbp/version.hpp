// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The one source of the version: CMake and the packages parse it from here.
#pragma once

#define DROPBP_VERSION_MAJOR 0
#define DROPBP_VERSION_MINOR 1
#define DROPBP_VERSION_PATCH 0
