// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The parts of the transformer in double, one element at a time, as plainly as possible.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "dropbp/ops/attention.hpp"

namespace dropbp::test::reference {

using ops::HeadLayout;
using ops::Index;
using ops::SequenceShape;

/// A row-major matrix of doubles. It starts as zeros or as a copy.
struct Table {
  Index rows, columns;
  std::vector<double> values;
  Table(Index r, Index c) : rows(r), columns(c), values(static_cast<std::size_t>(r * c), 0.0) {}
  template <class T>
  explicit Table(ops::MatrixView<T> from) : Table(from.rows, from.columns) {
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < columns; ++j) at(i, j) = static_cast<double>(from.row(i)[j]);
  }
  double& at(Index i, Index j) { return values[static_cast<std::size_t>(i * columns + j)]; }
  double at(Index i, Index j) const { return values[static_cast<std::size_t>(i * columns + j)]; }
  auto begin() const { return values.begin(); }
  auto end() const { return values.end(); }
};

inline Table linear(const Table& x, const Table& w) {  // y = x W^T
  Table y(x.rows, w.rows);
  for (Index i = 0; i < x.rows; ++i)
    for (Index o = 0; o < w.rows; ++o)
      for (Index k = 0; k < x.columns; ++k) y.at(i, o) += x.at(i, k) * w.at(o, k);
  return y;
}

inline Table rms_norm(const Table& x, const Table& w, double eps) {
  Table y(x.rows, x.columns);
  for (Index i = 0; i < x.rows; ++i) {
    double squares = 0;
    for (Index j = 0; j < x.columns; ++j) squares += x.at(i, j) * x.at(i, j);
    const double r = 1 / std::sqrt(squares / static_cast<double>(x.columns) + eps);
    for (Index j = 0; j < x.columns; ++j) y.at(i, j) = w.at(0, j) * x.at(i, j) * r;
  }
  return y;
}

/// Rotates each pair (i, i + head_size / 2) as a complex number by position / theta^(2 i /
/// head_size).
inline void rope(Table& x, Index heads, Index head_size, Index sequence, double theta) {
  for (Index t = 0; t < x.rows; ++t)
    for (Index head = 0; head < heads; ++head)
      for (Index i = 0; i < head_size / 2; ++i) {
        const double angle =
            static_cast<double>(t % sequence) /
            std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_size));
        double& a = x.at(t, head * head_size + i);
        double& b = x.at(t, head * head_size + i + head_size / 2);
        const double rotated = a * std::cos(angle) - b * std::sin(angle);
        b = a * std::sin(angle) + b * std::cos(angle), a = rotated;
      }
}

struct AttentionResult {
  Table o, lse, grad_qkv;
};

/// The forward pass and, for grad_o, the backward pass, with the full matrix of probabilities.
inline AttentionResult attention(const Table& qkv, const Table& grad_o, const HeadLayout& layout,
                                 const SequenceShape& shape) {
  const Index s = shape.sequence, d = layout.head_size;
  AttentionResult result{Table(qkv.rows, layout.q_width()), Table(shape.batch * layout.heads, s),
                         Table(qkv.rows, qkv.columns)};
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  for (Index b = 0; b < shape.batch; ++b)
    for (Index h = 0; h < layout.heads; ++h) {
      const Index q = h * d, k = layout.q_width() + h / (layout.heads / layout.kv_heads) * d,
                  v = k + layout.kv_width();
      for (Index i = 0; i < s; ++i) {
        const Index row = b * s + i;
        Index first = 0;
        if (!shape.sample_begin.empty()) first = shape.sample_begin[static_cast<std::size_t>(row)];
        if (layout.window > 0) first = std::max(first, i - layout.window + 1);
        std::vector<double> p(static_cast<std::size_t>(i + 1)), dp(p.size());
        double sum = 0, dot = 0;
        for (Index j = first; j <= i; ++j) {
          double score = 0;
          for (Index c = 0; c < d; ++c) score += qkv.at(row, q + c) * qkv.at(b * s + j, k + c);
          sum += p[static_cast<std::size_t>(j)] = std::exp(scale * score);
        }
        result.lse.at(b * layout.heads + h, i) = std::log(sum);
        for (Index j = first; j <= i; ++j) {
          const std::size_t at = static_cast<std::size_t>(j);
          p[at] /= sum;
          for (Index c = 0; c < d; ++c) {
            result.o.at(row, q + c) += p[at] * qkv.at(b * s + j, v + c);
            dp[at] += grad_o.at(row, q + c) * qkv.at(b * s + j, v + c);
            result.grad_qkv.at(b * s + j, v + c) += p[at] * grad_o.at(row, q + c);
          }
          dot += p[at] * dp[at];
        }
        for (Index j = first; j <= i; ++j) {
          const double ds =
              p[static_cast<std::size_t>(j)] * (dp[static_cast<std::size_t>(j)] - dot) * scale;
          for (Index c = 0; c < d; ++c) {
            result.grad_qkv.at(row, q + c) += ds * qkv.at(b * s + j, k + c);
            result.grad_qkv.at(b * s + j, k + c) += ds * qkv.at(row, q + c);
          }
        }
      }
    }
  return result;
}

inline Table swiglu(const Table& gate_up) {
  const Index m = gate_up.columns / 2;
  Table y(gate_up.rows, m);
  for (Index i = 0; i < y.rows; ++i)
    for (Index j = 0; j < m; ++j)
      y.at(i, j) = gate_up.at(i, j) / (1 + std::exp(-gate_up.at(i, j))) * gate_up.at(i, m + j);
  return y;
}

struct LossResult {
  double loss;
  Table grad_hidden, grad_weight;
};

inline LossResult cross_entropy(const Table& hidden, const Table& weight,
                                std::span<const std::int32_t> targets, std::int32_t ignore) {
  LossResult result{0, Table(hidden.rows, hidden.columns), Table(weight.rows, weight.columns)};
  const Table logits = linear(hidden, weight);
  const double counted = static_cast<double>(
      std::count_if(targets.begin(), targets.end(), [&](auto t) { return t != ignore; }));
  for (Index t = 0; t < hidden.rows; ++t) {
    const std::int32_t target = targets[static_cast<std::size_t>(t)];
    if (target == ignore) continue;
    double largest = logits.at(t, 0), sum = 0;
    for (Index v = 0; v < weight.rows; ++v) largest = std::max(largest, logits.at(t, v));
    for (Index v = 0; v < weight.rows; ++v) sum += std::exp(logits.at(t, v) - largest);
    result.loss += (std::log(sum) + largest - logits.at(t, target)) / counted;
    for (Index v = 0; v < weight.rows; ++v) {
      const double g =
          (std::exp(logits.at(t, v) - largest) / sum - (v == target ? 1 : 0)) / counted;
      for (Index c = 0; c < hidden.columns; ++c) {
        result.grad_hidden.at(t, c) += g * weight.at(v, c);
        result.grad_weight.at(v, c) += g * hidden.at(t, c);
      }
    }
  }
  return result;
}

}  // namespace dropbp::test::reference
