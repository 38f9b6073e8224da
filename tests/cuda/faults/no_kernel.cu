// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: a template that is never instantiated.
#include "dropbp/backend/cuda/launch.cuh"
