// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Work on many tensors in one launch: squared norms, and AdamW. A table in device memory says where
// each begins; blocks take chunks of a fixed size, so that sums have a fixed order.
#pragma once

#include <cmath>

#include "dropbp/backend/cuda/context.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// Elements that one block sums for a norm.
inline constexpr Index norm_chunk = 65536;

/// One tensor of a norm.
template <class T>
struct NormSegment {
  const T* data;             ///< its elements
  std::int64_t size;         ///< how many
  std::int64_t first_chunk;  ///< chunks of all segments before it
};

/// A sum in two floats, as good as in double: cards are slow at double.
struct ExactSum {
  float high;  ///< rounded
  float low;   ///< what rounding left out

  /// On the host.
  double value() const { return static_cast<double>(high) + static_cast<double>(low); }
};

/// One parameter of an update.
template <class T>
struct UpdateSegment {
  T* value;                  ///< what is used
  const T* gradient;         ///< of the loss
  float* master;             ///< the value in float; null where T is float
  float* first_moment;       ///< mean of gradients
  float* second_moment;      ///< mean of their squares
  std::int64_t size;         ///< elements of each
  float step_size;           ///< learning rate / (1 - beta1^t)
  float root_correction;     ///< 1 / sqrt(1 - beta2^t)
  float keep;                ///< 1 - learning rate * weight decay, or 1 where there is none
  std::int64_t first_chunk;  ///< chunks of all segments before it
};

/// What all segments of an update share.
struct UpdateOptions {
  float beta1;   ///< decay of the first moment
  float rest1;   ///< 1 - beta1, rounded from double
  float beta2;   ///< decay of the second
  float rest2;   ///< 1 - beta2, rounded from double
  float eps;     ///< added to the root
  float factor;  ///< of the gradient
};

namespace detail {

inline constexpr Index update_chunk = 8192;

// The last segment that begins at this chunk or before.
template <class Segment>
DROPBP_DEVICE const Segment& segment_of(const Segment* segments, Index count, Index chunk) {
  Index low = 0, high = count;
  while (high - low > 1) {
    const Index middle = (low + high) / 2;
    if (segments[middle].first_chunk <= chunk)
      low = middle;
    else
      high = middle;
  }
  return segments[low];
}

// term.load<N>(i) reads elements i .. i + N, and term.sum is what they add. Four packs are on their
// way before the first is summed; the rest of a chunk goes one pack, and then one element, after
// the other.
template <class T, unsigned threads, class Context, class Term>
DROPBP_DEVICE float chunk_sum(Context ctx, Index count, bool vectorizable, Term term) {
  constexpr Index width = full_width<T>, step = threads;
  float sum = 0.0f;
  const Index packs = vectorizable ? count / width : 0;
  Index pack = ctx.thread();
  for (; pack + 3 * step < packs; pack += 4 * step) {
    const auto a = term.template load<full_width<T>>(pack * width),
               b = term.template load<full_width<T>>((pack + step) * width);
    const auto c = term.template load<full_width<T>>((pack + 2 * step) * width),
               d = term.template load<full_width<T>>((pack + 3 * step) * width);
    sum += (term.sum(a) + term.sum(b)) + (term.sum(c) + term.sum(d));
  }
  for (; pack < packs; pack += step)
    sum += term.sum(term.template load<full_width<T>>(pack * width));
  for (Index i = packs * width + ctx.thread(); i < count; i += step)
    sum += term.sum(term.template load<1>(i));
  return sum;
}

template <class T, class Context>
struct SquareTerm {
  Context ctx;
  const T* x;
  template <unsigned N>
  DROPBP_DEVICE Pack<T, N> load(Index i) const {
    return ctx.template load_streaming<T, N>(x + i);
  }
  template <unsigned N>
  DROPBP_DEVICE float sum(const Pack<T, N>& v) const {
    float sum = 0.0f;
    DROPBP_UNROLL
    for (unsigned k = 0; k < N; ++k) sum += to_float(v.values[k]) * to_float(v.values[k]);
    return sum;
  }
};

template <class T, unsigned N>
struct TwoPacks {
  Pack<T, N> x, y;
};

template <class T, class Context>
struct SquaredDifferenceTerm {
  Context ctx;
  const T* x;
  const T* y;
  template <unsigned N>
  DROPBP_DEVICE TwoPacks<T, N> load(Index i) const {
    return {ctx.template load_streaming<T, N>(x + i), ctx.template load_streaming<T, N>(y + i)};
  }
  template <unsigned N>
  DROPBP_DEVICE float sum(const TwoPacks<T, N>& v) const {
    float sum = 0.0f;
    DROPBP_UNROLL
    for (unsigned k = 0; k < N; ++k) {
      const float difference = to_float(v.x.values[k]) - to_float(v.y.values[k]);
      sum += difference * difference;
    }
    return sum;
  }
};

// partial[chunk] = the sum of one chunk of one segment.
template <class T>
struct SquaredNormChunks {
  static constexpr const char* name = "squared_norms";
  static constexpr unsigned threads = 512, min_blocks = 2;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, float* partial, const NormSegment<T>* segments,
                                Index count) const {
    auto* const scratch = reinterpret_cast<float*>(ctx.shared());
    const Index chunk = ctx.block();
    const NormSegment<T>& segment = segment_of(segments, count, chunk);
    const Index first = (chunk - segment.first_chunk) * norm_chunk;
    const Index size = segment.size - first < norm_chunk ? segment.size - first : norm_chunk;
    const T* const x = segment.data + first;
    const bool aligned = reinterpret_cast<std::uintptr_t>(x) % 16 == 0;
    const float sum = block_sum<threads>(
        ctx, chunk_sum<T, threads>(ctx, size, aligned, SquareTerm<T, Context>{ctx, x}), scratch);
    if (ctx.thread() == 0) partial[chunk] = sum;
  }
};

