// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The linear maps of a branch that share an input, fused into one matrix. Dense or in NF4; trained
// directly or through adapters.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dropbp/ops/adapter_places.hpp"
#include "dropbp/ops/bias.hpp"
#include "dropbp/ops/dora.hpp"
#include "dropbp/ops/elementwise.hpp"
#include "dropbp/ops/gemm.hpp"
#include "dropbp/ops/lora.hpp"
#include "dropbp/ops/panels.hpp"
#include "dropbp/ops/parameter.hpp"
#include "dropbp/ops/quantized_base.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// y [tokens, output] = x [tokens, input] W^T, plus a bias where there is one. W stacks the rows of
/// one or more linear maps (for example q_proj, k_proj and v_proj). A LoraConfig may put adapters
/// on some or all of the maps; the adapters of one Projection share the same dropout mask. The
/// weights have the names that the constructor is given ("q_proj.weight"); biases are named
/// "q_proj.bias", adapters "q_proj.lora_A.weight" and "q_proj.lora_B.weight", and their magnitudes
/// "q_proj.lora_magnitude_vector", as in PEFT.
///
/// The owner saves two tensors from forward to backward: the input x, and u [tokens,
/// adapter_width()], the scaled product of the input and lora_a.
template <class T, class Backend = Cpu>
class Projection {
 public:
  using Tensor = Matrix<T, Backend>;                  ///< temporary tensors
  using View = MatrixView<T, Backend>;                ///< of outputs
  using ConstView = MatrixView<const T, Backend>;     ///< of inputs
  using Part = typename Parameter<T, Backend>::Part;  ///< a linear map: name of its weight, and
                                                      ///< number of outputs

  Parameter<T, Backend>
      weight;  ///< [output, input]; no rows if quantised; frozen if there are adapters
  Parameter<T, Backend> bias;    ///< [output, 1]; no rows if there is none; frozen as the weight
  Parameter<T, Backend> lora_a;  ///< [sum of the adapters' ranks, input]
  Parameter<T, Backend> lora_b;  ///< [outputs of the maps with adapters of the common rank, rank]
  /// [outputs, its rank] for each map whose adapter has another rank, in their order.
  std::vector<Parameter<T, Backend>> other_lora_b;
  Parameter<T, Backend> magnitude;  ///< [outputs of the maps with adapters, 1]; no rows without

  /// Leaves all values uninitialised except lora_b, which is 0, so that adapters start without
  /// effect; magnitudes need reset_magnitudes(). Throws what require_valid throws, and
  /// std::invalid_argument for magnitudes where they have no kernel.
  Projection(std::vector<Part> parts, Index input, const LoraConfig& lora,
             BasicMemoryPool<Backend> workspace, bool biased = false)
      : weight(checked(lora).quantize ? std::vector<Part>{} : parts, input),
        bias(detail::bias_parts(parts, biased), 1),
        lora_a(detail::adapter_parts(parts, lora, ".lora_A.weight",
                                     [](const Adapter& one) { return one.rank; }),
               input),
        lora_b(detail::adapter_parts(
                   parts, lora, ".lora_B.weight",
                   [](const Adapter& one) { return one.of_common_rank ? one.outputs : 0; }),
               lora.rank),
        magnitude(detail::adapter_parts(
                      parts, lora, ".lora_magnitude_vector",
                      [&](const Adapter& one) { return lora.magnitudes ? one.outputs : 0; }),
                  1),
        adapters_(detail::adapter_places(parts, lora)),
        parts_(std::move(parts)),
        input_(input),
        lora_(lora),
        quantized_(lora, parts_.size(), workspace),
        workspace_(std::move(workspace)) {
    weight.trained = bias.trained = !lora.enabled();
    set_zero(lora_b.value());
    for (const Adapter& one : adapters_) {
      if (one.of_common_rank) continue;
      const std::string name(detail::linear_name(parts_[one.part].name));
      set_zero(other_lora_b.emplace_back(name + ".lora_B.weight", one.outputs, one.rank).value());
    }
    if (magnitude.rows() > 0) {
      detail::with_dora_kernels<T, Backend>([](auto) {});  // throws where there are none
      norms_ = Tensor(1, magnitude.rows());
    }
    for (const char c : parts_.front().name)
      stream_ = (stream_ ^ static_cast<unsigned char>(c)) * 0x100000001b3u;  // FNV-1a
  }

