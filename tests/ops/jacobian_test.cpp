// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The complete Jacobian of every op and of both branches, by input and parameters, over prime
// shapes, shapes of size 1, and shapes that do not fill a SIMD register.
#include "dropbp/ops/attention_branch.hpp"
#include "dropbp/ops/cross_entropy.hpp"
#include "dropbp/ops/embedding.hpp"
#include "dropbp/ops/linear.hpp"
#include "dropbp/ops/swiglu_branch.hpp"
#include "ops/operation_jacobian.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;

namespace {

const Index sizes[] = {1, 2, 3, 5, 7, 8, 11, 13, 16, 17};

}  // namespace

TEST_CASE("jacobian: linear") {
  Report report("linear");
  MemoryPool saved(PoolFill::nan), workspace(PoolFill::nan);
  std::uint64_t seed = 1;
  for (const Index tokens : {1, 2, 7})
    for (const Index out : {1, 5, 8, 17})
      for (const Index in : {1, 3, 16}) {
        Linear<double> op("w", out, in, saved, workspace);
        randomise(op.weight, ++seed);
        Matrix<double> x = random_matrix<double>(tokens, in, ++seed);
        report.add(check_operation(op, {&op.weight}, x));
      }
  CHECK(report.shapes() >= 30);
}

TEST_CASE("jacobian: rms_norm") {
  Report report("rms_norm");
  MemoryPool pool(PoolFill::nan);
  std::uint64_t seed = 100;
  for (const Index tokens : {1, 3, 8})
    for (const Index hidden : sizes) {
      Parameter<double> weight("w", 1, hidden);
      randomise(weight, ++seed);
      Matrix<double> x = random_matrix<double>(tokens, hidden, ++seed), rstd(1, tokens);
      report.add(check_rows(
          x, hidden,
          [&](auto y) { rms_norm_forward(y, rstd.data(), x.view(), weight.value().data, 1e-2); },
          [&](auto dx, auto dy) {
            weight.drop_gradient();
            rms_norm_backward(dx, Accumulate::overwrite, dy, x.view(), weight, rstd.data(), pool);
          },
          {variable_of(weight)}));
    }
  CHECK(report.shapes() >= 30);
}

TEST_CASE("jacobian: rope") {
  Report report("rope");
  std::uint64_t seed = 200;
  for (const Index batch : {1, 2})
    for (const Index sequence : {1, 3, 5})
      for (const Index heads : {1, 3})
        for (const Index head_size : {2, 6, 14}) {
          const RopeTable<double> table(sequence, head_size);
          const Index width =
              heads * head_size + 3;  // columns after the rotated heads must not change
          Matrix<double> x = random_matrix<double>(batch * sequence, width, ++seed);
          report.add(check_rows(
              x, width,
              [&](auto y) {
                copy<double>(y, x.view());
                rope(y, table, heads, sequence, Rotation::forward);
              },
              [&](auto dx, auto dy) {
                copy<double>(dx, dy);
                rope(dx, table, heads, sequence, Rotation::inverse);
              }));
        }
  CHECK(report.shapes() >= 30);
}

TEST_CASE("jacobian: attention") {
  Report report("attention");
  std::uint64_t seed = 300;
  for (const Index batch : {1, 2})
    for (const Index sequence : {1, 2, 5, 7})
      for (const HeadLayout layout :
           {HeadLayout{1, 1, 1}, {1, 1, 7}, {2, 1, 3}, {3, 3, 2}, {4, 2, 4}}) {
        const SequenceShape shape{batch, sequence};
        Matrix<double> x = random_matrix<double>(shape.tokens(), layout.qkv_width(), ++seed, -2, 2);
        Matrix<double> o(shape.tokens(), layout.q_width()), lse(batch * layout.heads, sequence);
        report.add(check_rows(
            x, layout.q_width(),
            [&](auto y) {
              attention_forward(y, lse.data(), x.view(), layout, shape);
              copy<double>(o.view(), y);
            },
            [&](auto dx, auto dy) {
              attention_backward(dx, dy, x.view(), o.view(), lse.data(), layout, shape);
            }));
      }
  {  // longer than a block of queries
    const SequenceShape shape{1, 53};
    const HeadLayout layout{2, 1, 2};
    Matrix<double> x = random_matrix<double>(53, layout.qkv_width(), ++seed, -2, 2), o(53, 4),
                   lse(2, 53);
    report.add(check_rows(
        x, layout.q_width(),
        [&](auto y) {
          attention_forward(y, lse.data(), x.view(), layout, shape);
          copy<double>(o.view(), y);
        },
        [&](auto dx, auto dy) {
          attention_backward(dx, dy, x.view(), o.view(), lse.data(), layout, shape);
        }));
  }
  CHECK(report.shapes() >= 30);
}

