// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: a third-party header below ops and interop.
#pragma once
#include <Eigen/Core>