  /// Elements of u per token for a projection of the maps `names`.
  static Index adapter_width(std::initializer_list<std::string_view> names,
                             const LoraConfig& lora) {
    Index width = 0;
    for (const std::string_view name : names) width += lora.adapts(name) ? lora.rank_of(name) : 0;
    return width;
  }
  Index adapter_width() const noexcept { return lora_a.rows(); }  ///< elements of u per token

  /// Calls visit(Parameter<T>&) for each parameter that has values: the weight, unless it is
  /// quantised, the bias, the adapters and their magnitudes.
  template <class Visit>
  void for_each_parameter(const Visit& visit) {
    if (weight.rows() > 0) visit(weight);
    if (bias.rows() > 0) visit(bias);
    if (lora_a.rows() > 0) visit(lora_a);
    if (lora_b.rows() > 0) visit(lora_b);
    for (Parameter<T, Backend>& b : other_lora_b) visit(b);
    if (magnitude.rows() > 0) visit(magnitude);
  }

  /// Sets the magnitudes to the norms of the rows of the weights with their adapters, so that they
  /// start without effect. Does nothing without magnitudes.
  void reset_magnitudes() {
    if (magnitude.rows() == 0) return;
    measure_norms();
    copy<T>(MatrixView<T, Backend>(magnitude.value().data, 1, magnitude.rows()), norms_.view());
  }

  // ---- forward and backward

  /// y [tokens, output] (=|+=) the maps of x [tokens, input]. Also writes u [tokens,
  /// adapter_width()] for the backward pass.
  void forward(View y, ConstView x, Accumulate mode, View u) const {
    if (adapter_width() > 0) {
      with_dropout(x, [&](ConstView dropped_out) { gemm_nt(u, dropped_out, lora_a.value()); });
      scale_adapters(u);
    }
    if (magnitude.rows() > 0) {
      measure_norms();
      Tensor room;  // holds what is added to y
      if (mode == Accumulate::add) room = Tensor(y.rows, y.columns, workspace_);
      const View t = mode == Accumulate::add ? room.view() : y;
      multiply(t, x, Accumulate::overwrite, u);
      apply_magnitudes(t);
      if (mode == Accumulate::add) ops::accumulate<T>(y, t);
    } else {
      multiply(y, x, mode, u);
    }
    if (bias.rows() > 0) add_bias(y, bias);
  }

  /// The gradient of u, an argument of backward_parameters and backward_input.
  Tensor adapter_gradient(ConstView grad_output) const {
    if (adapter_width() == 0) return {};
    Tensor room;
    grad_output = below_magnitudes(room, grad_output);
    Tensor grad_u(grad_output.rows, adapter_width(), workspace_);
    for (const Adapter& one : adapters_)
      gemm_nn(grad_u.view().columns_from(one.row_a, one.rank),
              grad_output.columns_from(one.output, one.outputs),
              b_of(one).value().rows_from(one.row_b, one.outputs));
    scale_adapters(grad_u.view());
    return grad_u;
  }

  /// Whether any parameter is trained: backward_parameters then has work to do and needs x.
  bool trainable() const noexcept {
    return weight.trained || (adapter_width() > 0 && (lora_a.trained || trains_b() ||
                                                      (magnitude.rows() > 0 && magnitude.trained)));
  }

