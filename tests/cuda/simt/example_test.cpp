// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Runs the model of examples/cuda and its optimizer on the emulated device and compares them with
// the CPU.
#include <cmath>
#include <cstdint>
#include <vector>

#include "dropbp/ops/adamw.hpp"
#include "examples/cuda/net.hpp"
#include "support/catch.hpp"
#include "support/emulated.hpp"

namespace {

template <class T, class Backend>
std::vector<double> losses() {
  const ops::SequenceShape shape{.batch = 2, .sequence = 8};
  Net<T, Backend> net(shape.sequence);
  dropbp::DropBPHandler handler{net, {.drop_rate = 0.5, .seed = 1}};
  ops::AdamW<T, Backend> optimizer(net.parameters(), {.learning_rate = 1e-2});
  std::vector<std::int32_t> tokens, targets;
  for (std::int32_t i = 0; i < 16; ++i)
    tokens.push_back(i * i % 128), targets.push_back((i + 1) * (i + 1) % 128);
  std::vector<double> result;
  for (std::uint64_t step = 0; step < 5; ++step) {
    handler.begin_step(step);
    result.push_back(net.backpropagate(tokens, targets, shape));
    optimizer.step();
  }
  return result;
}

}  // namespace

TEST_CASE("the model of examples/cuda learns on the emulated device as on the CPU") {
  const std::vector<double> cpu = losses<float, dropbp::Cpu>(), device = losses<float, Emulated>();
  const std::vector<double> narrow = losses<dropbp::BFloat16, Emulated>();
  CHECK(cpu.back() < 0.8 * cpu.front());
  for (std::size_t i = 0; i < cpu.size(); ++i) {
    CHECK(std::abs(device[i] - cpu[i]) < 1e-4 * cpu[i]);
    CHECK(std::abs(narrow[i] - cpu[i]) < 2e-2 * cpu[i]);
  }
}

TEST_CASE("on a device weight decay applies only to parameters that decay") {
  const auto trained = [](double weight_decay, bool decays) {
    constexpr ops::Index size = 19;
    std::vector<float> values(size), gradient(size);
    for (std::size_t i = 0; i < size; ++i)
      values[i] = 1.0f + static_cast<float>(i), gradient[i] = 0.5f - static_cast<float>(i % 3);
    ops::Parameter<float, Emulated> matrix("matrix", 1, size), norm("norm", 1, size);
    norm.decays = decays;
    std::vector<std::vector<float>> result;
    for (ops::Parameter<float, Emulated>* parameter : {&matrix, &norm}) {
      ops::upload(parameter->value(), ops::MatrixView<const float>(values.data(), 1, size));
      parameter->begin_gradient();
      ops::upload(parameter->gradient(), ops::MatrixView<const float>(gradient.data(), 1, size));
    }
    ops::AdamW<float, Emulated> optimizer({&matrix, &norm}, {.weight_decay = weight_decay});
    optimizer.step(), optimizer.step();
    for (ops::Parameter<float, Emulated>* parameter : {&matrix, &norm}) {
      ops::download(ops::MatrixView<float>(values.data(), 1, size), parameter->value());
      result.push_back(values);
    }
    return result;
  };
  const auto all = trained(0.5, true), none = trained(0.0, true), some = trained(0.5, false);
  CHECK(some[0] == all[0]);
  CHECK(some[1] == none[1]);
  CHECK(all[1] != none[1]);
}
