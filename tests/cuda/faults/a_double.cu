// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: a literal without the suffix f.
#include "dropbp/backend/cuda/launch.cuh"

using namespace dropbp;
using namespace dropbp::cuda;

template <class T, unsigned N>
struct Copy {
  static constexpr const char* name = "copy";
  static constexpr unsigned threads = 256;
  static constexpr unsigned min_blocks = 1;
  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, float* y, const float* x) const {
    y[ctx.thread()] = static_cast<float>(x[ctx.thread()] * 1.1);
  }
};

void launch(CudaLauncher& launcher, float* y, const float* x) {
  launcher(Grid{}, Copy<Half, 8>{}, y, x);
}
