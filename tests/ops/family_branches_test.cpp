// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The complete Jacobian of both branches with what families of models add to LLaMA's, and what
// they save.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "dropbp/ops/attention_branch.hpp"
#include "dropbp/ops/cross_entropy.hpp"
#include "dropbp/ops/swiglu_branch.hpp"
#include "ops/operation_jacobian.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;

namespace {

// Every parameter that is trained, with values near those of a model: norms are about 1.
template <class Op>
std::vector<Parameter<double>*> randomised(Op& op, std::uint64_t& seed) {
  std::vector<Parameter<double>*> trained;
  op.for_each_parameter([&](Parameter<double>& parameter) {
    const bool norm = parameter.parts().front().name.ends_with("norm.weight");
    randomise(parameter, ++seed, norm ? 0.5 : -1.0, norm ? 1.5 : 1.0);
    if (parameter.trained) trained.push_back(&parameter);
  });
  return trained;
}

const SequenceShape shapes[] = {{1, 1}, {1, 5}, {2, 3}};

AttentionConfig base() {
  return {.hidden = 6, .heads = 2, .kv_heads = 1, .head_size = 4, .norm_eps = 1e-2};
}

void check_attention(Report& report, const AttentionConfig& config, Index rotary,
                     std::uint64_t& seed) {
  for (const SequenceShape& shape : shapes) {
    const BranchMemory memory{MemoryPool(PoolFill::nan), MemoryPool(PoolFill::nan)};
    std::shared_ptr<const RopeTable<double>> table;
    if (rotary > 0) table = std::make_shared<const RopeTable<double>>(shape.sequence, rotary);
    AttentionBranch<double> op(config, table, memory);
    const auto trained = randomised(op, seed);
    Matrix<double> x = random_matrix<double>(shape.tokens(), config.hidden, ++seed);
    report.add(check_operation(op, trained, x, shape));
    {
      typename AttentionBranch<double>::Saved saved;
      const std::size_t before = memory.saved.bytes_in_use();
      op.forward(x, &saved, shape);
      CHECK(memory.saved.bytes_in_use() - before ==
            AttentionBranch<double>::saved_bytes(config, shape.tokens()));
    }
    if (!config.lora.enabled()) report.add(check_layer(std::move(op), true, x, shape));
  }
}

void check_mlp(Report& report, const SwiGLUConfig& config, std::uint64_t& seed) {
  for (const SequenceShape& shape : shapes) {
    const BranchMemory memory{MemoryPool(PoolFill::nan), MemoryPool(PoolFill::nan)};
    SwiGLUBranch<double> op(config, memory);
    const auto trained = randomised(op, seed);
    Matrix<double> x = random_matrix<double>(shape.tokens(), config.hidden, ++seed);
    report.add(check_operation(op, trained, x, shape));
    {
      typename SwiGLUBranch<double>::Saved saved;
      const std::size_t before = memory.saved.bytes_in_use();
      op.forward(x, &saved, shape);
      CHECK(memory.saved.bytes_in_use() - before ==
            SwiGLUBranch<double>::saved_bytes(config, shape.tokens()));
    }
    if (!config.lora.enabled()) report.add(check_layer(std::move(op), true, x, shape));
  }
}

}  // namespace

TEST_CASE("jacobian: attention branches of families") {
  Report report("attention families");
  std::uint64_t seed = 1100;
  const auto check = [&](const auto& change, Index rotary = 4) {
    AttentionConfig config = base();
    change(config);
    check_attention(report, config, rotary, seed);
  };
  check([](AttentionConfig& c) { c.qkv_bias = true; });
  check([](AttentionConfig& c) { c.qkv_bias = c.o_bias = c.fused = true; });
  check([](AttentionConfig& c) { c.head_norm = HeadNorm::per_head, c.norm_offset = 0.5; });
  check([](AttentionConfig& c) { c.head_norm = HeadNorm::whole_row, c.norms = {"", "post_norm"}; });
  check([](AttentionConfig& c) { c.norms = {"input_norm", "post_norm"}, c.norm_offset = 0.5; });
  check([](AttentionConfig& c) { c.norms = {"", ""}; });
  check([](AttentionConfig& c) { c.softcap = 0.7, c.query_scale = 0.9, c.window = 2; });
  check([](AttentionConfig&) {}, 2);  // half of a head is turned
  check([](AttentionConfig&) {}, 0);  // nothing is
  check([](AttentionConfig& c) {
    c.lora = {.rank = 2, .alpha = 3.0};
    c.head_norm = HeadNorm::per_head, c.qkv_bias = true, c.norms = {"", "post_norm"};
  });
  CHECK(report.shapes() == 57);
}

