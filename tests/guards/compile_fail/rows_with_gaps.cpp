// expect: dropbp: this tensor type does not know y \+= x
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A matrix view with an outer stride may have gaps between its rows.
#include <cstddef>

#include "dropbp/tensor.hpp"

struct View {
  float* first = nullptr;
  std::size_t count = 0;
  float* data() { return first; }
  const float* data() const { return first; }
  std::size_t size() const { return count; }
#ifdef DROPBP_TEST_WRONG
  std::size_t outerStride() const { return 2 * count; }
#endif
};

void use(View& y, const View& x) { dropbp::accumulate(y, x); }
