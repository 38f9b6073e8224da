// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The ops of this folder for memory that the host cannot touch: the same functions, chosen by the
// views' backend. What they compute is said at the functions for host memory; here is only how they
// reach a backend's kernels.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "dropbp/backend/cuda/segments.hpp"
#include "dropbp/backend/products.hpp"
#include "dropbp/ops/adamw.hpp"
#include "dropbp/ops/attention.hpp"
#include "dropbp/ops/cross_entropy.hpp"
#include "dropbp/ops/embedding.hpp"
#include "dropbp/ops/lora.hpp"
#include "dropbp/ops/nf4.hpp"
#include "dropbp/ops/product.hpp"
#include "dropbp/ops/rms_norm.hpp"
#include "dropbp/ops/rope.hpp"
#include "dropbp/ops/swiglu.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {
namespace detail {

// Which code computes attention: a library's where it takes the shape (device_attention), or ours.
enum class AttentionCode : std::uint8_t { library, own };

// Where the ops of one backend and scalar are: declared here for any compiler, defined in
// device_kernels.hpp, compiled once for a whole program, by the compiler of that backend (for CUDA:
// DROPBP_INSTANTIATE_CUDA in one .cu file). All of them work in the order of the current stream;
// only what says so waits for it.
template <class T, DeviceBackend Backend>
struct device_ops {
  static_assert(
      cuda::Scalar<T>,
      "dropbp: the ops of a device are there for float, dropbp::BFloat16 and dropbp::Half");

  using View = MatrixView<T, Backend>;
  using ConstView = MatrixView<const T, Backend>;

  static void copy(View to, ConstView from);
  static void set_zero(View y);
  static void add(View y, ConstView x);
  static void multiply(View y, float factor);
  static void convert_from(View to, MatrixView<const float, Backend> from);
  static void convert_to(MatrixView<float, Backend> to, ConstView from);
  static void dropout(View y, ConstView x, double rate, const TrainingMoment& moment,
                      std::uint64_t stream);
  static void product(GemmLayout layout, View c, ConstView a, ConstView b, Accumulate mode);
  static void rms_norm_forward(View y, float* rstd, ConstView x, const T* w, double eps);
  static void rms_norm_recompute(View y, ConstView x, const T* w, const float* rstd);
  // grad_weight null: frozen.
  static void rms_norm_backward(View grad_input, Accumulate mode, ConstView grad_output,
                                ConstView x, const T* w, const float* rstd, T* grad_weight,
                                Accumulate weight_mode, BasicMemoryPool<Backend>& workspace);
  static void rope(View x, const float* cosine, const float* sine, Index heads, Index half,
                   Index sequence, bool inverse);
  // Both return what has run.
  static AttentionCode attention_forward(View o, float* lse, ConstView qkv,
                                         const HeadLayout& layout, const SequenceShape& shape,
                                         AttentionCode wanted = AttentionCode::library);
  static AttentionCode attention_backward(View grad_qkv, ConstView grad_o, ConstView qkv,
                                          ConstView o, const float* lse, const HeadLayout& layout,
                                          const SequenceShape& shape,
                                          AttentionCode wanted = AttentionCode::library);
  static void swiglu_forward(View out, ConstView gate_up);
  static void swiglu_backward(View grad_gate_up, View out_gradient, ConstView gate_up);
  static void embedding_forward(View out, std::span<const std::int32_t> tokens, ConstView weight);
  static void embedding_backward(View gradient, Accumulate mode, ConstView grad_output,
                                 std::span<const std::int32_t> tokens);
  static void cross_entropy_rows(View logits, float* losses, const std::int32_t* targets,
                                 std::int32_t ignored, double divisor, bool keep);
  static void nf4_expand(View to, Index first, const std::uint8_t* codes,
                         const std::uint8_t* scales, const float* group_scales, float offset);
  static void adamw(std::span<cuda::UpdateSegment<T>> segments, const AdamWOptions& options,
                    double gradient_factor);
  static void accumulate(T* y, const T* x, std::size_t n);
  static void scale(T* y, double factor, std::size_t n);
  // Waits for the stream.
  static double squared_distance(const T* x, const T* y, std::size_t n);
  // Of each tensor; waits for the stream.
  static std::vector<double> squared_norms(std::span<const DeviceSpan<const T, Backend>> tensors);
};

}  // namespace detail

