// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: an include that is not written from the root.
#pragma once
#include "error.hpp"
