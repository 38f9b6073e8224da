// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Squared norms of many tensors on CUDA in two launches, and the squared distance of two tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dropbp/kernels/cuda/chunks.hpp"
#include "dropbp/kernels/cuda/sums.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// Number of elements that one block adds for a norm.
inline constexpr Index norm_chunk = 65536;

/// A tensor whose norm is computed.
template <class T>
struct NormSegment {
  const T* data;             ///< its elements
  std::int64_t size;         ///< number of elements
  std::int64_t first_chunk;  ///< number of chunks of all earlier segments
};

namespace detail {

// term.load<N>(i) reads elements [i, i + N), and term.sum returns what they contribute. Four packs
// are loaded before the first is added. The rest of a chunk is added pack by pack, then element by
// element.
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

// partial[chunk] = the sum of the squares in one chunk of one segment.
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

}  // namespace detail

/// Number of chunks, and so of partial sums, of a norm over n elements.
inline Index norm_chunks(Index n) { return divide_up(n, norm_chunk); }

/// sums [count] = the squared norms of `count` segments with `chunks` chunks in total, in two
/// launches for any count. partial [chunks] is workspace. starts [count + 1] is the first chunk of
/// each segment, then `chunks`.
template <class Launcher, class T>
void squared_norms(Launcher& launch, ExactSum* sums, const NormSegment<T>* segments,
                   const std::int64_t* starts, Index count, Index chunks, float* partial) {
  if (count <= 0) return;
  if (chunks > 0)
    launch(Grid{.x = static_cast<unsigned>(chunks),
                .shared_bytes = detail::SquaredNormChunks<T>::threads / 32 * sizeof(float)},
           detail::SquaredNormChunks<T>{}, partial, segments, count);
  finish_sums(launch, sums, static_cast<const float*>(partial), starts, count);
}

/// sum [1] = the sum of (x - y)^2 over n elements. partial [norm_chunks(n)] is workspace. starts
/// [2] = 0, norm_chunks(n).
template <class Launcher, class T>
void squared_distance(Launcher& launch, ExactSum* sum, const T* x, const T* y, Index n,
                      const std::int64_t* starts, float* partial) {
  if (n > 0)
    launch(Grid{.x = static_cast<unsigned>(norm_chunks(n)),
                .shared_bytes = detail::SquaredDistanceChunks<T>::threads / 32 * sizeof(float)},
           detail::SquaredDistanceChunks<T>{}, partial, x, y, n);
  finish_sums(launch, sum, static_cast<const float*>(partial), starts, 1);
}

}  // namespace cuda

namespace ops {

/// See kernels/cpu/squared_norms.hpp. run and distance wait for the current CUDA stream.
template <cuda::Scalar T, cuda::BodyBackend Backend>
struct kernels<op::squared_norms, T, Backend> {
  /// The squared norm of each tensor.
  static std::vector<double> run(std::span<const Elements<const T, Backend>> tensors);
  /// The same, which stay on the device until one is read.
  static std::vector<DeferredNumber> deferred(std::span<const Elements<const T, Backend>> tensors);
  /// Sum of (x - y)^2 over n elements.
  static double distance(const T* x, const T* y, std::size_t n);
};

template <cuda::Scalar T, cuda::BodyBackend Backend>
std::vector<DeferredNumber> kernels<op::squared_norms, T, Backend>::deferred(
    std::span<const Elements<const T, Backend>> tensors) {
  if (tensors.empty()) return {};
  std::vector<cuda::NormSegment<T>> segments;
  std::vector<std::int64_t> starts;
  std::int64_t chunks = 0;
  for (const Elements<const T, Backend>& tensor : tensors) {
    segments.push_back({tensor.data(), static_cast<std::int64_t>(tensor.size()), chunks});
    starts.push_back(chunks);
    chunks += cuda::norm_chunks(static_cast<Index>(tensor.size()));
  }
  starts.push_back(chunks);
  auto launch = device_launcher<Backend>::current();
  const cuda::detail::DeviceBuffer<cuda::NormSegment<T>, Backend> table(segments);
  const cuda::detail::DeviceBuffer<std::int64_t, Backend> bounds(starts);
  Matrix<float, Backend> partial(1, static_cast<Index>(chunks));
  const auto place = cuda::detail::SumBoard<Backend>::next(tensors.size());
  cuda::squared_norms(launch, place.data(), table.data(), bounds.data(),
                      static_cast<Index>(tensors.size()), static_cast<Index>(chunks),
                      partial.data());
  std::vector<DeferredNumber> sums;
  for (std::size_t i = 0; i < tensors.size(); ++i) sums.push_back(place.number(i));
  return sums;
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
std::vector<double> kernels<op::squared_norms, T, Backend>::run(
    std::span<const Elements<const T, Backend>> tensors) {
  std::vector<double> sums;
  for (const DeferredNumber& sum : deferred(tensors)) sums.push_back(sum.value());
  return sums;
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
double kernels<op::squared_norms, T, Backend>::distance(const T* x, const T* y, std::size_t n) {
  auto launch = device_launcher<Backend>::current();
  const Index chunks = cuda::norm_chunks(static_cast<Index>(n));
  const std::vector<std::int64_t> starts = {0, chunks};
  const cuda::detail::DeviceBuffer<std::int64_t, Backend> bounds(starts);
  Matrix<float, Backend> partial(1, chunks);
  const auto place = cuda::detail::SumBoard<Backend>::next(1);
  cuda::squared_distance(launch, place.data(), x, y, static_cast<Index>(n), bounds.data(),
                         partial.data());
  return place.number(0).value();
}

}  // namespace ops
DROPBP_NAMESPACE_END
