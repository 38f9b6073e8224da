// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The linear maps of a branch that share an input, fused: dense or in NF4, trained themselves or
// through adapters.
#pragma once

#include <algorithm>
#include <concepts>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dropbp/ops/elementwise.hpp"
#include "dropbp/ops/gemm.hpp"
#include "dropbp/ops/lora.hpp"
#include "dropbp/ops/nf4.hpp"
#include "dropbp/ops/parameter.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// y [tokens, output] = x [tokens, input] W^T, where W's rows are those of one or more linear maps
/// below each other (q_proj, k_proj and v_proj), with the adapters of a LoraConfig on some or all
/// of them. Adapters of one Projection see the same dropped-out input. Names: the base has those it
/// is made with ("q_proj.weight"), adapters "q_proj.lora_A.weight" and "q_proj.lora_B.weight", as
/// in PEFT.
///
/// The owner keeps u, what forward computed for the adapters, from forward to backward, and sees to
/// the input.
template <class T, class Backend = Cpu>
class Projection {
 public:
  using Tensor = Matrix<T, Backend>;                  ///< what is made here
  using View = MatrixView<T, Backend>;                ///< of its operands
  using ConstView = MatrixView<const T, Backend>;     ///< of those that are only read
  using Part = typename Parameter<T, Backend>::Part;  ///< a linear map: the name of its weight and
                                                      ///< its outputs

  Parameter<T, Backend>
      weight;  ///< [output, input]; of no rows when quantised; frozen when there are adapters
  Parameter<T, Backend> lora_a;  ///< [adapters * rank, input]
  Parameter<T, Backend> lora_b;  ///< [outputs with an adapter, rank]

  /// Uninitialised, but for the adapters' B: zeros, so that they begin as nothing. Throws what
  /// require_valid does.
  Projection(std::vector<Part> parts, Index input, const LoraConfig& adaptation,
             BasicMemoryPool<Backend> workspace)
      : weight(checked(adaptation).quantize ? std::vector<Part>{} : parts, input),
        lora_a(adapter_parts(parts, adaptation, true), input),
        lora_b(adapter_parts(parts, adaptation, false), adaptation.rank),
        parts_(std::move(parts)),
        input_(input),
        adaptation_(adaptation),
        workspace_(std::move(workspace)) {
    weight.trained = !adaptation.enabled();
    set_zero(lora_b.value());
    for (const Part& part : parts_) {
      adapted_.push_back(adaptation.adapts(linear_name(part.name)));
      if (adaptation.quantize) quantized_.emplace_back();
    }
    for (const char c : parts_.front().name)
      stream_ = (stream_ ^ static_cast<unsigned char>(c)) * 0x100000001b3u;  // FNV-1a
  }

  /// The elements of u for a token.
  static Index adapter_width(std::initializer_list<std::string_view> names,
                             const LoraConfig& adaptation) {
    Index width = 0;
    for (const std::string_view name : names)
      width += adaptation.adapts(name) ? adaptation.rank : 0;
    return width;
  }
  Index adapter_width() const noexcept { return lora_a.rows(); }  ///< the same of this one

  /// visit(Parameter<T>&) for those that hold values: the weight unless quantised, then the
  /// adapters.
  template <class Visit>
  void for_each_parameter(const Visit& visit) {
    if (weight.rows() > 0) visit(weight);
    if (lora_a.rows() > 0) visit(lora_a), visit(lora_b);
  }

  // ---- passes

  /// y (=|+=) the maps of x, and u [tokens, adapter_width()] for the backward pass.
  void forward(View y, ConstView x, Accumulate mode, View u) const {
    for_each_panel([&](Index first, ConstView rows) {
      gemm_nt(y.columns_from(first, rows.rows), x, rows, mode);
    });
    if (adapter_width() == 0) return;
    with_dropout(x, [&](ConstView dropped_out) { gemm_nt(u, dropped_out, lora_a.value()); });
    scale(u, adaptation_.scale());
    for_each_adapter([&](Index output, Index outputs, Index row_a, Index row_b) {
      gemm_nt(y.columns_from(output, outputs), u.columns_from(row_a, adaptation_.rank),
              lora_b.value().rows_from(row_b, outputs), Accumulate::add);
    });
  }