  /// Computes the gradients of the trained parameters.
  void backward_parameters(ConstView grad_output, ConstView x, ConstView u, const Tensor& grad_u) {
    if (weight.trained) {
      const Accumulate mode = weight.begin_gradient();
      gemm_tn(weight.gradient(), grad_output, x, mode);
    }
    bias_backward(grad_output, bias);
    if (adapter_width() == 0) return;
    if (magnitude.rows() > 0 && magnitude.trained) backward_magnitudes(grad_output, x, u);
    Tensor room;
    grad_output = below_magnitudes(room, grad_output);
    const Accumulate common =
        lora_b.trained && lora_b.rows() > 0 ? lora_b.begin_gradient() : Accumulate::overwrite;
    for (const Adapter& one : adapters_) {
      Parameter<T, Backend>& b = one.of_common_rank ? lora_b : other_lora_b[one.number];
      if (!b.trained) continue;
      const Accumulate mode = one.of_common_rank ? common : b.begin_gradient();
      gemm_tn(b.gradient().rows_from(one.row_b, one.outputs),
              grad_output.columns_from(one.output, one.outputs),
              u.columns_from(one.row_a, one.rank), mode);
    }
    if (lora_a.trained) {
      const Accumulate mode = lora_a.begin_gradient();
      with_dropout(x, [&](ConstView dropped_out) {
        gemm_tn(lora_a.gradient(), grad_u.view(), dropped_out, mode);
      });
    }
  }

  /// grad_x = the gradient of x. grad_x may be the x that was passed to backward_parameters, after
  /// that call has returned.
  void backward_input(View grad_x, ConstView grad_output, const Tensor& grad_u) const {
    Tensor room;
    grad_output = below_magnitudes(room, grad_output);
    if (adapters_write_first && adapter_width() > 0 && !drops_out()) {
      gemm_nn(grad_x, grad_u.view(), lora_a.value());
      return multiply_base_backward(grad_x, grad_output, Accumulate::add);
    }
    multiply_base_backward(grad_x, grad_output, Accumulate::overwrite);
    if (adapter_width() == 0) return;
    if (!drops_out()) return gemm_nn(grad_x, grad_u.view(), lora_a.value(), Accumulate::add);
    Tensor share(grad_x.rows, grad_x.columns, workspace_);
    gemm_nn(share.view(), grad_u.view(), lora_a.value());
    dropout<T>(share.view(), share.view(), lora_.dropout, *lora_.micro_step, stream_);
    ops::accumulate(grad_x, share.view());
  }

  // ---- the base weights, for checkpoints

  /// The linear maps, from the first row of the weight down.
  const std::vector<Part>& parts() const noexcept { return parts_; }
  Index input() const noexcept { return input_; }            ///< columns of the weight
  const LoraConfig& lora() const noexcept { return lora_; }  ///< as constructed

  /// First element of a linear map's weight; null if the base is quantised.
  T* weight_of(std::size_t part) noexcept {
    return quantized_.empty() ? weight.value().row(first_row(part)) : nullptr;
  }

  /// The codes of a linear map's weight. Throws std::out_of_range if the base is not in NF4.
  const BasicNf4Matrix<Backend>& quantized(std::size_t part) const {
    return quantized_.template get<BasicNf4Matrix<Backend>>(part);
  }

  /// Sets the weight of a linear map to `values` [outputs, input], and quantises them if the base
  /// is quantised. Throws std::invalid_argument for another shape and, if it quantises, for values
  /// that are not finite.
  void set_weight(std::size_t part, MatrixView<const float> values) {
    require_shape(part, values.rows, values.columns);
    if (!quantized_.empty()) return quantized_.quantize(part, values, parts_[part].name);
    upload(weight.value().rows_from(first_row(part), parts_.at(part).rows), values);
  }

