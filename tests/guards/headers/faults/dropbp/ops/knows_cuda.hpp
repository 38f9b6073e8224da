// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: an op that knows its backend.
#pragma once

#include "dropbp/kernels/cuda/rope.hpp"