  /// The gradient of u, which both functions below need.
  Tensor adapter_gradient(ConstView grad_output) const {
    if (adapter_width() == 0) return {};
    Tensor grad_u(grad_output.rows, adapter_width(), workspace_);
    for_each_adapter([&](Index output, Index outputs, Index row_a, Index row_b) {
      gemm_nn(grad_u.view().columns_from(row_a, adaptation_.rank),
              grad_output.columns_from(output, outputs), lora_b.value().rows_from(row_b, outputs));
    });
    scale(grad_u.view(), adaptation_.scale());
    return grad_u;
  }

  /// Whether backward_parameters has anything to do, and needs x.
  bool trainable() const noexcept {
    return weight.trained || (adapter_width() > 0 && (lora_a.trained || lora_b.trained));
  }

  /// The gradients of what trains.
  void backward_parameters(ConstView grad_output, ConstView x, ConstView u, const Tensor& grad_u) {
    if (weight.trained) {
      const Accumulate mode = weight.begin_gradient();
      gemm_tn(weight.gradient(), grad_output, x, mode);
    }
    if (adapter_width() == 0) return;
    if (lora_b.trained) {
      const Accumulate mode = lora_b.begin_gradient();
      for_each_adapter([&](Index output, Index outputs, Index row_a, Index row_b) {
        gemm_tn(lora_b.gradient().rows_from(row_b, outputs),
                grad_output.columns_from(output, outputs), u.columns_from(row_a, adaptation_.rank),
                mode);
      });
    }
    if (lora_a.trained) {
      const Accumulate mode = lora_a.begin_gradient();
      with_dropout(x, [&](ConstView dropped_out) {
        gemm_tn(lora_a.gradient(), grad_u.view(), dropped_out, mode);
      });
    }
  }

  /// grad_x = the gradient of x. grad_x may be the x that backward_parameters was given, once that
  /// has returned.
  void backward_input(View grad_x, ConstView grad_output, const Tensor& grad_u) const {
    for_each_panel([&](Index first, ConstView rows) {
      gemm_nn(grad_x, grad_output.columns_from(first, rows.rows), rows,
              first == 0 ? Accumulate::overwrite : Accumulate::add);
    });
    if (adapter_width() == 0) return;
    if (!drops_out()) return gemm_nn(grad_x, grad_u.view(), lora_a.value(), Accumulate::add);
    Tensor share(grad_x.rows, grad_x.columns, workspace_);
    gemm_nn(share.view(), grad_u.view(), lora_a.value());
    dropout<T>(share.view(), share.view(), adaptation_.dropout, *adaptation_.moment, stream_);
    ops::accumulate(grad_x, share.view());
  }

  // ---- the base, for checkpoints

  /// The linear maps, from the first row down.
  const std::vector<Part>& parts() const noexcept { return parts_; }
  Index input() const noexcept { return input_; }                        ///< columns of the weight
  const LoraConfig& adaptation() const noexcept { return adaptation_; }  ///< as it was made

  /// The first element of a linear map's weight, null where the base is quantised.
  T* weight_of(std::size_t part) noexcept {
    return quantized_.empty() ? weight.value().row(first_row(part)) : nullptr;
  }

  /// Its codes where the base is quantised; throws std::out_of_range where it is not.
  const BasicNf4Matrix<Backend>& quantized(std::size_t part) const { return quantized_.at(part); }

  /// Gives the weight of a linear map its values [outputs, input], quantising them where the base
  /// is. Throws std::invalid_argument for another shape and, where it quantises, for values that
  /// are not finite.
  void set_weight(std::size_t part, MatrixView<const float> values) {
    require_shape(part, values.rows, values.columns);
    if (!quantized_.empty()) {
      quantized_.at(part) = BasicNf4Matrix<Backend>::quantize(values, parts_[part].name);
      return;
    }
    upload(weight.value().rows_from(first_row(part), parts_.at(part).rows), values);
  }

