// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: a thread needs more registers than a block of 1024 threads leaves it.
#include "dropbp/backend/cuda/launch.cuh"

using namespace dropbp;
using namespace dropbp::cuda;

template <class T, unsigned N>
struct Copy {
  static constexpr const char* name = "copy";
  static constexpr unsigned threads = 1024;
  static constexpr unsigned min_blocks = 2;
  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, float* y, const float* x) const {
    float values[96];
    DROPBP_UNROLL
    for (unsigned i = 0; i < 96; ++i) values[i] = x[ctx.thread() + 1024 * i];
    ctx.sync();
    DROPBP_UNROLL
    for (unsigned i = 0; i < 96; ++i) y[ctx.thread() + 1024 * i] = values[i] + values[95 - i];
  }
};

void launch(CudaLauncher& launcher, float* y, const float* x) {
  launcher(Grid{}, Copy<Half, 8>{}, y, x);
}