// ---- element by element

template <class T, DeviceBackend Backend>
void copy(MatrixView<T, Backend> to, std::type_identity_t<MatrixView<const T, Backend>> from) {
  detail::device_ops<T, Backend>::copy(to, from);
}

template <class T, DeviceBackend Backend>
void set_zero(MatrixView<T, Backend> y) {
  detail::device_ops<T, Backend>::set_zero(y);
}

template <class T, DeviceBackend Backend>
void add(MatrixView<T, Backend> y, std::type_identity_t<MatrixView<const T, Backend>> x) {
  detail::device_ops<T, Backend>::add(y, x);
}

template <class T, DeviceBackend Backend>
void multiply(MatrixView<T, Backend> y, double factor) {
  detail::device_ops<T, Backend>::multiply(y, static_cast<float>(factor));
}

/// Returns when `from` may change.
template <class T, DeviceBackend Backend>
void upload(MatrixView<T, Backend> to, MatrixView<const float> from) {
  Matrix<float, Backend> staged(from.rows, from.columns);
  for (Index i = 0; i < from.rows; i += from.stride == from.columns ? from.rows : 1) {
    const Index rows = from.stride == from.columns ? from.rows : 1;
    device_runtime<Backend>::copy_to_device(
        staged.row(i), from.row(i), static_cast<std::size_t>(rows * from.columns) * sizeof(float));
  }
  detail::device_ops<T, Backend>::convert_from(to, std::as_const(staged).view());
}

template <class T, DeviceBackend Backend>
void download(MatrixView<float> to, MatrixView<T, Backend> from) {
  Matrix<float, Backend> staged(from.rows, from.columns);
  detail::device_ops<std::remove_const_t<T>, Backend>::convert_to(staged.view(), from);
  for (Index i = 0; i < to.rows; i += to.stride == to.columns ? to.rows : 1) {
    const Index rows = to.stride == to.columns ? to.rows : 1;
    device_runtime<Backend>::copy_to_host(
        to.row(i), staged.row(i), static_cast<std::size_t>(rows * to.columns) * sizeof(float));
  }
}

template <class T, DeviceBackend Backend>
void dropout(MatrixView<T, Backend> y, std::type_identity_t<MatrixView<const T, Backend>> x,
             double rate, const TrainingMoment& moment, std::uint64_t stream) {
  detail::device_ops<T, Backend>::dropout(y, x, rate, moment, stream);
}

// ---- products

namespace detail {

template <class T, class Backend>
void device_product(GemmLayout layout, MatrixView<T, Backend> c, MatrixView<const T, Backend> a,
                    MatrixView<const T, Backend> b, Accumulate mode) {
  require_product(layout == GemmLayout::tn, layout == GemmLayout::nt, c, a, b);
  device_ops<T, Backend>::product(layout, c, a, b, mode);
}

}  // namespace detail

template <class T, DeviceBackend Backend>
void gemm_nt(MatrixView<T, Backend> c, std::type_identity_t<MatrixView<const T, Backend>> a,
             std::type_identity_t<MatrixView<const T, Backend>> b,
             Accumulate mode = Accumulate::overwrite) {
  detail::device_product<T>(GemmLayout::nt, c, a, b, mode);
}
template <class T, DeviceBackend Backend>
void gemm_nn(MatrixView<T, Backend> c, std::type_identity_t<MatrixView<const T, Backend>> a,
             std::type_identity_t<MatrixView<const T, Backend>> b,
             Accumulate mode = Accumulate::overwrite) {
  detail::device_product<T>(GemmLayout::nn, c, a, b, mode);
}
template <class T, DeviceBackend Backend>
void gemm_tn(MatrixView<T, Backend> c, std::type_identity_t<MatrixView<const T, Backend>> a,
             std::type_identity_t<MatrixView<const T, Backend>> b,
             Accumulate mode = Accumulate::overwrite) {
  detail::device_product<T>(GemmLayout::tn, c, a, b, mode);
}

// ---- norms, rotation, attention, gates

template <class T, DeviceBackend Backend>
void rms_norm_forward(MatrixView<T, Backend> y, float* rstd,
                      std::type_identity_t<MatrixView<const T, Backend>> x, const T* w,
                      double eps) {
  detail::device_ops<T, Backend>::rms_norm_forward(y, rstd, x, w, eps);
}

