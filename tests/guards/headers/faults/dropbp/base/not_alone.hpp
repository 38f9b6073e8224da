// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: uses a standard header that it does not include.
#pragma once
inline std::vector<int> numbers;
