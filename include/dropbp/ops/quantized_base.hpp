// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The frozen weights of linear maps that share an input, in 4 or 8 bits.
#pragma once

#include <concepts>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "dropbp/ops/fp8.hpp"
#include "dropbp/ops/lora.hpp"
#include "dropbp/ops/nf4.hpp"
#include "dropbp/ops/panels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

// W [output, input] stacks the rows of the maps, each with its own codes. Memory for products comes
// from the workspace.
template <class T, class Backend>
class QuantizedBase {
 public:
  using View = MatrixView<T, Backend>;
  using ConstView = MatrixView<const T, Backend>;
  using Nf4 = BasicNf4Matrix<Backend>;
  using Fp8 = BasicFp8Matrix<Backend>;

  // Of no maps, where the base is dense.
  QuantizedBase(const LoraConfig& lora, std::size_t maps, BasicMemoryPool<Backend> workspace)
      : workspace_(std::move(workspace)) {
    if (lora.format == QuantizedFormat::fp8) maps_ = std::vector<Fp8>();
    if (lora.quantize) std::visit([&](auto& all) { all.resize(maps); }, maps_);
  }

  bool empty() const noexcept {
    return std::visit([](const auto& all) { return all.empty(); }, maps_);
  }
  std::size_t bytes() const noexcept {
    std::size_t sum = 0;
    for_each_map([&](Index, const auto& map) { sum += map.bytes(); });
    return sum;
  }

  // The codes of a map. Throws std::out_of_range if they are of the other format.
  template <class M>
  const M& get(std::size_t map) const {
    const auto* const all = std::get_if<std::vector<M>>(&maps_);
    if (all == nullptr) throw std::out_of_range("the base is in another format");
    return all->at(map);
  }
  template <class M>
  void set(std::size_t map, M codes) {
    static_cast<void>(get<M>(map));
    std::get<std::vector<M>>(maps_)[map] = std::move(codes);
  }
  void quantize(std::size_t map, MatrixView<const float> values, const std::string& name) {
    std::visit(
        [&](auto& all) {
          using M = typename std::remove_reference_t<decltype(all)>::value_type;
          all.at(map) = M::quantize(values, name);
        },
        maps_);
  }
  void dequantize(std::size_t map, View values) const {
    std::visit([&](const auto& all) { all.at(map).dequantize(values); }, maps_);
  }

  // y (=|+=) x W^T. In 8 bits x is rounded to e4m3 too, row by row.
  void forward(View y, ConstView x, Accumulate mode) const {
    Fp8 rounded;
    if (std::holds_alternative<std::vector<Fp8>>(maps_)) rounded = Fp8::quantize(x, workspace_);
    for_each_map([&](Index first, const auto& map) {
      const View part = y.columns_from(first, map.rows());
      if constexpr (std::same_as<decltype(map), const Fp8&>)
        map.multiply(part, rounded, mode, workspace_);
      else if constexpr (std::same_as<Backend, Cpu>)
        map.multiply(GemmLayout::nt, part, x, mode);
      else
        for_each_panel<T>(map, workspace_, [&](Index row, ConstView panel) {
          gemm_nt(part.columns_from(row, panel.rows), x, panel, mode);
        });
    });
  }

  // grad_x (=|+=) grad_output W, with gradients in T also where the forward pass is in 8 bits: rows
  // of gradients have a wider range than activations, the scales of W belong to the summed index
  // here, and Hopper multiplies 8-bit operands only along their rows, so W would be kept twice.
  void backward(View grad_x, ConstView grad_output, Accumulate mode) const {
    for_each_map([&](Index first, const auto& map) {
      const ConstView part = grad_output.columns_from(first, map.rows());
      if constexpr (std::same_as<Backend, Cpu> && std::same_as<decltype(map), const Nf4&>)
        map.multiply(GemmLayout::nn, grad_x, part, first == 0 ? mode : Accumulate::add);
      else
        for_each_panel<T>(map, workspace_, [&](Index row, ConstView panel) {
          gemm_nn(grad_x, part.columns_from(row, panel.rows), panel,
                  first + row == 0 ? mode : Accumulate::add);
        });
    });
  }

  // Calls visit(first output, dequantised rows).
  template <class Visit>
  void for_each_rows(const Visit& visit) const {
    for_each_map([&](Index first, const auto& map) {
      for_each_panel<T>(map, workspace_,
                        [&](Index row, ConstView panel) { visit(first + row, panel); });
    });
  }

 private:
  template <class Visit>
  void for_each_map(const Visit& visit) const {
    std::visit(
        [&](const auto& all) {
          Index output = 0;
          for (const auto& map : all) {
            visit(output, map);
            output += map.rows();
          }
        },
        maps_);
  }

  std::variant<std::vector<Nf4>, std::vector<Fp8>> maps_;
  mutable BasicMemoryPool<Backend> workspace_;  // a handle
};

}  // namespace ops::detail
DROPBP_NAMESPACE_END