TEST_CASE("jacobian: swiglu") {
  Report report("swiglu");
  std::uint64_t seed = 400;
  for (const Index tokens : {1, 2, 5})
    for (const Index m : sizes) {
      Matrix<double> x = random_matrix<double>(tokens, 2 * m, ++seed, -3, 3);
      report.add(check_rows(
          x, m, [&](auto y) { swiglu_forward(y, x.view()); },
          [&](auto dx, auto dy) {
            Matrix<double> out_gradient(tokens, m);
            copy<double>(out_gradient.view(), dy);
            swiglu_backward(dx, out_gradient.view(), x.view());
          }));
    }
  CHECK(report.shapes() >= 30);
}

TEST_CASE("jacobian: embedding") {
  Report report("embedding");
  std::uint64_t seed = 500;
  for (const Index vocabulary : {1, 2, 7})
    for (const Index hidden : {1, 5, 17})
      for (const Index tokens : {1, 2, 5, 11}) {
        Parameter<double> weight("w", vocabulary, hidden);
        randomise(weight, ++seed);
        std::vector<std::int32_t> ids;
        for (Index t = 0; t < tokens; ++t)
          ids.push_back(static_cast<std::int32_t>((t * 5 + 3) % vocabulary));
        Matrix<double> out(tokens, hidden);
        report.add(jacobian_error(
            {variable_of(weight)},
            [&] {
              embedding_forward(out.view(), ids, weight);
              return as_doubles<double>(elements(out));
            },
            [&](std::span<const double> grad_output) {
              Matrix<double> dy(tokens, hidden);
              std::copy(grad_output.begin(), grad_output.end(), dy.data());
              weight.drop_gradient();
              embedding_backward<double>(dy.view(), ids, weight);
            }));
      }
  CHECK(report.shapes() >= 30);
}

TEST_CASE("jacobian: cross_entropy") {
  Report report("cross_entropy");
  MemoryPool pool(PoolFill::nan);
  std::uint64_t seed = 600;
  for (const Index vocabulary : {1, 2, 5, 17})
    for (const Index hidden : {1, 3, 8})
      for (const Index tokens : {1, 4, 7}) {
        Parameter<double> weight("w", vocabulary, hidden);
        randomise(weight, ++seed, -2, 2);
        Matrix<double> x = random_matrix<double>(tokens, hidden, ++seed), dx(tokens, hidden, pool);
        std::vector<std::int32_t> targets;
        for (Index t = 0; t < tokens; ++t)
          targets.push_back(t % 3 == 2 ? CrossEntropy<double>::ignore_index
                                       : static_cast<std::int32_t>((t * 7 + 1) % vocabulary));
        CrossEntropy<double> loss(pool, 3);
        report.add(jacobian_error(
            {{"x", elements(x), [&] { return as_doubles<double>(elements(dx)); }},
             variable_of(weight)},
            [&] { return std::vector<double>{loss.loss(x.view(), weight, targets)}; },
            [&](std::span<const double>) {
              weight.drop_gradient();
              loss.loss_and_gradient(dx.view(), x.view(), weight, targets);
            }));
      }
  CHECK(report.shapes() >= 30);
}

TEST_CASE("jacobian: attention branch") {
  Report report("attention branch");
  std::uint64_t seed = 700;
  const AttentionConfig configs[] = {{4, 1, 1, 0, 1e-2},
                                     {6, 3, 1, 0, 1e-2},
                                     {8, 4, 2, 0, 1e-2},
                                     {7, 2, 2, 2, 1e-2},
                                     {1, 1, 1, 2, 1e-2}};
  for (const AttentionConfig& config : configs)
    for (const SequenceShape shape :
         {SequenceShape{1, 1}, {1, 2}, {2, 1}, {1, 5}, {2, 3}, {3, 2}}) {
      auto table =
          std::make_shared<const RopeTable<double>>(shape.sequence, config.layout().head_size);
      AttentionBranch<double> op(config, table,
                                 {MemoryPool(PoolFill::nan), MemoryPool(PoolFill::nan)});
      randomise(op.norm, ++seed, 0.5, 1.5), randomise(op.qkv.weight, ++seed),
          randomise(op.o.weight, ++seed);
      Matrix<double> x = random_matrix<double>(shape.tokens(), config.hidden, ++seed);
      report.add(check_operation(op, {&op.norm, &op.qkv.weight, &op.o.weight}, x, shape));
    }
  CHECK(report.shapes() >= 30);
}

