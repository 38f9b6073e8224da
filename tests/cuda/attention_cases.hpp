// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Causal attention and its backward pass in double, straight from the formulas. Each element has a
// bound on the error of a kernel that computes in float with operands of T. The tests on the
// emulator and on a GPU use it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "dropbp/kernels/cuda/attention.hpp"

namespace test {

using dropbp::BFloat16, dropbp::Half;
namespace cuda = dropbp::cuda;

using cuda::AttentionShape;
using cuda::Index;

/// A shape, and the number of elements between the rows of each buffer.
struct AttentionCase {
  AttentionShape shape;
  Index gap;

  std::string text() const {
    return std::to_string(shape.batch) + " sequences of " + std::to_string(shape.sequence) +
           " tokens, " + std::to_string(shape.heads) + " heads of " +
           std::to_string(shape.head_size) + ", " + std::to_string(shape.kv_heads) +
           " kv heads, rows " + std::to_string(gap) + " elements apart";
  }
  Index tokens() const { return shape.batch * shape.sequence; }
  Index width() const { return shape.q_width() + 2 * shape.kv_width(); }
};

/// Numbers, and the allowed error of each.
struct Bounded {
  std::vector<double> value, bound;
  explicit Bounded(Index size) : value(static_cast<std::size_t>(size)), bound(value) {}
  void add(Index i, double term, double error) {
    value[static_cast<std::size_t>(i)] += term, bound[static_cast<std::size_t>(i)] += error;
  }
  /// Adds a relative error to every bound, for example that of rounding the result.
  void widen(double relative) {
    for (std::size_t i = 0; i < value.size(); ++i) bound[i] += relative * std::abs(value[i]);
  }
};

/// The largest relative error of rounding to T.
template <class T>
inline constexpr double unit_roundoff = 0x1p-24;
template <>
inline constexpr double unit_roundoff<BFloat16> = 0x1p-8;
template <>
inline constexpr double unit_roundoff<Half> = 0x1p-11;

struct AttentionReference {
  Bounded o, lse, grad_qkv;
};

/// Inputs are dense: qkv [tokens, width], grad_o [tokens, q_width]. The backward pass uses the
/// given o and lse, as the kernels do. With `by_library` the bounds allow for more rounding to T:
/// of all operands, and of each query head's gradient before the heads that share a kv head are
/// summed, `shared_roundings` times.
template <class T>
AttentionReference attention_reference(const AttentionCase& c, const std::vector<double>& qkv,
                                       const std::vector<double>& grad_o,
                                       const std::vector<double>* given_o = nullptr,
                                       const std::vector<double>* given_lse = nullptr,
                                       bool by_library = false, int shared_roundings = 1) {
  const AttentionShape& s = c.shape;
  const double u = 0x1p-24, ut = unit_roundoff<T>;
  const double operand =
      std::is_same_v<T, BFloat16> || by_library ? ut : 0.0;  // the tensor cores round p and ds
  const double tiny =
      std::is_same_v<T, Half> && by_library ? 0x1p-25 : 0.0;  // below Half's smallest normal number
  const double shared = by_library && s.group() > 1 ? shared_roundings * ut : 0.0;
  const double scale = 1.0 / std::sqrt(static_cast<double>(s.head_size)),
               d = static_cast<double>(s.head_size);
  const double terms = static_cast<double>(s.sequence * s.group());
  AttentionReference r{Bounded(c.tokens() * s.q_width()), Bounded(s.statistics()),
                       Bounded(c.tokens() * c.width())};
  const auto at = [](const std::vector<double>& x, Index i) {
    return x[static_cast<std::size_t>(i)];
  };
  std::vector<double> score(static_cast<std::size_t>(s.sequence)), score_error(score);
  for (Index b = 0; b < s.batch; ++b)
    for (Index h = 0; h < s.heads; ++h)
      for (Index i = 0; i < s.sequence; ++i) {
        const Index token = b * s.sequence + i;
        const Index q = token * c.width() + h * s.head_size,
                    o = token * s.q_width() + h * s.head_size;
        const auto key = [&](Index j) {
          return (b * s.sequence + j) * c.width() + s.q_width() + h / s.group() * s.head_size;
        };
        double largest = -std::numeric_limits<double>::infinity(), error = 0.0;
        for (Index j = 0; j <= i; ++j) {
          double sum = 0.0, size = 0.0;
          for (Index e = 0; e < s.head_size; ++e) {
            const double term = at(qkv, q + e) * at(qkv, key(j) + e);
            sum += term, size += std::abs(term);
          }
          // Errors: a sum of d terms, the scale factor, and an exponential of 2 ulp with a rounded
          // argument.
          score[static_cast<std::size_t>(j)] = scale * sum;
          score_error[static_cast<std::size_t>(j)] = (d + 6) * u * scale * size + 8 * u;
          largest = std::max(largest, scale * sum);
          error = std::max(error, score_error[static_cast<std::size_t>(j)]);
        }
        double total = 0.0;
        for (Index j = 0; j <= i; ++j)
          total += std::exp(score[static_cast<std::size_t>(j)] - largest);
        const double lse = largest + std::log(total);
        const Index statistic = (b * s.heads + h) * s.sequence + i;
        r.lse.add(statistic, lse,
                  error + (terms + 8) * u + 4 * u * (std::abs(largest) + std::abs(lse)));
        for (Index j = 0; j <= i; ++j) {
          const double p = std::exp(score[static_cast<std::size_t>(j)] - lse);
          for (Index e = 0; e < s.head_size; ++e) {
            const double term = p * at(qkv, key(j) + s.kv_width() + e);
            r.o.add(o + e, term,
                    std::abs(term) * (2 * error + operand + (2 * terms + 8) * u) +
                        tiny * std::abs(at(qkv, key(j) + s.kv_width() + e)));
          }
        }

        double delta = 0.0, delta_error = 0.0;
        const double shift = given_lse ? at(*given_lse, statistic) : lse;
        for (Index e = 0; e < s.head_size; ++e) {
          const double term =
              at(grad_o, o + e) * (given_o ? at(*given_o, o + e) : at(r.o.value, o + e));
          delta += term, delta_error += (d + 2) * u * std::abs(term);
        }
        for (Index j = 0; j <= i; ++j) {
          const double p = std::exp(score[static_cast<std::size_t>(j)] - shift);
          const double p_error = score_error[static_cast<std::size_t>(j)] + 4 * u * std::abs(shift);
          double dp = 0.0, dp_error = delta_error;
          for (Index e = 0; e < s.head_size; ++e) {
            const double term = at(grad_o, o + e) * at(qkv, key(j) + s.kv_width() + e);
            dp += term, dp_error += (d + 2) * u * std::abs(term);
          }
          const double ds = p * (dp - delta) * scale;
          const double ds_error =
              std::abs(ds) * (p_error + operand + (terms + 8) * u) + p * scale * dp_error + tiny;
          for (Index e = 0; e < s.head_size; ++e) {
            const double k = at(qkv, key(j) + e), x = at(qkv, q + e), g = at(grad_o, o + e);
            r.grad_qkv.add(q + e, ds * k, ds_error * std::abs(k));
            r.grad_qkv.add(key(j) + e, ds * x, ds_error * std::abs(x) + shared * std::abs(ds * x));
            r.grad_qkv.add(key(j) + s.kv_width() + e, p * g,
                           std::abs(p * g) * (p_error + operand + shared + (terms + 8) * u) +
                               tiny * std::abs(g));
          }
        }
      }
  // The result is rounded to T. Below T's normal numbers the error is half of the last place.
  for (Bounded* x : {&r.o, &r.grad_qkv}) {
    x->widen(ut);
    if (std::is_same_v<T, Half>)
      for (double& bound : x->bound) bound += 0x1p-25;
  }
  return r;
}

/// Rows of T with `gap` elements between them. Everything starts as NaN.
template <class T>
struct GappedRows {
  GappedRows(Index rows, Index columns, Index gap)
      : rows_(rows),
        columns_(columns),
        stride_(columns + gap),
        elements(static_cast<std::size_t>(std::max(Index(0), rows * stride_ - gap)),
                 cuda::from_float<T>(std::numeric_limits<float>::quiet_NaN())) {}