template <class T>
struct SquaredDistanceChunks {
  static constexpr const char* name = "squared_distance";
  static constexpr unsigned threads = 512, min_blocks = 1;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, float* partial, const T* x, const T* y,
                                Index n) const {
    auto* const scratch = reinterpret_cast<float*>(ctx.shared());
    const Index first = Index{ctx.block()} * norm_chunk,
                size = n - first < norm_chunk ? n - first : norm_chunk;
    const bool aligned = reinterpret_cast<std::uintptr_t>(x + first) % 16 == 0 &&
                         reinterpret_cast<std::uintptr_t>(y + first) % 16 == 0;
    const float sum = block_sum<threads>(
        ctx,
        chunk_sum<T, threads>(ctx, size, aligned,
                              SquaredDifferenceTerm<T, Context>{ctx, x + first, y + first}),
        scratch);
    if (ctx.thread() == 0) partial[ctx.block()] = sum;
  }
};

// Adds a value to a sum whose rounding error is kept beside it. Source: Knuth, The Art of Computer
// Programming 2, 4.2.2, theorem B.
DROPBP_HOST_DEVICE void add_exactly(ExactSum& sum, float value) {
  const float total = sum.high + value, part = total - sum.high;
  sum.low += (sum.high - (total - part)) + (value - part);
  sum.high = total;
}

// sums[i] = the partial sums from starts[i] to starts[i + 1]: a block a sum, each thread every
// 128th of them in order.
struct FinishSums {
  static constexpr const char* name = "finish_sums";
  static constexpr unsigned threads = 128, min_blocks = 1;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, ExactSum* sums, const float* partial,
                                const std::int64_t* starts) const {
    auto* const scratch = reinterpret_cast<ExactSum*>(ctx.shared());
    ExactSum sum{0.0f, 0.0f};
    for (Index i = starts[ctx.block()] + ctx.thread(); i < starts[ctx.block() + 1]; i += threads)
      add_exactly(sum, partial[i]);
    scratch[ctx.thread()] = sum;
    ctx.sync();
    if (ctx.thread() != 0) return;
    for (unsigned i = 1; i < threads; ++i) {
      add_exactly(sum, scratch[i].high);
      sum.low += scratch[i].low;
    }
    sums[ctx.block()] = sum;
  }
};

/// One element of AdamW, as adamw_update in ops/adamw.hpp.
DROPBP_HOST_DEVICE float adamw_element(float value, float gradient, float& m, float& v,
                                       float step_size, float root_correction, float keep,
                                       const UpdateOptions& o) {
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
  DROPBP_DEVICE void operator()(Context ctx, const UpdateSegment<T>* segments, Index count,
                                UpdateOptions options) const {
    const UpdateSegment<T> s = segment_of(segments, count, Index{ctx.block()});
    const Index first = (Index{ctx.block()} - s.first_chunk) * update_chunk;
    const Index size = s.size - first < update_chunk ? s.size - first : update_chunk;
    constexpr bool has_master = !std::is_same_v<T, float>;
    constexpr Index width = 4;  // 16 bytes of each float
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

/// Chunks of a norm over n elements: the partial sums it needs room for.
inline Index norm_chunks(Index n) { return divide_up(n, norm_chunk); }

/// Chunks of an update of n elements.
inline Index update_chunks(Index n) { return divide_up(n, detail::update_chunk); }

/// sums [count] = the squared norms of `count` segments with `chunks` chunks together, in two
/// launches whatever their number. partial [chunks] is workspace; starts [count + 1] are the first
/// chunks, and `chunks`.
template <class Launcher, class T>
void squared_norms(Launcher& launch, ExactSum* sums, const NormSegment<T>* segments,
                   const std::int64_t* starts, Index count, Index chunks, float* partial) {
  if (count <= 0) return;
  if (chunks > 0)
    launch(Grid{.x = static_cast<unsigned>(chunks),
                .shared_bytes = detail::SquaredNormChunks<T>::threads / 32 * sizeof(float)},
           detail::SquaredNormChunks<T>{}, partial, segments, count);
  launch(Grid{.x = static_cast<unsigned>(count),
              .shared_bytes = detail::FinishSums::threads * sizeof(ExactSum)},
         detail::FinishSums{}, sums, static_cast<const float*>(partial), starts);
}

/// sum [1] = sum of (x - y)^2 over n elements. partial [norm_chunks(n)] is workspace; starts [2] =
/// 0, norm_chunks(n).
template <class Launcher, class T>
void squared_distance(Launcher& launch, ExactSum* sum, const T* x, const T* y, Index n,
                      const std::int64_t* starts, float* partial) {
  if (n > 0)
    launch(Grid{.x = static_cast<unsigned>(norm_chunks(n)),
                .shared_bytes = detail::SquaredDistanceChunks<T>::threads / 32 * sizeof(float)},
           detail::SquaredDistanceChunks<T>{}, partial, x, y, n);
  launch(Grid{.x = 1, .shared_bytes = detail::FinishSums::threads * sizeof(ExactSum)},
         detail::FinishSums{}, sum, static_cast<const float*>(partial), starts);
}

/// Updates `count` segments with `chunks` chunks together, in one launch: 28 bytes a parameter in
/// 16 bits.
template <class Launcher, class T>
void adamw(Launcher& launch, const UpdateSegment<T>* segments, Index count, Index chunks,
           UpdateOptions options) {
  if (count <= 0 || chunks <= 0) return;
  launch(Grid{.x = static_cast<unsigned>(chunks)}, detail::AdamWChunks<T>{}, segments, count,
         options);
}

}  // namespace cuda
DROPBP_NAMESPACE_END
