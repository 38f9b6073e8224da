// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The version. CMake and the packages parse it from this file.
#pragma once

#define DROPBP_VERSION_MAJOR 0
#define DROPBP_VERSION_MINOR 2
#define DROPBP_VERSION_PATCH 0
