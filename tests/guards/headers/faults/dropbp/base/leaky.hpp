// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: leaves a macro without our prefix.
#pragma once
#define DROPBP_FINE 1
#define PLAIN_NAME 1