TEST_CASE("jacobian: MLP branches of families") {
  Report report("MLP families");
  std::uint64_t seed = 1200;
  const auto check = [&](const auto& change) {
    SwiGLUConfig config{.hidden = 5, .intermediate = 7, .norm_eps = 1e-2};
    change(config);
    check_mlp(report, config, seed);
  };
  check([](SwiGLUConfig& c) { c.gate = Gate::gelu_tanh; });
  check([](SwiGLUConfig& c) { c.bias = c.fused = true; });
  check([](SwiGLUConfig& c) { c.norms = {"", "post_norm"}, c.norm_offset = 0.5; });
  check([](SwiGLUConfig& c) { c.norms = {"input_norm", "post_norm"}, c.bias = true; });
  check([](SwiGLUConfig& c) { c.norms = {"", ""}; });
  check([](SwiGLUConfig& c) {
    c.lora = {.rank = 2, .alpha = 3.0};
    c.gate = Gate::gelu_tanh, c.fused = true, c.norms = {"", "post_norm"};
  });
  CHECK(report.shapes() == 33);
}

TEST_CASE("jacobian: cross-entropy of capped logits") {
  Report report("capped logits");
  MemoryPool pool(PoolFill::nan);
  std::uint64_t seed = 1300;
  for (Index shape = 0; shape < 15; ++shape)
    for (const double cap : {0.5, 3.0}) {
      const Index tokens = 1 + shape % 5, vocabulary = 2 + 3 * (shape / 5);
      Parameter<double> weight("w", vocabulary, 3);
      randomise(weight, ++seed, -2, 2);
      Matrix<double> x = random_matrix<double>(tokens, 3, ++seed), dx(tokens, 3, pool);
      std::vector<std::int32_t> targets;
      for (Index t = 0; t < tokens; ++t)
        targets.push_back(static_cast<std::int32_t>(t % vocabulary));
      CrossEntropy<double> loss(pool, 3, cap);
      report.add(jacobian_error(
          {{"x", elements(x), [&] { return as_doubles<double>(elements(dx)); }},
           variable_of(weight)},
          [&] { return std::vector<double>{loss.loss(x.view(), weight, targets)}; },
          [&](std::span<const double>) {
            weight.drop_gradient();
            loss.loss_and_gradient(dx.view(), x.view(), weight, targets);
          }));
    }
  CHECK(report.shapes() == 30);
}

TEST_CASE("gates, caps and biases in float have the values of double") {
  Matrix<double> wide = random_matrix<double>(3, 38, 7, -6, 6);
  Matrix<float> narrow(3, 38), out(3, 19);
  Matrix<double> expected(3, 19);
  std::copy(wide.data(), wide.data() + wide.size(), narrow.data());
  std::copy(narrow.data(), narrow.data() + narrow.size(), wide.data());
  gate_forward(Gate::gelu_tanh, out.view(), narrow.view());
  for (Index i = 0; i < 3; ++i)
    for (Index j = 0; j < 19; ++j) {
      const double g = wide.row(i)[j], up = wide.row(i)[19 + j];
      expected.row(i)[j] =
          0.5 * g * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (g + 0.044715 * g * g * g))) * up;
    }
  CHECK(scaled_difference(elements(out), elements(expected)) < 1e-6);

  softcap_forward(narrow.view(), 1.5);
  for (double& value : elements(wide)) value = 1.5 * std::tanh(value / 1.5);
  CHECK(scaled_difference(elements(narrow), elements(wide)) < 1e-6);

  Parameter<float> bias("b", 38, 1);
  const Matrix<float> grad = random_matrix<float>(100, 38, 8);
  bias_backward(grad.view(), bias);
  bias_backward(grad.view(), bias);
  for (Index j = 0; j < 38; ++j) {
    double sum = 0;
    for (Index i = 0; i < 100; ++i) sum += 2.0 * static_cast<double>(grad.row(i)[j]);
    CHECK(static_cast<double>(bias.gradient().row(j)[0]) == Approx(sum).margin(1e-6));
  }
}

TEST_CASE("a branch whose rope table is wider than its heads is refused") {
  const auto table = std::make_shared<const RopeTable<float>>(16, 6);
  CHECK(contains(invalid_message(
                     [&] { AttentionBranch<float>(AttentionConfig{8, 2}, table, BranchMemory()); }),
                 "made for 6"));
}
