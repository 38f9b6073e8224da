// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: reads rows of 16-byte packs element by element.
#include "dropbp/backend/cuda/launch.cuh"

using namespace dropbp;
using namespace dropbp::cuda;

template <class T, unsigned N>
struct Copy {
  static constexpr const char* name = "copy";
  static constexpr unsigned threads = 256;
  static constexpr unsigned min_blocks = 1;
  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Half* y, const Half* x) const {
    Pack<Half, 8> value;
    DROPBP_UNROLL
    for (unsigned i = 0; i < 8; ++i) value.values[i] = x[8 * ctx.thread() + i];
    ctx.store(y + 8 * ctx.thread(), value);
  }
};

void launch(CudaLauncher& launcher, Half* y, const Half* x) {
  launcher(Grid{}, Copy<Half, 8>{}, y, x);
}
