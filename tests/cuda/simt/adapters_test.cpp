// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Adapters on a device, where they may write before the frozen weights add to them, against the
// CPU's order.
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "cuda/simt/simt_test.hpp"
#include "dropbp/ops/projection.hpp"
#include "support/emulated.hpp"

using namespace dropbp::test;
using dropbp::BFloat16;
namespace ops = dropbp::ops;
using ops::Accumulate;

namespace {

template <class Backend, class T>
void put(ops::MatrixView<T, Backend> to, const std::vector<float>& values) {
  ops::upload<T, Backend>(to, {values.data(), to.rows, to.columns});
}

template <class T, class Backend>
std::vector<float> taken(const ops::Matrix<T, Backend>& from) {
  std::vector<float> values(from.size());
  ops::download<const T, Backend>({values.data(), from.rows(), from.columns()}, from.view());
  return values;
}

struct Passes {
  std::vector<float> y, sum, dx;  // outputs, outputs added to others, gradient of the inputs
};

// Of two linear maps of 32 and 16 outputs. All numbers are BFloat16.
template <class T, class Backend>
Passes passes(const ops::LoraConfig& lora) {
  const Index rows = 7, columns = 70;
  ops::Projection<T, Backend> maps({{"gate_proj.weight", 32}, {"up_proj.weight", 16}}, columns,
                                   lora, ops::BasicMemoryPool<Backend>(ops::PoolFill::nan));
  auto numbers = [seed = std::uint64_t{1}](Index count) mutable {
    return random_values<BFloat16>(count, ++seed);
  };
  for (std::size_t i = 0; i < 2; ++i) {
    const Index outputs = maps.parts()[i].rows;
    const auto values = numbers(outputs * columns);
    maps.set_weight(i, {values.data(), outputs, columns});
  }
  auto& a = maps.lora_a;
  put(a.value(), numbers(a.rows() * columns));
  put(maps.lora_b.value(), numbers(maps.lora_b.rows() * lora.rank));
  for (auto& b : maps.other_lora_b) put(b.value(), numbers(b.rows() * b.columns()));
  ops::Matrix<T, Backend> x(rows, columns), y(rows, 48), sum(rows, 48), u(rows, a.rows()),
      dy(rows, 48), dx(rows, columns);
  put(x.view(), numbers(rows * columns));
  put(sum.view(), numbers(rows * 48));
  put(dy.view(), numbers(rows * 48));
  const auto& in = std::as_const(x);
  maps.forward(y.view(), in.view(), Accumulate::overwrite, u.view());
  maps.forward(sum.view(), in.view(), Accumulate::add, u.view());
  const auto& grad = std::as_const(dy);
  maps.backward_input(dx.view(), grad.view(), maps.adapter_gradient(grad.view()));
  return {taken(y), taken(sum), taken(dx)};
}

template <class T>
void check_against_cpu(const ops::LoraConfig& lora) {
  const Passes got = passes<T, Emulated>(lora), wanted = passes<float, dropbp::Cpu>(lora);
  const auto check = [](const std::vector<float>& a, const std::vector<float>& b) {
    CHECK(worst_share(a, b, [&](std::size_t i) {
            return 4 * unit<T> * (8 + std::abs(static_cast<double>(b[i])));
          }) <= 1);
  };
  check(got.y, wanted.y), check(got.sum, wanted.sum), check(got.dx, wanted.dx);
}

}  // namespace

TEST_CASE("linear maps with adapters give the CPU's results, whichever product is first") {
  ops::LoraConfig lora{.rank = 2, .alpha = 3.0};
  SECTION("on every map") {}
  SECTION("on the first map") { lora.targets = {"gate_proj"}; }
  SECTION("on the last map") { lora.targets = {"up_proj"}; }
  SECTION("of two ranks") { lora.exceptions = {{"up_proj", 3, 5.0}}; }
  SECTION("with dropout") {
    lora.dropout = 0.25;
    lora.micro_step = std::make_shared<ops::MicroStepId>(ops::MicroStepId{.seed = 3});
  }
  for (const bool quantize : {false, true})
    for (const auto format : {ops::QuantizedFormat::nf4, ops::QuantizedFormat::fp8}) {
      lora.quantize = quantize, lora.format = format;
      INFO((!quantize ? "dense" : format == ops::QuantizedFormat::nf4 ? "4 bits" : "8 bits"));
      check_against_cpu<float>(lora);
      check_against_cpu<BFloat16>(lora);
    }
}

// 256 + 1 and 1 + 257 are 9 bits, but 1 + (256 + 1) = 258 has 8 again: a product with the weights
// that is rounded before the adapter's is added loses the 1.
TEST_CASE("a new result is rounded after the product with the weights only, which is the last") {
  for (const bool quantize : {false, true}) {
    INFO((quantize ? "8 bits" : "dense"));
    const ops::LoraConfig lora{
        .rank = 1, .alpha = 1.0, .quantize = quantize, .format = ops::QuantizedFormat::fp8};
    const auto map_of = [&](Index outputs, Index inputs, const std::vector<float>& a) {
      ops::Projection<BFloat16, Emulated> map({{"o_proj.weight", outputs}}, inputs, lora,
                                              ops::BasicMemoryPool<Emulated>(ops::PoolFill::nan));
      const std::vector<float> weights{256, 1};
      map.set_weight(0, {weights.data(), outputs, inputs});
      put(map.lora_a.value(), a);
      put(map.lora_b.value(), {1, 0});
      return map;
    };
    ops::Matrix<BFloat16, Emulated> wide(1, 2), one(1, 1), u(1, 1);
    const auto& of_two = std::as_const(wide);
    put(wide.view(), {1, 1});
    map_of(1, 2, {1, 0}).forward(one.view(), of_two.view(), Accumulate::overwrite, u.view());
    CHECK(taken(one) == std::vector<float>{258});

    const auto map = map_of(2, 1, {1});
    map.backward_input(one.view(), of_two.view(), map.adapter_gradient(of_two.view()));
    CHECK(taken(one) == std::vector<float>{258});
  }
}
