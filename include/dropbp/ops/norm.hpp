// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An RMSNorm that owns its weight: of whole rows or of each head in a row; a branch may be without.
#pragma once

#include <concepts>
#include <string>
#include <utility>

#include "dropbp/ops/elementwise.hpp"
#include "dropbp/ops/rms_norm.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// The weight [1, width] with eps and offset: y = (weight + offset) * x / sqrt(mean(x^2) + eps).
/// Gemma's norms have the offset 1, others 0. Rows of k * width columns are k groups, each of which
/// is normalised by itself with the same weight, as Qwen3 does with the heads of a row. rstd
/// [groups, rows] goes from forward to backward. A norm without a name does not exist: it has no
/// weight and must not be run.
template <class T, class Backend = Cpu>
class Norm : public Parameter<T, Backend> {
 public:
  using View = MatrixView<T, Backend>;               ///< of outputs
  using ConstView = MatrixView<const T, Backend>;    ///< of inputs
  using Statistics = Matrix<Statistic<T>, Backend>;  ///< rstd

  /// The values are not initialised. Throws std::invalid_argument for an offset where T is narrower
  /// than float or lives on a device: weight + offset would be rounded, and there is no kernel.
  Norm(std::string name, Index width, double eps, double offset = 0.0)
      : Parameter<T, Backend>(name, name.empty() ? 0 : 1, checked(offset, width)),
        eps_(eps),
        offset_(offset) {
    this->trained = exists();
  }

  bool exists() const noexcept { return this->rows() > 0; }  ///< whether it has a name
  /// Number of groups in a row of `columns` elements.
  Index groups(Index columns) const noexcept { return columns / this->columns(); }

  /// y = norm(x), which may be x itself.
  void forward(View y, Statistics& rstd, ConstView x, BasicMemoryPool<Backend>& workspace) const {
    const Applied weight(*this, workspace);
    for_each_group(x.columns, [&](Index group, Index first) {
      rms_norm_forward(y.columns_from(first, this->columns()), rstd.row(group),
                       x.columns_from(first, this->columns()), weight.data(), eps_);
    });
  }

  /// The same y with the same bits, from rstd.
  void recompute(View y, ConstView x, const Statistics& rstd,
                 BasicMemoryPool<Backend>& workspace) const {
    const Applied weight(*this, workspace);
    for_each_group(x.columns, [&](Index group, Index first) {
      rms_norm_recompute(y.columns_from(first, this->columns()),
                         x.columns_from(first, this->columns()), weight.data(), rstd.row(group));
    });
  }

  /// grad_input (=|+=) the gradient of x, skipped if grad_input.data is null; also computes the
  /// gradient of a trained weight. See rms_norm_backward.
  void backward(View grad_input, Accumulate mode, ConstView grad_output, ConstView x,
                const Statistics& rstd, BasicMemoryPool<Backend>& workspace) {
    const Applied weight(*this, workspace);
    for_each_group(x.columns, [&](Index group, Index first) {
      const View to =
          grad_input.data == nullptr ? grad_input : grad_input.columns_from(first, this->columns());
      rms_norm_backward(to, mode, grad_output.columns_from(first, this->columns()),
                        x.columns_from(first, this->columns()), *this, rstd.row(group), workspace,
                        weight.data());
    });
  }

 private:
  static constexpr bool can_offset = std::same_as<Backend, Cpu> && sizeof(T) >= sizeof(float);

  static Index checked(double offset, Index width) {
    if (offset != 0.0 && !can_offset)
      detail::throw_invalid("a norm with an offset is computed on the CPU in float or double",
                            "another device or type was given",
                            "run this model on the CPU in float");
    return width;
  }

  // weight + offset, computed once for all rows.
  class Applied {
   public:
    Applied(const Norm& norm, BasicMemoryPool<Backend>& workspace) : weight_(norm.value().data) {
      if constexpr (can_offset) {
        if (norm.offset_ == 0.0) return;
        sum_ = Matrix<T, Backend>(1, norm.columns(), workspace);
        for (Index j = 0; j < norm.columns(); ++j)
          sum_.data()[j] = static_cast<T>(norm.offset_) + weight_[j];
        weight_ = sum_.data();
      }
    }
    const T* data() const noexcept { return weight_; }

   private:
    Matrix<T, Backend> sum_;
    const T* weight_;
  };

  template <class Visit>
  void for_each_group(Index columns, const Visit& visit) const {
    for (Index group = 0; group < groups(columns); ++group) visit(group, group * this->columns());
  }

  double eps_;
  double offset_;
};

/// The norms of the query and key heads in fused rows, or none: of each head where the weights are
/// as wide as a head, else of the whole row of heads.
template <class T, class Backend = Cpu>
struct HeadNorms {
  using View = MatrixView<T, Backend>;  ///< of fused rows

  /// What backward needs.
  struct Saved {
    Matrix<T, Backend> x;                  ///< [tokens, q_width + kv_width]
    Matrix<Statistic<T>, Backend> q_rstd;  ///< [groups, tokens]
    Matrix<Statistic<T>, Backend> k_rstd;  ///< [groups, tokens]
  };

  Norm<T, Backend> q;  ///< [1, head_size or q_width]
  Norm<T, Backend> k;  ///< [1, head_size or kv_width]

  /// Whether there are such norms.
  bool exists() const noexcept { return q.exists(); }
  /// Whether one of the weights is trained.
  bool trained() const noexcept { return q.trained || k.trained; }

  /// Normalises the q and k heads of qkv in place. `saved` gets memory from `pool`.
  void forward(View qkv, const HeadLayout& layout, Saved& saved, BasicMemoryPool<Backend>& pool,
               BasicMemoryPool<Backend>& workspace) const {
    if (!exists()) return;
    const Index q_width = layout.q_width(), kv_width = layout.kv_width();
    saved.x = {qkv.rows, q_width + kv_width, pool};
    saved.q_rstd = {q.groups(q_width), qkv.rows, pool};
    saved.k_rstd = {k.groups(kv_width), qkv.rows, pool};
    copy<T>(saved.x.view(), qkv.columns_from(0, q_width + kv_width));
    const View x = saved.x.view();
    q.forward(qkv.columns_from(0, q_width), saved.q_rstd, x.columns_from(0, q_width), workspace);
    k.forward(qkv.columns_from(q_width, kv_width), saved.k_rstd, x.columns_from(q_width, kv_width),
              workspace);
  }

  /// Replaces the gradient of the normalised heads by that of the heads, in place; also computes
  /// the gradients of trained weights.
  void backward(View grad_qkv, const HeadLayout& layout, const Saved& saved,
                BasicMemoryPool<Backend>& workspace) {
    if (!exists()) return;
    const Index q_width = layout.q_width(), kv_width = layout.kv_width();
    Matrix<T, Backend> grad(grad_qkv.rows, q_width + kv_width, workspace);
    const MatrixView<T, Backend> grads = grad.view();
    const MatrixView<const T, Backend> x = saved.x.view();
    copy<T>(grads, grad_qkv.columns_from(0, q_width + kv_width));
    q.backward(grad_qkv.columns_from(0, q_width), Accumulate::overwrite,
               grads.columns_from(0, q_width), x.columns_from(0, q_width), saved.q_rstd, workspace);
    k.backward(grad_qkv.columns_from(q_width, kv_width), Accumulate::overwrite,
               grads.columns_from(q_width, kv_width), x.columns_from(q_width, kv_width),
               saved.k_rstd, workspace);
  }
};

}  // namespace ops
DROPBP_NAMESPACE_END
