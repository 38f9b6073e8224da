// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The cross-entropy of rows of logits on CUDA, and its gradient in place of the logits.
#pragma once

#include <cmath>
#include <cstdint>

#include "dropbp/kernels/cuda/sums.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// One block per row. The first pass computes the maximum and the sum, and rescales the sum when the
// maximum grows. The second pass computes the gradient.
template <class T, unsigned N>
struct CrossEntropyRows {
  static constexpr const char* name = "cross_entropy_rows";
  static constexpr unsigned threads = 512, min_blocks = 2;

  // One long function, because all steps share the registers of a thread.
  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<T> logits, float* losses,
                                const std::int32_t* targets, std::int32_t ignored, float share,
                                bool keep, Index vocabulary) const {
    auto* const scratch = reinterpret_cast<float*>(ctx.shared());
    const Index row = ctx.block(), packs = vocabulary / N;
    T* const values = logits.row(row);
    const std::int32_t target = targets[row];
    if (target == ignored) {
      if (ctx.thread() == 0) losses[row] = 0.0f;
      if (keep)
        for (Index pack = ctx.thread(); pack < packs; pack += threads)
          ctx.store(values + pack * N, Pack<T, N>{});
      return;
    }
    constexpr float lowest = -HUGE_VALF;
    float largest = lowest, sum = 0.0f;
    for (Index pack = ctx.thread(); pack < packs; pack += threads) {
      const Pack<T, N> v = ctx.template load<T, N>(values + pack * N);
      float most = to_float(v.values[0]);
      DROPBP_UNROLL
      for (unsigned i = 1; i < N; ++i)
        most = to_float(v.values[i]) > most ? to_float(v.values[i]) : most;
      if (most > largest) sum *= std::exp(largest - most), largest = most;
      const float shift = largest > lowest
                              ? largest
                              : 0.0f;  // all logits so far are masked; or NaN, which must be kept
      float part = 0.0f;
      DROPBP_UNROLL
      for (unsigned i = 0; i < N; ++i) part += std::exp(to_float(v.values[i]) - shift);
      sum += part;
    }
    const float at_target = to_float(values[target]);
    const float all = block_max<threads>(ctx, largest, scratch);
    // A thread whose elements are all masked, or that has none, has largest = -infinity: its sum is
    // multiplied by exp(-infinity) = 0.
    const float total = block_sum<threads>(ctx, sum * std::exp(largest - all), scratch);
    if (ctx.thread() == 0) losses[row] = (std::log(total) + all) - at_target;
    if (!keep) return;
    const float scale = share / total;
    for (Index pack = ctx.thread(); pack < packs; pack += threads) {
      Pack<T, N> v = ctx.template load<T, N>(values + pack * N);
      DROPBP_UNROLL
      for (unsigned i = 0; i < N; ++i) {
        const float p = std::exp(to_float(v.values[i]) - all) * scale;
        v.values[i] = from_float<T>(pack * N + Index{i} == Index{target} ? p - share : p);
      }
      ctx.store(values + pack * N, v);
    }
  }
};

}  // namespace detail

/// losses [rows] = log(sum(exp(logits))) - logits[target]; 0 where the target is `ignored`. With
/// `keep`, replaces the logits [rows, vocabulary] by the gradient of sum(losses) / divisor.
template <class Launcher, class T>
void cross_entropy_rows(Launcher& launch, Rows<T> logits, float* losses,
                        const std::int32_t* targets, std::int32_t ignored, double divisor,
                        bool keep, Index rows, Index vocabulary) {
  if (rows <= 0) return;
  const Grid grid{.x = static_cast<unsigned>(rows),
                  .shared_bytes = detail::CrossEntropyRows<T, 1>::threads / 32 * sizeof(float)};
  // The weight of one token; 0 if no token counts.
  const float share = divisor == 0 ? 0.0f : static_cast<float>(1.0 / divisor);
  if (is_vectorizable(logits, rows, vocabulary))
    launch(grid, detail::CrossEntropyRows<T, full_width<T>>{}, logits, losses, targets, ignored,
           share, keep, vocabulary);
  else
    launch(grid, detail::CrossEntropyRows<T, 1>{}, logits, losses, targets, ignored, share, keep,
           vocabulary);
}

}  // namespace cuda

namespace ops {

/// See kernels/cpu/cross_entropy.hpp. Launches into the current CUDA stream.
template <cuda::Scalar T, cuda::BodyBackend Backend>
struct kernels<op::cross_entropy, T, Backend> {
  using Loss = float;  ///< of one row

  /// Computes the losses, and with `keep` also the gradient.
  static void run(MatrixView<T, Backend> logits, Loss* losses, const std::int32_t* targets,
                  std::int32_t ignored, double divisor, bool keep);
  /// The sum of `count` losses, which stays on the device until it is read.
  static DeferredNumber sum(const Loss* losses, std::size_t count);
};

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::cross_entropy, T, Backend>::run(MatrixView<T, Backend> logits, Loss* losses,
                                                 const std::int32_t* targets, std::int32_t ignored,
                                                 double divisor, bool keep) {
  auto launch = device_launcher<Backend>::current();
  cuda::cross_entropy_rows(launch, cuda::rows_of(logits), losses, targets, ignored, divisor, keep,
                           logits.rows, logits.columns);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
DeferredNumber kernels<op::cross_entropy, T, Backend>::sum(const Loss* losses, std::size_t count) {
  auto launch = device_launcher<Backend>::current();
  const cuda::detail::DeviceBuffer<std::int64_t, Backend> bounds(
      std::vector<std::int64_t>{0, static_cast<std::int64_t>(count)});
  const auto place = cuda::detail::SumBoard<Backend>::next(1);
  constexpr float scale = 0x1p-32f;  // the sum of the largest floats must not overflow
  cuda::finish_sums(launch, place.data(), losses, bounds.data(), 1, scale);
  return place.number(0).divided_by(static_cast<double>(scale));
}

}  // namespace ops
DROPBP_NAMESPACE_END
