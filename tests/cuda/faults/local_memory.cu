// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: an array with an index that is known only at run time.
#include "dropbp/backend/cuda/launch.cuh"

using namespace dropbp;
using namespace dropbp::cuda;

template <class T, unsigned N>
struct Copy {
  static constexpr const char* name = "copy";
  static constexpr unsigned threads = 256;
  static constexpr unsigned min_blocks = 1;
  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, float* y, const float* x, int n) const {
    float values[32];
    for (int i = 0; i < 32; ++i) values[i] = x[ctx.thread() + i * n];
    for (int i = 0; i < n; ++i) values[i * n % 32] *= values[(i + n) % 32];
    y[ctx.thread()] = values[n % 32];
  }
};

void launch(CudaLauncher& launcher, float* y, const float* x, int n) {
  launcher(Grid{}, Copy<Half, 8>{}, y, x, n);
}