  /// Sets the weight of a linear map in a quantised base from existing codes. Throws
  /// std::out_of_range if the base is not in their format, and std::invalid_argument for another
  /// shape.
  void set_weight(std::size_t part, BasicNf4Matrix<Backend> codes) {
    require_shape(part, codes.rows(), codes.columns());
    quantized_.set(part, std::move(codes));
  }
  /// The same for 8 bits.
  void set_weight(std::size_t part, BasicFp8Matrix<Backend> codes) {
    require_shape(part, codes.rows(), codes.columns());
    quantized_.set(part, std::move(codes));
  }

  /// Writes the weight of a linear map, with its adapter merged, to values [outputs, input]: W +
  /// the adapter's factor times B A, of the adapter's magnitudes where it has some.
  void merged_weight(std::size_t part, View values) const {
    const Index outputs = parts_.at(part).rows;
    if (!quantized_.empty())
      quantized_.dequantize(part, values);
    else
      copy<T>(values, weight.value().rows_from(first_row(part), outputs));
    for (const Adapter& one : adapters_) {
      if (one.part != part) continue;
      add_product(values, one, 0);
      if (magnitude.rows() == 0) continue;
      Tensor norms(1, outputs, workspace_);
      row_norms(norms.data(), values);
      scale_rows(values, magnitude.value().row(one.row_m), std::as_const(norms).data());
    }
  }

  /// Bytes of the base weights and biases.
  std::size_t base_bytes() const noexcept {
    return (weight.size() + bias.size()) * sizeof(T) + quantized_.bytes();
  }

 private:
  static const LoraConfig& checked(const LoraConfig& lora) {
    require_valid(lora);
    return lora;
  }

  void require_shape(std::size_t part, Index rows, Index columns) const {
    if (rows != parts_.at(part).rows || columns != input_)
      detail::throw_invalid("the weight '" + parts_[part].name + "' has the shape " +
                                detail::shape_text(parts_[part].rows, input_),
                            detail::shape_text(rows, columns) + " was given",
                            "pass one row for each output");
  }

  Index first_row(std::size_t part) const {
    Index first = 0;
    for (std::size_t i = 0; i < part; ++i) first += parts_[i].rows;
    return first;
  }

  using Adapter = detail::AdapterPlace;

  const Parameter<T, Backend>& b_of(const Adapter& one) const {
    return one.of_common_rank ? lora_b : other_lora_b[one.number];
  }

  bool trains_b() const noexcept {
    return (lora_b.rows() > 0 && lora_b.trained) ||
           std::any_of(other_lora_b.begin(), other_lora_b.end(),
                       [](const auto& b) { return b.trained; });
  }

  // Whether adapters write a new result, to which the weights add. Products with adapters take as
  // long as their accesses to memory, so they only write. Those with the weights read meanwhile.
  static constexpr bool adapters_write_first = DeviceBackend<Backend>;

  // y (=|+=) the products with the weights and the adapters, without biases and magnitudes.
  void multiply(View y, ConstView x, Accumulate mode, ConstView u) const {
    const bool first = adapters_write_first && mode == Accumulate::overwrite &&
                       adapters_.size() == parts_.size();  // so that they write all of y
    if (!first) multiply_base(y, x, mode);
    for (const Adapter& one : adapters_)
      gemm_nt(y.columns_from(one.output, one.outputs), u.columns_from(one.row_a, one.rank),
              b_of(one).value().rows_from(one.row_b, one.outputs),
              first ? Accumulate::overwrite : Accumulate::add);
    if (first) multiply_base(y, x, Accumulate::add);
  }

  // values += the adapter's factor times B A, of as many of its rows from `first` on.
  void add_product(View values, const Adapter& one, Index first) const {
    Tensor b(values.rows, one.rank, workspace_);
    copy<T>(b.view(), b_of(one).value().rows_from(one.row_b + first, values.rows));
    scale(b.view(), one.scale);
    gemm_nn(values, b.view(), lora_a.value().rows_from(one.row_a, one.rank), Accumulate::add);
  }

