// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Rotary position embedding in the half-split layout of Hugging Face's LLaMA ("rotate half").
// Source: Su et al., "RoFormer" (arXiv 2104.09864).
#pragma once

#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/kernels/cpu/rope.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// Tables of cos and sin of the angles position * frequency, [max_sequence, frequencies], computed
/// in double on the host. T is the scalar type of the rows that are rotated.
template <class T, class Backend = Cpu>
class RopeTable {
 public:
  using Element = Statistic<T>;  ///< scalar type of the tables

  /// The frequencies theta^(-2 i / head_size). Throws std::invalid_argument for an odd head_size.
  RopeTable(Index max_sequence, Index head_size, double theta = 10000.0)
      : RopeTable(max_sequence, frequencies_of(head_size, theta)) {}

  /// Frequencies of one's own, one for each pair of elements that is rotated, in radians a
  /// position. cos and sin are multiplied by `scale`, as YaRN does; the inverse rotation is then
  /// the transpose, not the inverse.
  RopeTable(Index max_sequence, std::span<const double> frequencies, double scale = 1.0) {
    const auto pairs = static_cast<Index>(frequencies.size());
    Matrix<Element> cosine(max_sequence, pairs), sine(max_sequence, pairs);
    for (Index position = 0; position < max_sequence; ++position)
      for (Index i = 0; i < pairs; ++i) {
        const double angle =
            static_cast<double>(position) * frequencies[static_cast<std::size_t>(i)];
        cosine.row(position)[i] = static_cast<Element>(scale * std::cos(angle));
        sine.row(position)[i] = static_cast<Element>(scale * std::sin(angle));
      }
    cosine_ = moved_to<Backend>(std::move(cosine)), sine_ = moved_to<Backend>(std::move(sine));
  }

  Index max_sequence() const noexcept { return cosine_.rows(); }  ///< number of positions
  Index head_size() const noexcept {
    return 2 * cosine_.columns();
  }  ///< rotated elements of a head
  /// Cosines from `position` on: [max_sequence - position, head_size / 2], in the backend's memory.
  const Element* cosine(Index position = 0) const noexcept { return cosine_.row(position); }
  /// Sines from `position` on: [max_sequence - position, head_size / 2], in the backend's memory.
  const Element* sine(Index position = 0) const noexcept { return sine_.row(position); }

 private:
  static std::vector<double> frequencies_of(Index head_size, double theta) {
    if (head_size <= 0 || head_size % 2 != 0)
      detail::throw_invalid(
          "rotary embedding pairs the halves of a head, so head_size must be even",
          std::to_string(head_size) + " was given", "choose hidden and heads accordingly");
    std::vector<double> frequencies;
    for (Index i = 0; i < head_size / 2; ++i)
      frequencies.push_back(
          std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_size)));
    return frequencies;
  }

  Matrix<Element, Backend> cosine_, sine_;
};

/// Rotates, in place, the first `heads` heads of each row of x [batch * sequence, >= heads *
/// head_size]. Row t has position first + t % sequence. Where a head has more than the table's
/// head_size elements, `head_size` says how many: its first ones are rotated, the others stay.
template <class T, class Backend = Cpu>
void rope(MatrixView<T, Backend> x, const RopeTable<T, Backend>& table, Index heads, Index sequence,
          Rotation rotation, Index first = 0, Index head_size = 0) {
  using Kernels = kernels<op::rope, T, Backend>;
  const Index rotated = table.head_size();
  const auto rotate = [&](MatrixView<T, Backend> part, Index count) {
    Kernels::run(part, table.cosine(first), table.sine(first), count, rotated / 2, sequence,
                 rotation);
  };
  if (head_size == 0 || head_size == rotated) return rotate(x, heads);
  for (Index head = 0; head < heads; ++head) rotate(x.columns_from(head * head_size, rotated), 1);
}

}  // namespace ops
DROPBP_NAMESPACE_END