  /// The same of a base that is quantised, with codes that are there already. Throws
  /// std::out_of_range where it is not, and std::invalid_argument for another shape.
  void set_weight(std::size_t part, BasicNf4Matrix<Backend> codes) {
    require_shape(part, codes.rows(), codes.columns());
    quantized_.at(part) = std::move(codes);
  }

  /// The weight of a linear map [outputs, input], with its adapter merged into it: W + alpha / rank
  /// * B A.
  void merged_weight(std::size_t part, View values) const {
    const Index outputs = parts_.at(part).rows;
    if (!quantized_.empty())
      quantized_[part].dequantize(values);
    else
      copy<T>(values, weight.value().rows_from(first_row(part), outputs));
    for_each_adapter([&](Index output, Index, Index row_a, Index row_b) {
      if (output != first_row(part)) return;
      Tensor b(outputs, adaptation_.rank, workspace_);
      copy<T>(b.view(), lora_b.value().rows_from(row_b, outputs));
      scale(b.view(), adaptation_.scale());
      gemm_nn(values, b.view(), lora_a.value().rows_from(row_a, adaptation_.rank), Accumulate::add);
    });
  }

  /// Bytes of the base.
  std::size_t base_bytes() const noexcept {
    std::size_t bytes = weight.size() * sizeof(T);
    for (const BasicNf4Matrix<Backend>& part : quantized_) bytes += part.bytes();
    return bytes;
  }

 private:
  // Rows of a quantised base that are expanded at a time. On the host few enough to stay in a cache
  // of some megabytes, and as many as a product's block has depth, so that it works as well on the
  // panels as on the whole. On a device 512 MiB of BFloat16, a whole weight of most models: each
  // panel more reads and writes the input's gradient once more.
  Index panel_rows() const noexcept {
    return std::same_as<Backend, Cpu>
               ? 256
               : (std::max)(Index{256}, (Index{1} << 28) / (std::max)(Index{1}, input_));
  }

  static const LoraConfig& checked(const LoraConfig& adaptation) {
    require_valid(adaptation);
    return adaptation;
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

  static std::vector<Part> adapter_parts(const std::vector<Part>& parts,
                                         const LoraConfig& adaptation, bool a) {
    std::vector<Part> result;
    for (const Part& part : parts) {
      const std::string_view name = linear_name(part.name);
      if (adaptation.adapts(name))
        result.push_back({std::string(name) + (a ? ".lora_A.weight" : ".lora_B.weight"),
                          a ? adaptation.rank : part.rows});
    }
    return result;
  }

  Index first_row(std::size_t part) const {
    Index first = 0;
    for (std::size_t i = 0; i < part; ++i) first += parts_[i].rows;
    return first;
  }

  // visit(first output, outputs, first row of lora_a, first row of lora_b) for each adapter.
  template <class Visit>
  void for_each_adapter(const Visit& visit) const {
    Index output = 0, row_a = 0, row_b = 0;
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      const Index outputs = parts_[i].rows;
      if (adapted_[i]) {
        visit(output, outputs, row_a, row_b);
        row_a += adaptation_.rank, row_b += outputs;
      }
      output += outputs;
    }
  }

  // visit(first output, rows of the base): all at once, or expanded panel by panel.
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

  bool drops_out() const noexcept {
    return adaptation_.dropout > 0.0 && adaptation_.moment->training;
  }

  template <class Use>
  void with_dropout(ConstView x, const Use& use) const {
    if (!drops_out()) return use(x);
    Tensor dropped_out(x.rows, x.columns, workspace_);
    dropout<T>(dropped_out.view(), x, adaptation_.dropout, *adaptation_.moment, stream_);
    use(std::as_const(dropped_out).view());
  }

  std::vector<Part> parts_;
  Index input_;
  LoraConfig adaptation_;
  std::vector<char> adapted_;                       // by part
  std::vector<BasicNf4Matrix<Backend>> quantized_;  // by part; empty: dense
  mutable BasicMemoryPool<Backend> workspace_;      // a handle
  std::uint64_t stream_ = 0xcbf29ce484222325u;
};

}  // namespace ops
DROPBP_NAMESPACE_END