  cuda::Rows<T> rows() { return {elements.data(), stride_}; }
  cuda::Rows<const T> rows() const { return {elements.data(), stride_}; }

  /// Fills the rows with random numbers in [-1, 1), rounded to T. Returns the numbers.
  std::vector<double> fill(std::mt19937_64& random, double factor = 1.0) {
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    std::vector<double> values;
    for (Index i = 0; i < rows_; ++i)
      for (Index j = 0; j < columns_; ++j) {
        T& element = elements[static_cast<std::size_t>(i * stride_ + j)];
        element = cuda::from_float<T>(static_cast<float>(factor) * uniform(random));
        values.push_back(static_cast<double>(cuda::to_float(element)));
      }
    return values;
  }
  std::vector<double> dense() const {
    std::vector<double> values;
    for (Index i = 0; i < rows_; ++i)
      for (Index j = 0; j < columns_; ++j)
        values.push_back(static_cast<double>(
            cuda::to_float(elements[static_cast<std::size_t>(i * stride_ + j)])));
    return values;
  }
  bool gaps_are_untouched() const {
    for (std::size_t i = 0; i < elements.size(); ++i)
      if (static_cast<Index>(i) % stride_ >= columns_ && !std::isnan(cuda::to_float(elements[i])))
        return false;
    return true;
  }

 private:
  Index rows_, columns_, stride_;

 public:
  std::vector<T> elements;
};

/// Returns an empty string if all numbers are within their bounds; otherwise the worst one.
inline std::string problem(const char* what, const std::vector<double>& got,
                           const Bounded& wanted) {
  double worst = 1.0;
  std::string text;
  for (std::size_t i = 0; i < wanted.value.size(); ++i) {
    const double error = std::abs(got[i] - wanted.value[i]) / wanted.bound[i];
    if (error <= worst) continue;
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
    text = std::string(what) + "[" + std::to_string(i) + "] is " + std::to_string(got[i]) +
           ", not " + std::to_string(wanted.value[i]) + ": " + std::to_string(error) +
           " times the bound";
  }
  return text;
}

}  // namespace test