template <class T, DeviceBackend Backend>
void rms_norm_recompute(MatrixView<T, Backend> y,
                        std::type_identity_t<MatrixView<const T, Backend>> x, const T* w,
                        const float* rstd) {
  detail::device_ops<T, Backend>::rms_norm_recompute(y, x, w, rstd);
}

template <class T, DeviceBackend Backend>
void rms_norm_backward(MatrixView<T, Backend> grad_input, Accumulate mode,
                       std::type_identity_t<MatrixView<const T, Backend>> grad_output,
                       std::type_identity_t<MatrixView<const T, Backend>> x,
                       Parameter<T, Backend>& weight, const float* rstd,
                       BasicMemoryPool<Backend>& workspace) {
  const Accumulate weight_mode = weight.trained ? weight.begin_gradient() : Accumulate::overwrite;
  detail::device_ops<T, Backend>::rms_norm_backward(
      grad_input, mode, grad_output, x, weight.value().data, rstd,
      weight.trained ? weight.gradient().data : nullptr, weight_mode, workspace);
}

/// The table of RopeTable<float>, on the device.
template <class T, DeviceBackend Backend>
class RopeTable<T, Backend> {
 public:
  /// Throws std::invalid_argument for an odd head_size.
  RopeTable(Index max_sequence, Index head_size, double theta = 10000.0)
      : cosine_(max_sequence, head_size / 2), sine_(max_sequence, head_size / 2) {
    const RopeTable<float> host(max_sequence, head_size, theta);
    const std::size_t bytes = cosine_.size() * sizeof(float);
    if (bytes == 0) return;
    device_runtime<Backend>::copy_to_device(cosine_.data(), host.cosine(0), bytes);
    device_runtime<Backend>::copy_to_device(sine_.data(), host.sine(0), bytes);
  }

  Index max_sequence() const noexcept { return cosine_.rows(); }      ///< positions
  Index head_size() const noexcept { return 2 * cosine_.columns(); }  ///< elements of a head
  /// [max_sequence, head_size / 2].
  const float* cosine() const noexcept { return cosine_.data(); }
  const float* sine() const noexcept { return sine_.data(); }  ///< [max_sequence, head_size / 2]

 private:
  Matrix<float, Backend> cosine_, sine_;
};

template <class T, DeviceBackend Backend>
void rope(MatrixView<T, Backend> x, const RopeTable<T, Backend>& table, Index heads, Index sequence,
          Rotation rotation) {
  detail::device_ops<T, Backend>::rope(x, table.cosine(), table.sine(), heads,
                                       table.head_size() / 2, sequence,
                                       rotation == Rotation::inverse);
}

template <class T, DeviceBackend Backend>
void attention_forward(MatrixView<T, Backend> o, float* lse,
                       std::type_identity_t<MatrixView<const T, Backend>> qkv,
                       const HeadLayout& layout, const SequenceShape& shape) {
  detail::device_ops<T, Backend>::attention_forward(o, lse, qkv, layout, shape);
}

template <class T, DeviceBackend Backend>
void attention_backward(MatrixView<T, Backend> grad_qkv,
                        std::type_identity_t<MatrixView<const T, Backend>> grad_o,
                        std::type_identity_t<MatrixView<const T, Backend>> qkv,
                        std::type_identity_t<MatrixView<const T, Backend>> o, const float* lse,
                        const HeadLayout& layout, const SequenceShape& shape) {
  detail::device_ops<T, Backend>::attention_backward(grad_qkv, grad_o, qkv, o, lse, layout, shape);
}

template <class T, DeviceBackend Backend>
void swiglu_forward(MatrixView<T, Backend> out,
                    std::type_identity_t<MatrixView<const T, Backend>> gate_up) {
  detail::device_ops<T, Backend>::swiglu_forward(out, gate_up);
}

template <class T, DeviceBackend Backend>
void swiglu_backward(MatrixView<T, Backend> grad_gate_up,
                     std::type_identity_t<MatrixView<T, Backend>> out_gradient,
                     std::type_identity_t<MatrixView<const T, Backend>> gate_up) {
  detail::device_ops<T, Backend>::swiglu_backward(grad_gate_up, out_gradient, gate_up);
}

