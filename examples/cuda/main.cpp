// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Trains the model of net.hpp on a GPU and drops half of its backward passes. Any C++20 compiler
// compiles this file; kernels.cu holds the kernels.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <dropbp/kernels/cuda.hpp>
#include <dropbp/ops/adamw.hpp>

#include "net.hpp"

int main() try {
  using T = dropbp::BFloat16;
  using Backend = dropbp::Cuda;
  if (const std::string missing = dropbp::device_runtime<Backend>::unavailable_reason();
      !missing.empty()) {
    std::fprintf(stderr, "%s\n", missing.c_str());
    return 77;
  }
  const ops::SequenceShape shape{.batch = 4, .sequence = 32};
  Net<T, Backend> net(shape.sequence);
  dropbp::DropBPHandler handler{net, {.drop_rate = 0.5, .seed = 1}};
  ops::AdamW<T, Backend> optimizer(net.parameters(), {.learning_rate = 1e-2});

  std::vector<std::int32_t> tokens, targets;
  for (std::int32_t i = 0; i < 128; ++i)
    tokens.push_back(i * i % 128), targets.push_back((i + 1) * (i + 1) % 128);
  for (std::uint64_t step = 0; step < 20; ++step) {
    handler.begin_step(step);
    const double loss = net.backpropagate(tokens, targets, shape);
    optimizer.step();
    std::printf("step %2d  loss %.4f\n", static_cast<int>(step), loss);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
