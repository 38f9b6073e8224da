// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Rows in 8 bits (e4m3) on CUDA, and products of them. ops/fp8.hpp documents codes and scales. The
// code of the products, by cuBLASLt, is in fp8.cuh.
#pragma once

#include <cstdint>

#include "dropbp/backend/e4m3.hpp"
#include "dropbp/kernels/cuda/maps.hpp"
#include "dropbp/kernels/cuda/norm.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// One block per row. N elements are loaded together and make N bytes of codes; where N is 1, the
// codes of two elements are stored together. `padded` is a multiple of 16.
template <class T, unsigned N>
struct Fp8Quantize {
  static constexpr const char* name = "fp8_quantize";
  static constexpr unsigned threads = norm_threads, min_blocks = 4;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<std::uint8_t> codes, float* scales,
                                Rows<const T> from, Index columns, Index padded) const {
    constexpr unsigned kept = sizeof(T) == 4 ? 2 : 4, stored = N == 1 ? 2 : N;
    auto* const scratch = reinterpret_cast<std::uint32_t*>(ctx.shared());
    const Index row = ctx.block(), packs = columns / N;
    const T* const in = from.row(row);
    std::uint8_t* const to = codes.row(row);
    Pack<T, N> own[kept] = {};
    // Bits, because a comparison of floats would lose NaN.
    std::uint32_t largest = 0;
    const auto load = [&](Index pack) { return ctx.template load<T, N>(in + pack * N); };
    const auto take = [&](const Pack<T, N>& pack) {
      DROPBP_UNROLL
      for (unsigned i = 0; i < N; ++i) {
        const std::uint32_t magnitude = bits_of(to_float(pack.values[i])) & 0x7FFFFFFFu;
        largest = magnitude > largest ? magnitude : largest;
      }
    };
    for_own_packs<kept>(
        ctx.thread(), packs, [&](unsigned i, Index pack) { own[i] = load(pack); },
        [&](Index pack) { take(load(pack)); });
    DROPBP_UNROLL
    for (unsigned i = 0; i < kept; ++i) take(own[i]);
    const E4m3Scale by = e4m3_scale(block_max<threads>(ctx, largest, scratch));
    if (ctx.thread() == 0) scales[row] = by.scale;
    const auto code_of = [&](T value) { return to_e4m3(to_float(value) * by.inverse).bits; };
    const auto put = [&](Index pack, const Pack<T, N>& values) {
      Pack<std::uint8_t, N> out;
      DROPBP_UNROLL
      for (unsigned i = 0; i < N; ++i) out.values[i] = code_of(values.values[i]);
      ctx.store(to + pack * N, out);
    };
    Index next = ctx.thread();  // the first pack of codes that is not stored yet
    if constexpr (N > 1) {
      for_own_packs<kept>(
          ctx.thread(), packs, [&](unsigned i, Index pack) { put(pack, own[i]); },
          [&](Index pack) { put(pack, load(pack)); });
      next += packs;
    }
    for (; next < padded / stored; next += threads) {
      Pack<std::uint8_t, stored> out{};
      if constexpr (N == 1)
        for (unsigned i = 0; i < 2; ++i)
          if (const Index j = next * 2 + i; j < columns) out.values[i] = code_of(load(j).values[0]);
      ctx.store(to + next * stored, out);
    }
  }
};

template <class T, unsigned N>
struct Fp8ExpandMap {
  static constexpr const char* name = "fp8_expand";
  struct Values {
    Pack<std::uint8_t, N> codes;
    float scale;
  };
  Rows<T> to;
  Rows<const std::uint8_t> codes;
  const float* scales;

  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    return {ctx.template load_streaming<std::uint8_t, N>(codes.row(row) + pack * N),
            ctx.template load<float, 1>(scales + row).values[0]};
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, const Values& v) const {
    Pack<T, N> out;
    DROPBP_UNROLL
    for (unsigned i = 0; i < N; ++i)
      out.values[i] = from_float<T>(to_float(E4m3{v.codes.values[i]}) * v.scale);
    ctx.store(to.row(row) + pack * N, out);
  }
};

// y (=|+=) product times the scales of its row and its column. The product may be y.
template <class T, unsigned N>
struct Fp8ScaleMap {
  static constexpr const char* name = "fp8_scale";
  struct Values {
    Pack<T, N> product, old;
  };
  Rows<T> y;
  Rows<const T> product;
  const float* row_scales;
  const float* column_scales;
  bool add;

  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    Values v{ctx.template load<T, N>(product.row(row) + pack * N), {}};
    if (add) v.old = ctx.template load<T, N>(y.row(row) + pack * N);
    return v;
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, const Values& v) const {
    const float scale = ctx.template load<float, 1>(row_scales + row).values[0];
    Pack<T, N> out;
    DROPBP_UNROLL
    for (unsigned i = 0; i < N; ++i) {
      const float column = ctx.template load<float, 1>(column_scales + pack * N + i).values[0];
      // Powers of two: both products are exact, and the sum is rounded once.
      const float scaled = to_float(v.product.values[i]) * scale * column;
      out.values[i] = from_float<T>(add ? to_float(v.old.values[i]) + scaled : scaled);
    }
    ctx.store(y.row(row) + pack * N, out);
  }
};

