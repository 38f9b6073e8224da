// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// AdamW on CUDA: all parameters in one launch. See ops/adamw.hpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <type_traits>

#include "dropbp/kernels/cuda/chunks.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

inline constexpr Index update_chunk = 8192;

/// AdamW for one element, as in kernels/cpu/adamw.hpp.
DROPBP_HOST_DEVICE float adamw_element(float value, float gradient, float& m, float& v,
                                       float step_size, float root_correction, float keep,
                                       const ops::AdamWConstants<float>& o) {
  gradient *= o.factor;
  m = o.beta1 * m + o.rest1 * gradient;
  v = o.beta2 * v + o.rest2 * (gradient * gradient);
  return keep * value - step_size * m / (std::sqrt(v) * root_correction + o.eps);
}

template <class T>
struct AdamWChunks {
  static constexpr const char* name = "adamw";
  static constexpr unsigned threads = 256, min_blocks = 2;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, const ops::AdamWSegment<T>* segments, Index count,
                                ops::AdamWConstants<float> options) const {
    const ops::AdamWSegment<T> s = segment_of(segments, count, Index{ctx.block()});
    const Index first = (Index{ctx.block()} - s.first_chunk) * update_chunk;
    const Index size = s.size - first < update_chunk ? s.size - first : update_chunk;
    constexpr bool has_master = !std::is_same_v<T, float>;
    constexpr Index width = 4;  // 16 bytes of float
    const auto aligned = [&](const void* p, std::uintptr_t bytes) {
      return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
    };
    const bool vectorizable = aligned(s.value, width * sizeof(T)) &&
                              aligned(s.gradient, width * sizeof(T)) &&
                              aligned(s.first_moment, 16) && aligned(s.second_moment, 16) &&
                              (!has_master || aligned(s.master, 16));
    const auto update = [&](auto pack_width, Index i) {
      constexpr unsigned n = decltype(pack_width)::value;
      Pack<T, n> value{};
      const auto gradient = ctx.template load_streaming<T, n>(s.gradient + i);
      auto m = ctx.template load<float, n>(s.first_moment + i),
           v = ctx.template load<float, n>(s.second_moment + i);
      Pack<float, n> exact{};
      if constexpr (has_master) {
        exact = ctx.template load<float, n>(s.master + i);
      } else {
        exact = ctx.template load<float, n>(s.value + i);
      }
      DROPBP_UNROLL
      for (unsigned k = 0; k < n; ++k) {
        exact.values[k] =
            adamw_element(exact.values[k], to_float(gradient.values[k]), m.values[k], v.values[k],
                          s.step_size, s.root_correction, s.keep, options);
        value.values[k] = from_float<T>(exact.values[k]);
      }
      ctx.store(s.first_moment + i, m);
      ctx.store(s.second_moment + i, v);
      if constexpr (has_master) ctx.store(s.master + i, exact);
      ctx.store(s.value + i, value);
    };
    const Index packs = vectorizable ? size / width : 0;
    for (Index pack = ctx.thread(); pack < packs; pack += threads)
      update(std::integral_constant<unsigned, width>{}, first + pack * width);
    for (Index i = packs * width + ctx.thread(); i < size; i += threads)
      update(std::integral_constant<unsigned, 1>{}, first + i);
  }
};

}  // namespace detail

/// Number of chunks of an update of n elements.
inline Index update_chunks(Index n) { return divide_up(n, detail::update_chunk); }

/// Updates `count` segments with `chunks` chunks in total, in one launch. With a 16-bit T it moves
/// 28 bytes per parameter.
template <class Launcher, class T>
void adamw(Launcher& launch, const ops::AdamWSegment<T>* segments, Index count, Index chunks,
           ops::AdamWConstants<float> options) {
  if (count <= 0 || chunks <= 0) return;
  launch(Grid{.x = static_cast<unsigned>(chunks)}, detail::AdamWChunks<T>{}, segments, count,
         options);
}

}  // namespace cuda

namespace ops {

/// See kernels/cpu/adamw.hpp. Launches into the current CUDA stream.
template <cuda::Scalar T, cuda::BodyBackend Backend>
struct kernels<op::adamw, T, Backend> {
  /// Updates all segments. Sets their first_chunk.
  static void run(std::span<AdamWSegment<T>> segments, const AdamWConstants<float>& constants);
};

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::adamw, T, Backend>::run(std::span<AdamWSegment<T>> segments,
                                         const AdamWConstants<float>& constants) {
  auto launch = device_launcher<Backend>::current();
  std::int64_t chunks = 0;
  for (AdamWSegment<T>& segment : segments) {
    segment.first_chunk = chunks;
    chunks += cuda::update_chunks(static_cast<Index>(segment.size));
  }
  const cuda::detail::DeviceBuffer<AdamWSegment<T>, Backend> table(segments.data(),
                                                                   segments.size());
  cuda::adamw(launch, table.data(), static_cast<Index>(segments.size()), static_cast<Index>(chunks),
              constants);
}

}  // namespace ops
DROPBP_NAMESPACE_END
