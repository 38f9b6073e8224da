// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Rotary position embedding in the half-split layout of Hugging Face's LLaMA ("rotate half").
// Source: Su et al., "RoFormer" (arXiv 2104.09864).
#pragma once

#include <cmath>
#include <string>

#include "dropbp/ops/matrix.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Cosines and sines of the angles position / theta^(2 i / head_size), [max_sequence, head_size /
/// 2], computed in double. T is that of the rows that are rotated.
template <class T, class Backend = Cpu>
class RopeTable;

/// For host memory.
template <class T>
class RopeTable<T, Cpu> {
 public:
  /// Throws std::invalid_argument for an odd head_size.
  RopeTable(Index max_sequence, Index head_size, double theta = 10000.0)
      : cosine_(max_sequence, half_of(head_size)), sine_(max_sequence, head_size / 2) {
    for (Index position = 0; position < max_sequence; ++position)
      for (Index i = 0; i < head_size / 2; ++i) {
        const double frequency =
            std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_size));
        const double angle = static_cast<double>(position) * frequency;
        cosine_.row(position)[i] = static_cast<T>(std::cos(angle));
        sine_.row(position)[i] = static_cast<T>(std::sin(angle));
      }
  }

  Index max_sequence() const noexcept { return cosine_.rows(); }      ///< positions
  Index head_size() const noexcept { return 2 * cosine_.columns(); }  ///< elements of a head
  /// [head_size / 2].
  const T* cosine(Index position) const noexcept { return cosine_.row(position); }
  const T* sine(Index position) const noexcept { return sine_.row(position); }  ///< [head_size / 2]

 private:
  static Index half_of(Index head_size) {
    if (head_size <= 0 || head_size % 2 != 0)
      detail::throw_invalid(
          "rotary embedding pairs the halves of a head, so head_size must be even",
          std::to_string(head_size) + " was given", "choose hidden and heads accordingly");
    return head_size / 2;
  }

  Matrix<T> cosine_, sine_;
};

enum class Rotation {
  forward,
  inverse
};  ///< the inverse is the backward pass: rotations are orthogonal

/// Rotates, in place, the first `heads` heads of each row of x [batch * sequence, >= heads *
/// head_size]; row t stands at position t % sequence.
template <class T>
void rope(MatrixView<T> x, const RopeTable<T>& table, Index heads, Index sequence,
          Rotation rotation) {
  const Index half = table.head_size() / 2;
  const T sign = rotation == Rotation::forward ? T(1) : T(-1);
  parallel_for(x.rows, heads * 2 * half, [&](Index t) {
    const T* const cosine = table.cosine(t % sequence);
    const T* const sine = table.sine(t % sequence);
    for (Index head = 0; head < heads; ++head) {
      T* const first = x.row(t) + head * 2 * half;
      T* const second = first + half;
      for (Index i = 0; i < half; ++i) {
        const T a = first[i], b = second[i], s = sign * sine[i];
        first[i] = a * cosine[i] - b * s;
        second[i] = b * cosine[i] + a * s;
      }
    }
  });
}

}  // namespace ops
DROPBP_NAMESPACE_END
