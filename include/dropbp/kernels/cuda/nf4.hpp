// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Dequantises 4-bit weights on CUDA, rounded to T. ops/nf4.hpp documents the format.
#pragma once

#include <algorithm>
#include <cstdint>

#include "dropbp/kernels/cuda/maps.hpp"
#include "dropbp/kernels/nf4_tables.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// The values of the codes, passed to the kernel by value.
struct Nf4Tables {
  float values[16];    ///< of the 4-bit codes
  float dynamic[256];  ///< of the 8-bit codes of the blocks' scales
};

namespace detail {

// Rounds the product and the sum separately: a fused multiply-add would give other bits.
DROPBP_HOST_DEVICE float multiply_and_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(__fmul_rn(a, b), c);
#else
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b)) +
         c;  // the product is exact in double
#endif
}

// A pack of N elements lies within a block of 64 and has N / 2 bytes of codes. A warp accesses
// contiguous memory.
template <class T, unsigned N>
struct Nf4Map {
  static constexpr const char* name = "nf4_expand";
  static constexpr std::size_t shared_bytes = (16 + 256) * sizeof(float);
  struct Values {
    Pack<std::uint8_t, N == 1 ? 1 : N / 2> codes;
    std::uint8_t scale;
    float group_scale;
  };
  Rows<T> to;
  const std::uint8_t* codes;
  const std::uint8_t* scales;
  const float* group_scales;
  float offset;
  Index first, columns;
  Nf4Tables tables;

  template <class Context>
  DROPBP_DEVICE void prepare(Context ctx, unsigned threads) const {
    auto* const values = reinterpret_cast<float*>(ctx.shared());  // of the 4-bit, then 8-bit codes
    for (unsigned i = ctx.thread(); i < 256; i += threads) {
      values[16 + i] = tables.dynamic[i];
      if (i < 16) values[i] = tables.values[i];
    }
    ctx.sync();
  }
  DROPBP_DEVICE std::uint64_t element_of(Index row, Index pack) const {
    return static_cast<std::uint64_t>(first + row * columns + pack * N);
  }
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    const std::uint64_t element = element_of(row, pack);
    return {ctx.template load_streaming < std::uint8_t, N == 1 ? 1 : N / 2 > (codes + element / 2),
            ctx.template load<std::uint8_t, 1>(scales + element / 64).values[0],
            ctx.template load<float, 1>(group_scales + element / (64 * 256)).values[0]};
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, const Values& v) const {
    const auto* const values = reinterpret_cast<const float*>(ctx.shared());
    const float scale = multiply_and_add(values[16 + v.scale], v.group_scale, offset);
    Pack<T, N> out;
    DROPBP_UNROLL
    for (unsigned i = 0; i < N; ++i) {
      // The high half of a byte is the first element. The 16 values lie in 16 different banks, so a
      // warp looks up any codes without bank conflicts.
      const bool high = N == 1 ? element_of(row, pack) % 2 == 0 : i % 2 == 0;
      const unsigned byte = v.codes.values[i / 2];
      out.values[i] = from_float<T>(values[high ? byte >> 4 : byte & 15u] * scale);
    }
    ctx.store(to.row(row) + pack * N, out);
  }
};

}  // namespace detail

/// to [rows, columns] = the `rows` rows from `first_row` on of a quantised matrix with `columns`
/// columns.
template <class Launcher, class T>
void nf4_expand(Launcher& launch, Rows<T> to, const std::uint8_t* codes, const std::uint8_t* scales,
                const float* group_scales, float offset, const Nf4Tables& tables, Index first_row,
                Index rows, Index columns) {
  const Index first = first_row * columns;
  const auto run = [&](auto width, Index r, Index c) {
    constexpr unsigned n = width;
    const bool whole = first % Index{n} == 0 &&
                       reinterpret_cast<std::uintptr_t>(codes) % (n == 1 ? 1 : n / 2) == 0;
    if (n == 1 || whole)
      detail::map_packs(
          launch, detail::Nf4Map<T, n>{to, codes, scales, group_scales, offset, first, c, tables},
          r, c / Index{n});
    else
      detail::map_packs(
          launch, detail::Nf4Map<T, 1>{to, codes, scales, group_scales, offset, first, c, tables},
          r, c);
  };
  detail::choose_width<T>(rows, columns, run, to);
}

}  // namespace cuda

namespace ops {

/// See kernels/cpu/nf4.hpp. Launches into the current CUDA stream.
template <cuda::Scalar T, cuda::BodyBackend Backend>
struct kernels<op::nf4, T, Backend> {
  using View = MatrixView<T, Backend>;             ///< of outputs
  using ConstView = MatrixView<const T, Backend>;  ///< of inputs

  /// Writes the rows from `first_row` on of a quantised matrix.
  static void expand(View to, Index first_row, const std::uint8_t* codes,
                     const std::uint8_t* scales, const float* group_scales, float offset);
};

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::nf4, T, Backend>::expand(View to, Index first_row, const std::uint8_t* codes,
                                          const std::uint8_t* scales, const float* group_scales,
                                          float offset) {
  static const cuda::Nf4Tables tables = [] {
    cuda::Nf4Tables result;
    std::copy(detail::nf4_values.begin(), detail::nf4_values.end(), result.values);
    std::copy(detail::dynamic_values.begin(), detail::dynamic_values.end(), result.dynamic);
    return result;
  }();
  auto launch = device_launcher<Backend>::current();
  cuda::nf4_expand(launch, cuda::rows_of(to), codes, scales, group_scales, offset, tables,
                   first_row, to.rows, to.columns);
}

}  // namespace ops
DROPBP_NAMESPACE_END
