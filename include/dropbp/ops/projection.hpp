// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The linear maps of a branch that share an input, fused into one matrix. Dense or in NF4; trained
// directly or through adapters.
#pragma once

#include <algorithm>
#include <concepts>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dropbp/ops/bias.hpp"
#include "dropbp/ops/elementwise.hpp"
#include "dropbp/ops/gemm.hpp"
#include "dropbp/ops/lora.hpp"
#include "dropbp/ops/nf4.hpp"
#include "dropbp/ops/parameter.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// y [tokens, output] = x [tokens, input] W^T, plus a bias where there is one. W stacks the rows of
/// one or more linear maps (for example q_proj, k_proj and v_proj). A LoraConfig may put adapters
/// on some or all of the maps; the adapters of one Projection share the same dropout mask. The
/// weights have the names that the constructor is given ("q_proj.weight"); biases are named
/// "q_proj.bias", adapters "q_proj.lora_A.weight" and "q_proj.lora_B.weight", as in PEFT.
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

  /// Leaves all values uninitialised except lora_b, which is 0, so that adapters start without
  /// effect. Throws what require_valid throws.
  Projection(std::vector<Part> parts, Index input, const LoraConfig& lora,
             BasicMemoryPool<Backend> workspace, bool biased = false)
      : weight(checked(lora).quantize ? std::vector<Part>{} : parts, input),
        bias(bias_parts(parts, biased), 1),
        lora_a(adapter_parts(parts, lora, true), input),
        lora_b(adapter_parts(parts, lora, false), lora.rank),
        parts_(std::move(parts)),
        input_(input),
        lora_(lora),
        workspace_(std::move(workspace)) {
    weight.trained = bias.trained = !lora.enabled();
    set_zero(lora_b.value());
    for (const Part& part : parts_) {
      const std::string name(linear_name(part.name));
      adapted_.push_back(lora.adapts(name));
      if (adapted_.back() && lora.rank_of(name) != lora.rank)
        set_zero(other_lora_b.emplace_back(name + ".lora_B.weight", part.rows, lora.rank_of(name))
                     .value());
      if (lora.quantize) quantized_.emplace_back();
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
  /// quantised, the bias, the adapters.
  template <class Visit>
  void for_each_parameter(const Visit& visit) {
    if (weight.rows() > 0) visit(weight);
    if (bias.rows() > 0) visit(bias);
    if (lora_a.rows() > 0) visit(lora_a);
    if (lora_b.rows() > 0) visit(lora_b);
    for (Parameter<T, Backend>& b : other_lora_b) visit(b);
  }

  // ---- forward and backward

  /// y [tokens, output] (=|+=) the maps of x [tokens, input]. Also writes u [tokens,
  /// adapter_width()] for the backward pass.
  void forward(View y, ConstView x, Accumulate mode, View u) const {
    for_each_panel([&](Index first, ConstView rows) {
      gemm_nt(y.columns_from(first, rows.rows), x, rows, mode);
    });
    if (bias.rows() > 0) add_bias(y, bias);
    if (adapter_width() == 0) return;
    with_dropout(x, [&](ConstView dropped_out) { gemm_nt(u, dropped_out, lora_a.value()); });
    scale_adapters(u);
    for_each_adapter([&](const Adapter& one) {
      gemm_nt(y.columns_from(one.output, one.outputs), u.columns_from(one.row_a, one.rank),
              one.b->value().rows_from(one.row_b, one.outputs), Accumulate::add);
    });
  }

  /// The gradient of u, an argument of backward_parameters and backward_input.
  Tensor adapter_gradient(ConstView grad_output) const {
    if (adapter_width() == 0) return {};
    Tensor grad_u(grad_output.rows, adapter_width(), workspace_);
    for_each_adapter([&](const Adapter& one) {
      gemm_nn(grad_u.view().columns_from(one.row_a, one.rank),
              grad_output.columns_from(one.output, one.outputs),
              one.b->value().rows_from(one.row_b, one.outputs));
    });
    scale_adapters(grad_u.view());
    return grad_u;
  }

  /// Whether any parameter is trained: backward_parameters then has work to do and needs x.
  bool trainable() const noexcept {
    return weight.trained || (adapter_width() > 0 && (lora_a.trained || trains_b()));
  }

  /// Computes the gradients of the trained parameters.
  void backward_parameters(ConstView grad_output, ConstView x, ConstView u, const Tensor& grad_u) {
    if (weight.trained) {
      const Accumulate mode = weight.begin_gradient();
      gemm_tn(weight.gradient(), grad_output, x, mode);
    }
    bias_backward(grad_output, bias);
    if (adapter_width() == 0) return;
    const Accumulate common =
        lora_b.trained && lora_b.rows() > 0 ? lora_b.begin_gradient() : Accumulate::overwrite;
    for_each_adapter([&](const Adapter& one) {
      Parameter<T, Backend>& b = one.of_common_rank ? lora_b : other_lora_b[one.number];
      if (!b.trained) return;
      const Accumulate mode = one.of_common_rank ? common : b.begin_gradient();
      gemm_tn(b.gradient().rows_from(one.row_b, one.outputs),
              grad_output.columns_from(one.output, one.outputs),
              u.columns_from(one.row_a, one.rank), mode);
    });
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
    for_each_panel([&](Index first, ConstView rows) {
      gemm_nn(grad_x, grad_output.columns_from(first, rows.rows), rows,
              first == 0 ? Accumulate::overwrite : Accumulate::add);
    });
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

  /// The codes of a linear map's weight. Throws std::out_of_range if the base is not quantised.
  const BasicNf4Matrix<Backend>& quantized(std::size_t part) const { return quantized_.at(part); }

  /// Sets the weight of a linear map to `values` [outputs, input], and quantises them if the base
  /// is quantised. Throws std::invalid_argument for another shape and, if it quantises, for values
  /// that are not finite.
  void set_weight(std::size_t part, MatrixView<const float> values) {
    require_shape(part, values.rows, values.columns);
    if (!quantized_.empty()) {
      quantized_.at(part) = BasicNf4Matrix<Backend>::quantize(values, parts_[part].name);
      return;
    }
    upload(weight.value().rows_from(first_row(part), parts_.at(part).rows), values);
  }

  /// Sets the weight of a linear map in a quantised base from existing codes. Throws
  /// std::out_of_range if the base is not quantised, and std::invalid_argument for another shape.
  void set_weight(std::size_t part, BasicNf4Matrix<Backend> codes) {
    require_shape(part, codes.rows(), codes.columns());
    quantized_.at(part) = std::move(codes);
  }

  /// Writes the weight of a linear map, with its adapter merged, to values [outputs, input]: W +
  /// the adapter's factor times B A.
  void merged_weight(std::size_t part, View values) const {
    const Index outputs = parts_.at(part).rows;
    if (!quantized_.empty())
      quantized_[part].dequantize(values);
    else
      copy<T>(values, weight.value().rows_from(first_row(part), outputs));
    for_each_adapter([&](const Adapter& one) {
      if (one.output != first_row(part)) return;
      Tensor b(outputs, one.rank, workspace_);
      copy<T>(b.view(), one.b->value().rows_from(one.row_b, outputs));
      scale(b.view(), one.scale);
      gemm_nn(values, b.view(), lora_a.value().rows_from(one.row_a, one.rank), Accumulate::add);
    });
  }

  /// Bytes of the base weights and biases.
  std::size_t base_bytes() const noexcept {
    std::size_t bytes = (weight.size() + bias.size()) * sizeof(T);
    for (const BasicNf4Matrix<Backend>& part : quantized_) bytes += part.bytes();
    return bytes;
  }

 private:
  // Rows of a quantised base that are dequantised at a time. On the host 256: a panel stays in a
  // cache of some megabytes, and 256 is the depth of a product's block, so the product is as fast
  // on panels as on the whole. On a device a panel has 512 MiB in BFloat16, a whole weight in
  // most models: each further panel reads and writes the input's gradient once more.
  Index panel_rows() const noexcept {
    return std::same_as<Backend, Cpu>
               ? 256
               : (std::max)(Index{256}, (Index{1} << 28) / (std::max)(Index{1}, input_));
  }

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

  static std::string_view linear_name(std::string_view weight_name) {
    constexpr std::string_view suffix = ".weight";
    if (weight_name.ends_with(suffix)) weight_name.remove_suffix(suffix.size());
    return weight_name;
  }

  static std::vector<Part> bias_parts(const std::vector<Part>& parts, bool biased) {
    std::vector<Part> result;
    if (!biased) return result;
    for (const Part& part : parts)
      result.push_back({std::string(linear_name(part.name)) + ".bias", part.rows});
    return result;
  }

  static std::vector<Part> adapter_parts(const std::vector<Part>& parts, const LoraConfig& lora,
                                         bool a) {
    std::vector<Part> result;
    for (const Part& part : parts) {
      const std::string_view name = linear_name(part.name);
      if (!lora.adapts(name)) continue;
      const Index rank = lora.rank_of(name);
      if (a)
        result.push_back({std::string(name) + ".lora_A.weight", rank});
      else if (rank == lora.rank)
        result.push_back({std::string(name) + ".lora_B.weight", part.rows});
    }
    return result;
  }

  Index first_row(std::size_t part) const {
    Index first = 0;
    for (std::size_t i = 0; i < part; ++i) first += parts_[i].rows;
    return first;
  }

  struct Adapter {
    Index output, outputs;           // its rows of the weight
    Index row_a, rank;               // its rows of lora_a
    const Parameter<T, Backend>* b;  // lora_b, or its own
    Index row_b;                     // its first row there
    double scale;                    // of its outputs
    bool of_common_rank;
    std::size_t number;  // in other_lora_b, unless it is in lora_b
  };

  bool trains_b() const noexcept {
    return (lora_b.rows() > 0 && lora_b.trained) ||
           std::any_of(other_lora_b.begin(), other_lora_b.end(),
                       [](const auto& b) { return b.trained; });
  }

  // Calls visit(const Adapter&) for each adapter, in the order of the maps.
  template <class Visit>
  void for_each_adapter(const Visit& visit) const {
    Index output = 0, row_a = 0, row_b = 0;
    std::size_t number = 0;
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      const Index outputs = parts_[i].rows;
      if (adapted_[i]) {
        const std::string_view name = linear_name(parts_[i].name);
        const Index rank = lora_.rank_of(name);
        const bool common = rank == lora_.rank;
        visit(Adapter{output, outputs, row_a, rank, common ? &lora_b : &other_lora_b[number],
                      common ? row_b : 0, lora_.scale_of(name), common, number});
        row_a += rank;
        if (common)
          row_b += outputs;
        else
          ++number;
      }
      output += outputs;
    }
  }

  // Multiplies the columns of each adapter in u by its factor, all at once where it is the same.
  void scale_adapters(View u) const {
    if (lora_.exceptions.empty())
      scale(u, lora_.scale_of(""));
    else
      for_each_adapter(
          [&](const Adapter& one) { scale(u.columns_from(one.row_a, one.rank), one.scale); });
  }

  // Calls visit(first output, rows of the base): once if the base is dense, else for each
  // dequantised panel.
  template <class Visit>
  void for_each_panel(const Visit& visit) const {
    if (quantized_.empty()) return visit(Index(0), weight.value());
    Index output = 0;
    for (const BasicNf4Matrix<Backend>& part : quantized_) {
      for (Index first = 0; first < part.rows(); first += panel_rows()) {
        Tensor panel((std::min)(panel_rows(), part.rows() - first), input_, workspace_);
        part.dequantize_rows(first, panel.rows(), panel.view());
        visit(output + first, std::as_const(panel).view());
      }
      output += part.rows();
    }
  }

  bool drops_out() const noexcept { return lora_.dropout > 0.0 && lora_.micro_step->training; }

  template <class Use>
  void with_dropout(ConstView x, const Use& use) const {
    if (!drops_out()) return use(x);
    Tensor dropped_out(x.rows, x.columns, workspace_);
    dropout<T>(dropped_out.view(), x, lora_.dropout, *lora_.micro_step, stream_);
    use(std::as_const(dropped_out).view());
  }

  std::vector<Part> parts_;
  Index input_;
  LoraConfig lora_;
  std::vector<char> adapted_;                       // one per part
  std::vector<BasicNf4Matrix<Backend>> quantized_;  // one per part; empty if the base is dense
  mutable BasicMemoryPool<Backend> workspace_;      // a handle
  std::uint64_t stream_ = 0xcbf29ce484222325u;
};

}  // namespace ops
DROPBP_NAMESPACE_END