  // norms_ = the norms of the rows of the weights with their adapters, a panel of rows at a time.
  void measure_norms() const {
    const auto measure = [&](Index output, ConstView rows) {
      for (const Adapter& one : adapters_) {
        Index first = (std::max)(output, one.output);
        const Index end = (std::min)(output + rows.rows, one.output + one.outputs);
        const Index step = detail::panel_rows<Backend>(input_);
        for (; first < end; first += step) {
          Tensor sum((std::min)(step, end - first), input_, workspace_);
          copy<T>(sum.view(), rows.rows_from(first - output, sum.rows()));
          add_product(sum.view(), one, first - one.output);
          row_norms(norms_.data() + one.row_m + first - one.output, sum.view());
        }
      }
    };
    if (quantized_.empty()) return measure(0, weight.value());
    quantized_.for_each_rows(measure);
  }

  void apply_magnitudes(View y) const {
    for (const Adapter& one : adapters_)
      scale_columns(y.columns_from(one.output, one.outputs), magnitude.value().row(one.row_m),
                    std::as_const(norms_).data() + one.row_m);
  }

  // The gradient of the outputs before they are multiplied by their magnitudes over the norms; held
  // by `room` where there are magnitudes.
  ConstView below_magnitudes(Tensor& room, ConstView grad_output) const {
    if (magnitude.rows() == 0) return grad_output;
    room = Tensor(grad_output.rows, grad_output.columns, workspace_);
    copy<T>(room.view(), grad_output);
    apply_magnitudes(room.view());
    return std::as_const(room).view();
  }

  // The outputs before the magnitudes are computed again, rather than saved.
  void backward_magnitudes(ConstView grad_output, ConstView x, ConstView u) {
    Tensor t(grad_output.rows, grad_output.columns, workspace_);
    multiply(t.view(), x, Accumulate::overwrite, u);
    const Accumulate mode = magnitude.begin_gradient();
    for (const Adapter& one : adapters_)
      magnitude_backward(magnitude.gradient().row(one.row_m), mode,
                         grad_output.columns_from(one.output, one.outputs),
                         t.view().columns_from(one.output, one.outputs),
                         std::as_const(norms_).data() + one.row_m);
  }

  // Multiplies the columns of each adapter in u by its factor, all at once where it is the same.
  void scale_adapters(View u) const {
    if (lora_.exceptions.empty())
      scale(u, lora_.scale_of(""));
    else
      for (const Adapter& one : adapters_) scale(u.columns_from(one.row_a, one.rank), one.scale);
  }

  // y (=|+=) x W^T.
  void multiply_base(View y, ConstView x, Accumulate mode) const {
    if (quantized_.empty()) return gemm_nt(y, x, weight.value(), mode);
    quantized_.forward(y, x, mode);
  }

  // grad_x (=|+=) grad_output W.
  void multiply_base_backward(View grad_x, ConstView grad_output, Accumulate mode) const {
    if (quantized_.empty()) return gemm_nn(grad_x, grad_output, weight.value(), mode);
    quantized_.backward(grad_x, grad_output, mode);
  }

  bool drops_out() const noexcept { return lora_.dropout > 0.0 && lora_.micro_step->training; }

  template <class Use>
  void with_dropout(ConstView x, const Use& use) const {
    if (!drops_out()) return use(x);
    Tensor dropped_out(x.rows, x.columns, workspace_);
    dropout<T>(dropped_out.view(), x, lora_.dropout, *lora_.micro_step, stream_);
    use(std::as_const(dropped_out).view());
  }

  std::vector<Adapter> adapters_;  // in the order of the maps
  std::vector<Part> parts_;
  Index input_;
  LoraConfig lora_;
  detail::QuantizedBase<T, Backend> quantized_;  // one per part; empty if the base is dense
  mutable BasicMemoryPool<Backend> workspace_;   // a handle
  std::uint64_t stream_ = 0xcbf29ce484222325u;
  mutable Tensor norms_;  // [1, rows of the magnitudes], of the last forward pass
};

}  // namespace ops
DROPBP_NAMESPACE_END