TEST_CASE("jacobian: SwiGLU branch") {
  Report report("SwiGLU branch");
  std::uint64_t seed = 800;
  for (const Index hidden : {1, 3, 8})
    for (const Index intermediate : {1, 5, 11})
      for (const SequenceShape shape : {SequenceShape{1, 1}, {1, 3}, {2, 2}, {5, 1}}) {
        SwiGLUBranch<double> op({hidden, intermediate, 1e-2},
                                {MemoryPool(PoolFill::nan), MemoryPool(PoolFill::nan)});
        randomise(op.norm, ++seed, 0.5, 1.5), randomise(op.gate_up.weight, ++seed),
            randomise(op.down.weight, ++seed);
        Matrix<double> x = random_matrix<double>(shape.tokens(), hidden, ++seed);
        report.add(check_operation(op, {&op.norm, &op.gate_up.weight, &op.down.weight}, x, shape));
      }
  CHECK(report.shapes() >= 30);
}

TEST_CASE("jacobian: the branches with adapters") {
  Report report("branches with adapters");
  std::uint64_t seed = 850;
  const auto micro_step =
      std::make_shared<const MicroStepId>(MicroStepId{.seed = 3, .step = 7, .micro_step = 1});
  const auto randomise_all = [&](auto& op, auto&... projections) {
    randomise(op.norm, ++seed, 0.5, 1.5);
    (randomise(projections.weight, ++seed), ...);
    (randomise(projections.lora_a, ++seed), ...);
    (randomise(projections.lora_b, ++seed), ...);
    const auto randomise_others = [&](auto& others) {
      for (auto& b : others) randomise(b, ++seed);
    };
    (randomise_others(projections.other_lora_b), ...);
  };
  // Ranks and alphas of their own: two, one and none of the maps that share an input.
  const std::vector<LoraConfig::Exception> own{
      {"q_proj", 2, 0.7}, {"self_attn.k_proj", 4, 1.5}, {"gate_proj", 1, 2.0}, {"o_proj", 5, 1.0}};
  const std::vector<std::string> all, some{"k_proj", "o_proj", "up_proj"},
      none_above{"q_proj", "v_proj", "down_proj"};
  for (const auto& targets : {all, some, none_above})
    for (const double dropout : {0.0, 0.4})
      for (const auto& [rank, hidden, shape] :
           {std::tuple(Index(1), Index(4), SequenceShape{1, 2}),
            std::tuple(Index(3), Index(6), SequenceShape{2, 3}),
            std::tuple(Index(2), Index(2), SequenceShape{3, 1})}) {
        const BranchMemory memory{MemoryPool(PoolFill::nan), MemoryPool(PoolFill::nan)};
        const LoraConfig lora{.rank = rank,
                              .alpha = 1.5,
                              .dropout = dropout,
                              .targets = targets,
                              .micro_step = micro_step,
                              .rank_stabilized = rank == 3,
                              .exceptions = rank == 1 ? std::vector<LoraConfig::Exception>{} : own};
        Matrix<double> x = random_matrix<double>(shape.tokens(), hidden, ++seed);
        auto table = std::make_shared<const RopeTable<double>>(shape.sequence, 2);
        AttentionBranch<double> attention({hidden, 2, 1, 2, 1e-2, lora}, table, memory);
        randomise_all(attention, attention.qkv, attention.o);
        const auto trained_of = [](auto& op) {
          std::vector<Parameter<double>*> trained;
          op.for_each_parameter([&](Parameter<double>& parameter) {
            if (parameter.trained) trained.push_back(&parameter);
          });
          return trained;
        };
        report.add(check_operation(attention, trained_of(attention), x, shape));
        SwiGLUBranch<double> mlp({hidden, 5, 1e-2, lora}, memory);
        randomise_all(mlp, mlp.gate_up, mlp.down);
        report.add(check_operation(mlp, trained_of(mlp), x, shape));
      }
  CHECK(report.shapes() >= 30);
}

TEST_CASE("jacobian: DropBPLayer around the branches") {
  Report report("DropBPLayer");
  std::uint64_t seed = 900;
  for (const bool in_place : {false, true})
    for (const Index hidden : {1, 6, 7})
      for (const SequenceShape shape : {SequenceShape{1, 1}, {1, 2}, {3, 1}, {2, 3}, {1, 5}}) {
        const BranchMemory memory{MemoryPool(PoolFill::nan), MemoryPool(PoolFill::nan)};
        Matrix<double> x = random_matrix<double>(shape.tokens(), hidden, ++seed);
        SwiGLUBranch<double> mlp({hidden, 5, 1e-2}, memory);
        randomise(mlp.norm, ++seed, 0.5, 1.5), randomise(mlp.gate_up.weight, ++seed),
            randomise(mlp.down.weight, ++seed);
        report.add(check_layer(std::move(mlp), in_place, x, shape));
        auto table = std::make_shared<const RopeTable<double>>(shape.sequence, 2);
        AttentionBranch<double> attention({hidden, 2, 1, 2, 1e-2}, table, memory);
        randomise(attention.norm, ++seed, 0.5, 1.5), randomise(attention.qkv.weight, ++seed),
            randomise(attention.o.weight, ++seed);
        report.add(check_layer(std::move(attention), in_place, x, shape));
      }
  CHECK(report.shapes() >= 30);
}