// ---- the ends of a model

template <class T, DeviceBackend Backend>
void embedding_forward(MatrixView<T, Backend> out, std::span<const std::int32_t> tokens,
                       const Parameter<T, Backend>& weight) {
  detail::require_tokens(tokens, weight.rows());
  detail::require_rows("the embedding's output", out.rows, tokens.size());
  detail::device_ops<T, Backend>::embedding_forward(out, tokens, weight.value());
}

template <class T, DeviceBackend Backend>
void embedding_backward(MatrixView<const T, Backend> grad_output,
                        std::span<const std::int32_t> tokens, Parameter<T, Backend>& weight) {
  detail::require_tokens(tokens, weight.rows());
  detail::require_rows("the embedding's grad_output", grad_output.rows, tokens.size());
  if (!weight.trained) return;
  device_runtime<Backend>::require_no_capture("an embedding's gradient");  // before it begins
  const Accumulate mode = weight.begin_gradient();
  detail::device_ops<T, Backend>::embedding_backward(weight.gradient(), mode, grad_output, tokens);
}

template <class T, DeviceBackend Backend>
void embedding_backward(MatrixView<T, Backend> grad_output, std::span<const std::int32_t> tokens,
                        Parameter<T, Backend>& weight) {
  embedding_backward(MatrixView<const T, Backend>(grad_output), tokens, weight);
}

template <class T, DeviceBackend Backend>
void cross_entropy_rows(MatrixView<T, Backend> logits, float* losses, const std::int32_t* targets,
                        std::int32_t ignored, double divisor, bool keep) {
  detail::device_ops<T, Backend>::cross_entropy_rows(logits, losses, targets, ignored, divisor,
                                                     keep);
}

// ---- weights

/// A quantised matrix on the device. It is quantised on the host: one weight at a time is in the
/// host's memory.
template <DeviceBackend Backend>
class BasicNf4Matrix<Backend> {
 public:
  BasicNf4Matrix() = default;  ///< [0, 0]

  /// Throws what Nf4Matrix::quantize does.
  static BasicNf4Matrix quantize(MatrixView<const float> values,
                                 const std::string& name = "a matrix") {
    const Nf4Matrix host = Nf4Matrix::quantize(values, name);
    BasicNf4Matrix result;
    result.rows_ = host.rows(), result.columns_ = host.columns(), result.offset_ = host.offset();
    result.codes_ = uploaded(host.codes()), result.scales_ = uploaded(host.scales());
    result.group_scales_ = uploaded(host.group_scales());
    return result;
  }

  /// The same codes and scales, in memory of their own.
  BasicNf4Matrix clone() const {
    BasicNf4Matrix copy;
    copy.rows_ = rows_, copy.columns_ = columns_, copy.offset_ = offset_;
    copy.codes_ = copied(codes_), copy.scales_ = copied(scales_),
    copy.group_scales_ = copied(group_scales_);
    return copy;
  }

  Index rows() const noexcept { return rows_; }        ///< number of rows
  Index columns() const noexcept { return columns_; }  ///< elements of a row
  /// Of codes, scales, their floats and the mean.
  std::size_t bytes() const noexcept { return Nf4Matrix::bytes(rows_, columns_); }

  /// All elements.
  template <class T>
  void dequantize(MatrixView<T, Backend> to) const {
    dequantize_rows(0, rows_, to);
  }

  /// `count` rows from `first` on, into as many.
  template <class T>
  void dequantize_rows(Index first, Index count, MatrixView<T, Backend> to) const {
    if (first < 0 || count < 0 || first > rows_ - count || to.rows != count ||
        to.columns != columns_)
      detail::throw_invalid("rows of a quantised matrix " + detail::shape_text(rows_, columns_) +
                                " go to a view of as many rows and all columns",
                            std::to_string(count) + " from " + std::to_string(first) + " to " +
                                detail::shape_text(to.rows, to.columns) + " was asked for",
                            "ask for rows it has");
    detail::device_ops<T, Backend>::nf4_expand(to, first, codes_.data(), scales_.data(),
                                               group_scales_.data(), offset_);
  }

