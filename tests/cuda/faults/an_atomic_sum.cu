// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: threads add to one float in an undefined order.
#include "dropbp/backend/cuda/launch.cuh"

using namespace dropbp;
using namespace dropbp::cuda;

template <class T, unsigned N>
struct Copy {
  static constexpr const char* name = "copy";
  static constexpr unsigned threads = 256;
  static constexpr unsigned min_blocks = 1;
  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, float* y, const uint4* x) const {
    const auto value = ctx.template load<uint4, 1>(x + ctx.thread());
    atomicAdd(y, static_cast<float>(value.values[0].x + value.values[0].y + value.values[0].z +
                                    value.values[0].w));
  }
};

void launch(CudaLauncher& launcher, float* y, const uint4* x) {
  launcher(Grid{}, Copy<Half, 8>{}, y, x);
}
