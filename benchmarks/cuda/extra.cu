// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "cuda/extra.hpp"

#include <cstdint>

#include <dropbp/backend/cuda/device.cuh>
#include <dropbp/kernels/cuda/rms_norm.hpp>

namespace bench {

using dropbp::cuda::Index;

// Reads memory as fast as possible: loads of 16 bytes, four in flight per thread, almost no
// arithmetic.
struct ReadEverything {
  static constexpr const char* name = "read_everything";
  static constexpr unsigned threads = 512, min_blocks = 2;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, const std::uint32_t* data, Index packs,
                                std::uint32_t* sink) const {
    std::uint32_t sum = 0;
    const Index step = Index{ctx.blocks()} * threads;
    for (Index first = Index{ctx.block()} * threads + ctx.thread(); first < packs;
         first += 4 * step) {
      dropbp::cuda::Pack<std::uint32_t, 4> values[4] = {};
      DROPBP_UNROLL
      for (unsigned i = 0; i < 4; ++i)
        if (first + i * step < packs)
          values[i] = ctx.template load_streaming<std::uint32_t, 4>(data + 4 * (first + i * step));
      DROPBP_UNROLL
      for (unsigned i = 0; i < 4; ++i)
        sum ^=
            values[i].values[0] ^ values[i].values[1] ^ values[i].values[2] ^ values[i].values[3];
    }
    if (sum == 0x12345678u) *sink = sum;  // keeps the compiler from removing the loads
  }
};

void read_everything(const void* data, std::size_t bytes, void* sink) {
  auto launch = dropbp::device_launcher<dropbp::Cuda>::current();
  launch(dropbp::cuda::Grid{.x = launch.processors() * 4}, ReadEverything{},
         static_cast<const std::uint32_t*>(data), static_cast<Index>(bytes / 16),
         static_cast<std::uint32_t*>(sink));
}

template <class T>
void add_rms_norm(T* y, float* rstd, T* sum, const T* branch, const T* weight, std::ptrdiff_t rows,
                  std::ptrdiff_t columns) {
  using dropbp::cuda::Rows;
  auto launch = dropbp::device_launcher<dropbp::Cuda>::current();
  dropbp::cuda::add_rms_norm_forward(launch, Rows<T>{y, columns}, rstd, Rows<T>{sum, columns},
                                     Rows<const T>{branch, columns}, weight, rows, columns, 1e-5);
}
template void add_rms_norm(float*, float*, float*, const float*, const float*, std::ptrdiff_t,
                           std::ptrdiff_t);
template void add_rms_norm(dropbp::BFloat16*, float*, dropbp::BFloat16*, const dropbp::BFloat16*,
                           const dropbp::BFloat16*, std::ptrdiff_t, std::ptrdiff_t);

}  // namespace bench