 private:
  template <class E>
  static Matrix<E, Backend> uploaded(const Matrix<E>& host) {
    Matrix<E, Backend> copy(host.rows(), host.columns());
    if (host.size() > 0)
      device_runtime<Backend>::copy_to_device(copy.data(), host.data(), host.size() * sizeof(E));
    return copy;
  }
  template <class E>
  static Matrix<E, Backend> copied(const Matrix<E, Backend>& from) {
    Matrix<E, Backend> copy(from.rows(), from.columns());
    device_runtime<Backend>::copy(copy.data(), from.data(), from.size() * sizeof(E));
    return copy;
  }

  Matrix<std::uint8_t, Backend> codes_, scales_;
  Matrix<float, Backend> group_scales_;
  float offset_ = 0.0f;
  Index rows_ = 0, columns_ = 0;
};

template <class T, DeviceBackend Backend>
void adamw_updates(std::span<Parameter<T, Backend>* const> parameters,
                   std::span<AdamWState<T, Backend>> states, const AdamWOptions& options,
                   double gradient_factor) {
  device_runtime<Backend>::require_no_capture(
      "an AdamW step");  // before steps are counted and states get their memory
  std::vector<cuda::UpdateSegment<T>> segments;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    Parameter<T, Backend>& parameter = *parameters[i];
    AdamWState<T, Backend>& state = states[i];
    if (!parameter.trained || !parameter.has_gradient()) continue;
    if (state.second_moment.size() != parameter.size()) {  // of both the last to get its memory
      for (auto* moment : {&state.first_moment, &state.second_moment}) {
        *moment = Matrix<float, Backend>(parameter.rows(), parameter.columns());
        device_runtime<Backend>::fill(moment->data(), 0, parameter.size() * sizeof(float));
      }
    }
    if (!std::is_same_v<T, float> && state.master.size() != parameter.size()) {
      state.master = Matrix<float, Backend>(parameter.rows(), parameter.columns());
      detail::device_ops<T, Backend>::convert_to(state.master.view(), parameter.value());
    }
    const auto t = static_cast<double>(++state.steps);
    segments.push_back(
        {.value = parameter.value().data,
         .gradient = parameter.gradient().data,
         .master = state.master.data(),
         .first_moment = state.first_moment.data(),
         .second_moment = state.second_moment.data(),
         .size = static_cast<std::int64_t>(parameter.size()),
         .step_size =
             static_cast<float>(options.learning_rate / (1.0 - std::pow(options.beta1, t))),
         .root_correction = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(options.beta2, t))),
         .keep = static_cast<float>(detail::kept_by_decay(parameter.decays, options)),
         .first_chunk = 0});
  }
  if (!segments.empty()) detail::device_ops<T, Backend>::adamw(segments, options, gradient_factor);
}

template <class T, DeviceBackend Backend>
std::vector<double> squared_gradient_norms(std::span<Parameter<T, Backend>* const> parameters) {
  std::vector<DeviceSpan<const T, Backend>> tensors;
  for (const Parameter<T, Backend>* parameter : parameters)
    tensors.push_back(parameter->trained ? parameter->gradient_elements()
                                         : DeviceSpan<const T, Backend>{});
  return detail::device_ops<T, Backend>::squared_norms(tensors);
}

}  // namespace ops

/// See the primary template. Norms wait for the stream.
template <DeviceBackend Backend, class Scalar>
  requires requires { ops::detail::device_ops<Scalar, Backend>::accumulate; }
struct backend_kernels<Backend, Scalar> {
  /// y += x.
  static void accumulate(Scalar* y, const Scalar* x, std::size_t n) {
    ops::detail::device_ops<Scalar, Backend>::accumulate(y, x, n);
  }
  /// y *= factor.
  static void scale(Scalar* y, double factor, std::size_t n) {
    ops::detail::device_ops<Scalar, Backend>::scale(y, factor, n);
  }
  /// Sum of x^2.
  static double squared_norm(const Scalar* x, std::size_t n) {
    const ops::DeviceSpan<const Scalar, Backend> tensor(x, n);
    return ops::detail::device_ops<Scalar, Backend>::squared_norms({&tensor, 1}).front();
  }
  /// Sum of (x - y)^2.
  static double squared_distance(const Scalar* x, const Scalar* y, std::size_t n) {
    return ops::detail::device_ops<Scalar, Backend>::squared_distance(x, y, n);
  }
};

DROPBP_NAMESPACE_END
