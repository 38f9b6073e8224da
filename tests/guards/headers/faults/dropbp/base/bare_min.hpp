// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: calls min where a macro of that name may stand.
#pragma once
#include <algorithm>
inline int lower(int a, int b) { return std::min(a, b); }
