// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A public function without a comment.
#pragma once

namespace dropbp {
/// Documented.
struct Documented {
  int forgotten() const;
};
}  // namespace dropbp
