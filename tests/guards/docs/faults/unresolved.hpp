// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A comment that refers to nothing.
#pragma once

namespace dropbp {
/// See \ref nothing_of_this_name.
struct Documented {};
}  // namespace dropbp
