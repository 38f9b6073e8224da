// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Dropout on CUDA, with the same masks as on the CPU. See ops/dropout.hpp.
#pragma once

#include <cstdint>

#include "dropbp/base/philox.hpp"
#include "dropbp/kernels/cuda/maps.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

struct PhiloxBits {
  std::uint32_t words[4];
};

// philox4x32 of base/philox.hpp without std::array, which not every compiler allows in device code.
DROPBP_HOST_DEVICE PhiloxBits philox(std::uint32_t c0, std::uint32_t c1, std::uint32_t c2,
                                     std::uint32_t c3, std::uint32_t k0, std::uint32_t k1) {
  DROPBP_UNROLL
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * c0,
                        product1 = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ k0,
    c1 = static_cast<std::uint32_t>(product1);
    c2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ k1,
    c3 = static_cast<std::uint32_t>(product0);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Each draw gives the bits for four elements. N is 4, or 1 if the elements are accessed one by one.
template <class T, unsigned N>
struct DropoutMap {
  static constexpr const char* name = "dropout";
  struct Values {
    T values[4];
  };
  Rows<T> to;
  Rows<const T> from;
  Index columns, draws;
  std::uint32_t c1, c2, c3, k0, k1, threshold;
  float scale;
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index draw) const {
    const T* const x = from.row(row) + 4 * draw;
    Values result{};
    if constexpr (N == 4) {
      const Pack<T, 4> pack = ctx.template load<T, 4>(x);
      DROPBP_UNROLL
      for (unsigned i = 0; i < 4; ++i) result.values[i] = pack.values[i];
    } else {
      DROPBP_UNROLL
      for (unsigned i = 0; i < 4; ++i)
        if (4 * draw + i < columns) result.values[i] = x[i];
    }
    return result;
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index draw, Values values) const {
    const PhiloxBits bits =
        philox(static_cast<std::uint32_t>(row * draws + draw), c1, c2, c3, k0, k1);
    T* const y = to.row(row) + 4 * draw;
    Pack<T, 4> pack;
    DROPBP_UNROLL
    for (unsigned i = 0; i < 4; ++i)
      pack.values[i] =
          from_float<T>(bits.words[i] < threshold ? 0.0f : scale * to_float(values.values[i]));
    if constexpr (N == 4) {
      ctx.store(y, pack);
    } else {
      DROPBP_UNROLL
      for (unsigned i = 0; i < 4; ++i)
        if (4 * draw + i < columns) y[i] = pack.values[i];
    }
  }
};

}  // namespace detail

/// y = dropout(x), [rows, columns]: each element is 0 with probability `rate`, else x / (1 - rate).
/// Each block of four elements of a row uses 128 bits of CounterRandom(seed,
/// RandomStream::adapter_dropout, step, micro_step); blocks are numbered row by row. y may be x.
template <class Launcher, class T>
void dropout(Launcher& launch, Rows<T> y, std::type_identity_t<Rows<const T>> x, Index rows,
             Index columns, double rate, std::uint64_t seed, std::uint64_t step,
             std::uint32_t micro_step) {
  const Index draws = divide_up(columns, 4);
  const auto fill = [&](auto map) {
    map.to = y, map.from = x, map.columns = columns, map.draws = draws;
    map.c1 =
        static_cast<std::uint32_t>(RandomStream::adapter_dropout) << 24 | (micro_step & 0xFFFFFFu);
    map.c2 = static_cast<std::uint32_t>(step), map.c3 = static_cast<std::uint32_t>(step >> 32);
    map.k0 = static_cast<std::uint32_t>(seed), map.k1 = static_cast<std::uint32_t>(seed >> 32);
    map.threshold = static_cast<std::uint32_t>(rate * 0x1p32);
    map.scale = static_cast<float>(1.0 / (1.0 - rate));
    detail::map_packs(launch, map, rows, draws);
  };
  const auto fits = [&](const auto& operand) {
    return reinterpret_cast<std::uintptr_t>(operand.data) % (4 * sizeof(T)) == 0 &&
           operand.stride % 4 == 0 && columns % 4 == 0;
  };
  if (fits(x) && fits(y))
    fill(detail::DropoutMap<T, 4>{});
  else
    fill(detail::DropoutMap<T, 1>{});
}

}  // namespace cuda

namespace ops {

/// See kernels/cpu/dropout.hpp. Launches into the current CUDA stream.
template <cuda::Scalar T, cuda::BodyBackend Backend>
struct kernels<op::dropout, T, Backend> {
  using View = MatrixView<T, Backend>;             ///< of outputs
  using ConstView = MatrixView<const T, Backend>;  ///< of inputs

  /// y = dropout(x). y may be x.
  static void run(View y, ConstView x, double rate, std::uint64_t seed, std::uint64_t step,
                  std::uint32_t micro_step);
};

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::dropout, T, Backend>::run(View y, ConstView x, double rate, std::uint64_t seed,
                                           std::uint64_t step, std::uint32_t micro_step) {
  auto launch = device_launcher<Backend>::current();
  cuda::dropout(launch, cuda::rows_of(y), cuda::rows_of(x), y.rows, y.columns, rate, seed, step,
                micro_step);
}

}  // namespace ops
DROPBP_NAMESPACE_END
