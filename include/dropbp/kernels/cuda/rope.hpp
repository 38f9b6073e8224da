// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Rotary position embedding on CUDA, in place. See ops/rope.hpp.
#pragma once

#include "dropbp/kernels/cuda/maps.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// Packs are numbered over the first halves of the heads.
template <class T, unsigned N>
struct RopeMap {
  static constexpr const char* name = "rope";
  struct Values {
    Pack<T, N> first, second;
  };
  Rows<T> x;
  const float* cosine;
  const float* sine;
  std::uint32_t packs_of_half;
  Index sequence;
  float sign;

  DROPBP_DEVICE T* at(Index row, Index pack) const {
    const std::uint32_t head = static_cast<std::uint32_t>(pack) / packs_of_half;
    return x.row(row) + (pack + Index{head} * packs_of_half) * N;
  }
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    const T* const first = at(row, pack);
    return {ctx.template load<T, N>(first),
            ctx.template load<T, N>(first + Index{packs_of_half} * N)};
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, Values values) const {
    const Index half = Index{packs_of_half} * N, position = row % sequence;
    const Index i0 = pack % Index{packs_of_half} * N;
    const float* const c = cosine + position * half + i0;
    const float* const s = sine + position * half + i0;
    constexpr unsigned piece = N < 4 ? N : 4;
    Values out;
    DROPBP_UNROLL
    for (unsigned j = 0; j < N; j += piece) {
      const auto cosines = ctx.template load<float, piece>(c + j),
                 sines = ctx.template load<float, piece>(s + j);
      DROPBP_UNROLL
      for (unsigned i = 0; i < piece; ++i) {
        const float a = to_float(values.first.values[j + i]),
                    b = to_float(values.second.values[j + i]);
        const float ci = cosines.values[i], si = sign * sines.values[i];
        out.first.values[j + i] = from_float<T>(a * ci - b * si);
        out.second.values[j + i] = from_float<T>(b * ci + a * si);
      }
    }
    T* const first = at(row, pack);
    ctx.store(first, out.first);
    ctx.store(first + half, out.second);
  }
};

}  // namespace detail

/// Rotates the first `heads` heads, of 2 * half elements each, in each row of x [rows, >= heads *
/// 2 * half]. Row t has position t % sequence in the tables [positions, half].
template <class Launcher, class T>
void rope(Launcher& launch, Rows<T> x, const float* cosine, const float* sine, Index heads,
          Index half, Index sequence, bool inverse, Index rows) {
  const auto run = [&](auto width) {
    constexpr unsigned n = width;
    detail::map_packs(launch,
                      detail::RopeMap<T, n>{x, cosine, sine, static_cast<std::uint32_t>(half / n),
                                            sequence, inverse ? -1.0f : 1.0f},
                      rows, heads * half / n);
  };
  if (is_vectorizable(x, rows, half) && is_vectorizable(cosine) && is_vectorizable(sine))
    run(std::integral_constant<unsigned, full_width<T>>{});
  else
    run(std::integral_constant<unsigned, 1>{});
}

}  // namespace cuda

namespace ops {

/// See kernels/cpu/rope.hpp. Launches into the current CUDA stream.
template <cuda::Scalar T, cuda::BodyBackend Backend>
struct kernels<op::rope, T, Backend> {
  using View = MatrixView<T, Backend>;             ///< of outputs
  using ConstView = MatrixView<const T, Backend>;  ///< of inputs

  /// Rotates x in place.
  static void run(View x, const float* cosine, const float* sine, Index heads, Index half,
                  Index sequence, Rotation rotation);
};

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::rope, T, Backend>::run(View x, const float* cosine, const float* sine, Index heads,
                                        Index half, Index sequence, Rotation rotation) {
  auto launch = device_launcher<Backend>::current();
  cuda::rope(launch, cuda::rows_of(x), cosine, sine, heads, half, sequence,
             rotation == Rotation::inverse, x.rows);
}

}  // namespace ops
DROPBP_NAMESPACE_END
