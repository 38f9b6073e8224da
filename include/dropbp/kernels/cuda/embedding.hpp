// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Token embedding on CUDA. The backward pass adds gradients in the order of the tokens, without
// atomics.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "dropbp/kernels/cuda/elementwise.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// The positions of each token id, computed on the host. `positions` [tokens] is sorted by id, then
/// by position. Id ids[i] occurs at positions[starts[i]] to positions[starts[i + 1] - 1].
struct TokenOrder {
  std::vector<std::int32_t> ids;        ///< the distinct ids, ascending
  std::vector<std::int32_t> starts;     ///< ids.size() + 1 offsets into positions
  std::vector<std::int32_t> positions;  ///< one per token

  /// Sorts the positions of `count` tokens.
  TokenOrder(const std::int32_t* tokens, std::size_t count) : positions(count) {
    std::iota(positions.begin(), positions.end(), 0);
    std::sort(positions.begin(), positions.end(), [tokens](std::int32_t a, std::int32_t b) {
      return tokens[a] != tokens[b] ? tokens[a] < tokens[b] : a < b;
    });
    for (std::size_t i = 0; i < count; ++i) {
      const std::int32_t id = tokens[positions[i]];
      if (!ids.empty() && ids.back() == id) continue;
      ids.push_back(id);
      starts.push_back(static_cast<std::int32_t>(i));
    }
    starts.push_back(static_cast<std::int32_t>(count));
  }
};

namespace detail {

template <class T, unsigned N>
struct EmbeddingForwardMap {
  static constexpr const char* name = "embedding_forward";
  using Values = Pack<T, N>;
  Rows<T> out;
  Rows<const T> weight;
  const std::int32_t* tokens;
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    return ctx.template load<T, N>(weight.row(tokens[row]) + pack * N);
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, Values values) const {
    ctx.store(out.row(row) + pack * N, values);
  }
};

// One block per distinct id.
template <class T, unsigned N>
struct EmbeddingBackward {
  static constexpr const char* name = "embedding_backward";
  static constexpr unsigned threads = 128, min_blocks = 4;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<T> gradient, bool add, Rows<const T> grad_output,
                                const std::int32_t* ids, const std::int32_t* starts,
                                const std::int32_t* positions, Index columns) const {
    const Index i = ctx.block();
    T* const to = gradient.row(ids[i]);
    for (Index pack = ctx.thread(); pack < columns / N; pack += threads) {
      float sum[N] = {};
      if (add) {
        const Pack<T, N> old = ctx.template load<T, N>(to + pack * N);
        DROPBP_UNROLL
        for (unsigned j = 0; j < N; ++j) sum[j] = to_float(old.values[j]);
      }
      for (Index k = starts[i]; k < starts[i + 1]; ++k) {
        const Pack<T, N> g = ctx.template load<T, N>(grad_output.row(positions[k]) + pack * N);
        DROPBP_UNROLL
        for (unsigned j = 0; j < N; ++j) sum[j] += to_float(g.values[j]);
      }
      Pack<T, N> out;
      DROPBP_UNROLL
      for (unsigned j = 0; j < N; ++j) out.values[j] = from_float<T>(sum[j]);
      ctx.store(to + pack * N, out);
    }
  }
};

}  // namespace detail

/// out [count, columns]: row t is row tokens[t] of weight. The caller has checked the ids.
template <class Launcher, class T>
void embedding_forward(Launcher& launch, Rows<T> out, const std::int32_t* tokens,
                       std::type_identity_t<Rows<const T>> weight, Index count, Index columns) {
  if (is_vectorizable(out, count, columns) && is_vectorizable(weight, 2, columns))
    detail::map_packs(launch, detail::EmbeddingForwardMap<T, full_width<T>>{out, weight, tokens},
                      count, columns / Index{full_width<T>});
  else
    detail::map_packs(launch, detail::EmbeddingForwardMap<T, 1>{out, weight, tokens}, count,
                      columns);
}

/// gradient [vocabulary, columns]: row id (=|+=) the sum of the rows of grad_output at the
/// positions of this id. ids, starts and positions are the arrays of a TokenOrder in device memory;
/// `different` is the size of ids.
template <class Launcher, class T>
void embedding_backward(Launcher& launch, Rows<T> gradient, bool add,
                        std::type_identity_t<Rows<const T>> grad_output, const std::int32_t* ids,
                        const std::int32_t* starts, const std::int32_t* positions, Index different,
                        Index vocabulary, Index columns) {
  if (!add) set_zero(launch, gradient, vocabulary, columns);
  if (different <= 0 || columns <= 0) return;
  const Grid grid{.x = static_cast<unsigned>(different)};
  if (is_vectorizable(gradient, vocabulary, columns) && is_vectorizable(grad_output, 2, columns))
    launch(grid, detail::EmbeddingBackward<T, full_width<T>>{}, gradient, add, grad_output, ids,
           starts, positions, columns);
  else
    launch(grid, detail::EmbeddingBackward<T, 1>{}, gradient, add, grad_output, ids, starts,
           positions, columns);
}

}  // namespace cuda

namespace ops {

/// See kernels/cpu/embedding.hpp. Launches into the current CUDA stream.
template <cuda::Scalar T, cuda::BodyBackend Backend>
struct kernels<op::embedding, T, Backend> {
  using View = MatrixView<T, Backend>;             ///< of outputs
  using ConstView = MatrixView<const T, Backend>;  ///< of inputs

  /// Copies rows of the weight. Throws std::logic_error during graph capture, as backward does.
  static void forward(View out, std::span<const std::int32_t> tokens, ConstView weight);
  /// Computes the gradient of the weight.
  static void backward(View gradient, Accumulate mode, ConstView grad_output,
                       std::span<const std::int32_t> tokens);
};

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::embedding, T, Backend>::forward(View out, std::span<const std::int32_t> tokens,
                                                 ConstView weight) {
  auto launch = device_launcher<Backend>::current();
  const cuda::detail::DeviceBuffer<std::int32_t, Backend> ids(tokens.data(), tokens.size());
  cuda::embedding_forward(launch, cuda::rows_of(out), ids.data(), cuda::rows_of(weight), out.rows,
                          out.columns);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::embedding, T, Backend>::backward(View gradient, Accumulate mode,
                                                  ConstView grad_output,
                                                  std::span<const std::int32_t> tokens) {
  auto launch = device_launcher<Backend>::current();
  const cuda::TokenOrder order(tokens.data(), tokens.size());
  const cuda::detail::DeviceBuffer<std::int32_t, Backend> ids(order.ids), starts(order.starts),
      positions(order.positions);
  cuda::embedding_backward(launch, cuda::rows_of(gradient), mode == Accumulate::add,
                           cuda::rows_of(grad_output), ids.data(), starts.data(), positions.data(),
                           static_cast<Index>(order.ids.size()), gradient.rows, gradient.columns);
}

}  // namespace ops
DROPBP_NAMESPACE_END
