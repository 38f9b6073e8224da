// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// RMSNorm, y = w * x / sqrt(mean(x^2) + eps), as in Hugging Face's LlamaRMSNorm. Source: Zhang and
// Sennrich, "Root Mean Square Layer Normalization" (NeurIPS 2019).
#pragma once

#include <algorithm>
#include <cmath>

#include "dropbp/ops/parameter.hpp"
#include "dropbp/ops/simd.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

// Rows whose share of the weight's gradient is summed by one thread; the shares are added in order.
inline constexpr Index norm_chunk = 64;

// Sums of term(i, piece) over a row. Partial sums stay short: 16 vectors each go to double, where
// the rest is added.
template <class T, class Term>
double row_sum(Index count, const Term& term) noexcept {
  double sum = 0;
  Vector<T> part{};
  Index pending = 0;
  for_each_vector<T>(count, [&](Index i, auto piece) {
    part += term(i, piece);
    if (++pending == 16) sum += sum_of_lanes<T>(part), part = Vector<T>{}, pending = 0;
  });
  return sum + sum_of_lanes<T>(part);
}

}  // namespace detail

/// y [rows, hidden] = norm(x); rstd [rows] = 1 / sqrt(mean(x^2) + eps), which the backward pass
/// needs. w [hidden].
template <class T>
void rms_norm_forward(MatrixView<T> y, T* rstd, std::type_identity_t<MatrixView<const T>> x,
                      const T* w, double eps) {
  parallel_for(x.rows, x.columns, [&](Index i) {
    const T* const in = x.row(i);
    const double squares = detail::row_sum<T>(x.columns, [&](Index j, auto piece) {
      const auto v = detail::load_piece(in + j, piece, T(0));
      return v * v;
    });
    rstd[i] = static_cast<T>(1.0 / std::sqrt(squares / static_cast<double>(x.columns) + eps));
    for (Index j = 0; j < x.columns; ++j) y.row(i)[j] = in[j] * rstd[i] * w[j];
  });
}

/// The same y, bit for bit, from the rstd of the forward pass: cheaper than keeping y.
template <class T>
void rms_norm_recompute(MatrixView<T> y, std::type_identity_t<MatrixView<const T>> x, const T* w,
                        const T* rstd) {
  parallel_for(x.rows, x.columns, [&](Index i) {
    for (Index j = 0; j < x.columns; ++j) y.row(i)[j] = x.row(i)[j] * rstd[i] * w[j];
  });
}

/// grad_input (=|+=) the gradient of x, given that of y; with an empty grad_input (data == nullptr)
/// only the weight's. The weight's gradient goes where its contract says, unless it is frozen. `+=`
/// joins the residual path in the same pass. Sums of the weight's gradient go over fixed chunks of
/// rows: the bits do not depend on the number of threads.
template <class T>
void rms_norm_backward(MatrixView<T> grad_input, Accumulate mode,
                       std::type_identity_t<MatrixView<const T>> grad_output,
                       std::type_identity_t<MatrixView<const T>> x, Parameter<T>& weight,
                       const T* rstd, MemoryPool& workspace) {
  const Index hidden = x.columns;
  const Index chunks = (x.rows + detail::norm_chunk - 1) / detail::norm_chunk;
  const T* const w = weight.value().data;
  Matrix<T> shares;
  if (weight.trained) shares = Matrix<T>(chunks, hidden, workspace);

  parallel_for(chunks, detail::norm_chunk * hidden, [&](Index chunk) {
    T* const share = weight.trained ? shares.row(chunk) : nullptr;
    if (share != nullptr) std::fill_n(share, hidden, T(0));
    const Index last = (std::min)(x.rows, (chunk + 1) * detail::norm_chunk);
    for (Index i = chunk * detail::norm_chunk; i < last; ++i) {
      const T* const in = x.row(i);
      const T* const dy = grad_output.row(i);
      const T scale = rstd[i];
      if (share != nullptr)
        for (Index j = 0; j < hidden; ++j) share[j] += dy[j] * (in[j] * scale);
      if (grad_input.data == nullptr) continue;
      // d/dx of x * r(x): r * (w dy) - x * r^3 * mean(x * w * dy)
      const double dot = detail::row_sum<T>(hidden, [&](Index j, auto piece) {
        return detail::load_piece(dy + j, piece, T(0)) * detail::load_piece(w + j, piece, T(0)) *
               detail::load_piece(in + j, piece, T(0));
      });
      const double r = static_cast<double>(scale);
      const T back = static_cast<T>(r * r * r * dot / static_cast<double>(hidden));
      T* const dx = grad_input.row(i);
      if (mode == Accumulate::add)
        for (Index j = 0; j < hidden; ++j) dx[j] += scale * (w[j] * dy[j]) - in[j] * back;
      else
        for (Index j = 0; j < hidden; ++j) dx[j] = scale * (w[j] * dy[j]) - in[j] * back;
    }
  });

  if (!weight.trained) return;
  const Accumulate weight_mode = weight.begin_gradient();
  T* const gradient = weight.gradient().data;
  for (Index j = 0; j < hidden; ++j) {
    double sum = weight_mode == Accumulate::add ? static_cast<double>(gradient[j]) : 0.0;
    for (Index chunk = 0; chunk < chunks; ++chunk) sum += static_cast<double>(shares.row(chunk)[j]);
    gradient[j] = static_cast<T>(sum);
  }
}

}  // namespace ops
DROPBP_NAMESPACE_END