template <unsigned N, class T>
bool codes_in_packs(Rows<T> codes) {
  return reinterpret_cast<std::uintptr_t>(codes.data) % N == 0 && codes.stride % Index{N} == 0;
}

}  // namespace detail

/// codes [rows, padded] and scales [rows] of `from` [rows, columns]; codes beyond the columns are
/// 0.
template <class T, class Launcher>
void fp8_quantize(Launcher& launch, Rows<std::uint8_t> codes, float* scales, Rows<const T> from,
                  Index rows, Index columns, Index padded) {
  if (rows <= 0) return;
  const Grid grid{static_cast<unsigned>(rows), 1, 1, detail::norm_scratch_bytes()};
  constexpr unsigned n = full_width<T>;
  if (is_vectorizable(from, columns) && detail::codes_in_packs<n>(codes))
    launch(grid, detail::Fp8Quantize<T, n>{}, codes, scales, from, columns, padded);
  else
    launch(grid, detail::Fp8Quantize<T, 1>{}, codes, scales, from, columns, padded);
}

/// to [rows, columns] = codes times the scale of their row.
template <class Launcher, class T>
void fp8_expand(Launcher& launch, Rows<T> to, Rows<const std::uint8_t> codes, const float* scales,
                Index rows, Index columns) {
  constexpr unsigned n = full_width<T>;
  if (is_vectorizable(to, columns) && detail::codes_in_packs<n>(codes))
    detail::map_packs(launch, detail::Fp8ExpandMap<T, n>{to, codes, scales}, rows,
                      columns / Index{n});
  else
    detail::map_packs(launch, detail::Fp8ExpandMap<T, 1>{to, codes, scales}, rows, columns);
}

/// y [rows, columns] (=|+=) product times row_scales [rows] and column_scales [columns], which are
/// powers of two. y may be the product.
template <class Launcher, class T>
void fp8_scale(Launcher& launch, Rows<T> y, std::type_identity_t<Rows<const T>> product,
               const float* row_scales, const float* column_scales, Index rows, Index columns,
               bool add) {
  constexpr unsigned n = full_width<T>;
  if (is_vectorizable(y, columns) && is_vectorizable(product, columns))
    detail::map_packs(launch, detail::Fp8ScaleMap<T, n>{y, product, row_scales, column_scales, add},
                      rows, columns / Index{n});
  else
    detail::map_packs(launch, detail::Fp8ScaleMap<T, 1>{y, product, row_scales, column_scales, add},
                      rows, columns);
}

}  // namespace cuda

namespace ops {

/// See kernels/cpu/fp8.hpp. Launches into the current CUDA stream.
template <cuda::Scalar T, cuda::BodyBackend Backend>
struct kernels<op::fp8, T, Backend> {
  /// Of rows, such as the inputs of a linear map.
  static void quantize(MatrixView<std::uint8_t, Backend> codes, float* scales,
                       MatrixView<const T, Backend> from);
  /// The values, rounded to T.
  static void expand(MatrixView<T, Backend> to, MatrixView<const std::uint8_t, Backend> codes,
                     const float* scales);
};

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::fp8, T, Backend>::quantize(MatrixView<std::uint8_t, Backend> codes, float* scales,
                                            MatrixView<const T, Backend> from) {
  auto launch = device_launcher<Backend>::current();
  cuda::fp8_quantize<T>(launch, cuda::rows_of(codes), scales, cuda::rows_of(from), from.rows,
                        from.columns, codes.columns);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::fp8, T, Backend>::expand(MatrixView<T, Backend> to,
                                          MatrixView<const std::uint8_t, Backend> codes,
                                          const float* scales) {
  auto launch = device_launcher<Backend>::current();
  cuda::fp8_expand(launch, cuda::rows_of(to), cuda::rows_of(codes), scales, to.rows, to.columns);
}

/// Products of rows in 8 bits by cuBLASLt. An emulated backend has a specialisation of its own.
template <cuda::Scalar T>
struct kernels<op::fp8_gemm, T, Cuda> {
  using Codes = MatrixView<const std::uint8_t, Cuda>;  ///< [rows, depth]

  /// y [m, n] (=|+=) x [m, k] w^T, with codes w [n, k] and a scale for each row of both. Sums are
  /// in float. False, with nothing done, if the device has no such product for these operands: it
  /// needs compute capability 8.9, k and the distances of rows in multiples of 16 bytes, and
  /// operands at such addresses. Throws std::runtime_error with the shapes if cuBLASLt fails.
  static bool run(MatrixView<T, Cuda> y, Codes x, const float* x_scales, Codes w,
                  const float* w_scales, Accumulate mode);
  /// Whether the current device has such products: from compute capability 8.9 on.
  static bool available();
};

}  // namespace ops
DROPBP_NAMESPACE_END
