// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Rotary position embedding in the half-split layout of Hugging Face's LLaMA ("rotate half").
// Source: Su et al., "RoFormer" (arXiv 2104.09864).
#pragma once

#include <cmath>
#include <string>
#include <utility>

#include "dropbp/kernels/cpu/rope.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Tables of cos and sin of the angles position / theta^(2 i / head_size), [max_sequence,
/// head_size / 2], computed in double on the host. T is the scalar type of the rows that are
/// rotated.
template <class T, class Backend = Cpu>
class RopeTable {
 public:
  using Element = Statistic<T>;  ///< scalar type of the tables

  /// Throws std::invalid_argument for an odd head_size.
  RopeTable(Index max_sequence, Index head_size, double theta = 10000.0) {
    Matrix<Element> cosine(max_sequence, half_of(head_size)), sine(max_sequence, head_size / 2);
    for (Index position = 0; position < max_sequence; ++position)
      for (Index i = 0; i < head_size / 2; ++i) {
        const double frequency =
            std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_size));
        const double angle = static_cast<double>(position) * frequency;
        cosine.row(position)[i] = static_cast<Element>(std::cos(angle));
        sine.row(position)[i] = static_cast<Element>(std::sin(angle));
      }
    cosine_ = moved_to<Backend>(std::move(cosine)), sine_ = moved_to<Backend>(std::move(sine));
  }

  Index max_sequence() const noexcept { return cosine_.rows(); }      ///< number of positions
  Index head_size() const noexcept { return 2 * cosine_.columns(); }  ///< elements per head
  /// Cosines from `position` on: [max_sequence - position, head_size / 2], in the backend's memory.
  const Element* cosine(Index position = 0) const noexcept { return cosine_.row(position); }
  /// Sines from `position` on: [max_sequence - position, head_size / 2], in the backend's memory.
  const Element* sine(Index position = 0) const noexcept { return sine_.row(position); }

 private:
  static Index half_of(Index head_size) {
    if (head_size <= 0 || head_size % 2 != 0)
      detail::throw_invalid(
          "rotary embedding pairs the halves of a head, so head_size must be even",
          std::to_string(head_size) + " was given", "choose hidden and heads accordingly");
    return head_size / 2;
  }

  Matrix<Element, Backend> cosine_, sine_;
};

/// Rotates, in place, the first `heads` heads of each row of x [batch * sequence, >= heads *
/// head_size]. Row t has position first + t % sequence.
template <class T, class Backend = Cpu>
void rope(MatrixView<T, Backend> x, const RopeTable<T, Backend>& table, Index heads, Index sequence,
          Rotation rotation, Index first = 0) {
  kernels<op::rope, T, Backend>::run(x, table.cosine(first), table.sine(first), heads,
                                     table.head_size() / 2, sequence, rotation);
}

}  // namespace ops
DROPBP_NAMESPACE_END
