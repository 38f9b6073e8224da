// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: the address space of a pointer is known only at run time.
#include "dropbp/backend/cuda/launch.cuh"

using namespace dropbp;
using namespace dropbp::cuda;

template <class T, unsigned N>
struct Copy {
  static constexpr const char* name = "copy";
  static constexpr unsigned threads = 256;
  static constexpr unsigned min_blocks = 1;
  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, float* const* lists, const uint4* x) const {
    const auto value = ctx.template load<uint4, 1>(x + ctx.thread());
    float* const to =
        ctx.thread() % 2 == 0 ? lists[ctx.block()] : reinterpret_cast<float*>(ctx.shared());
    to[ctx.thread()] = static_cast<float>(value.values[0].x + value.values[0].y +
                                          value.values[0].z + value.values[0].w);
  }
};

void launch(CudaLauncher& launcher, float* const* lists, const uint4* x) {
  launcher(Grid{}, Copy<Half, 8>{}, lists, x);
}
