// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A model and a training that take milliseconds, for tests of whole runs.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "llama/app/trainer.hpp"

namespace test {

inline const llama::LlamaConfig small_shape{
    .vocabulary = 64, .hidden = 24, .intermediate = 40, .layers = 3, .heads = 4, .kv_heads = 2};

inline llama::Options small_run(double drop_rate) {
  llama::Options o;
  o.shape = small_shape;
  o.steps = 8;
  o.batch = 2;
  o.sequence = 16;
  o.warmup = 2;
  o.eval_batches = 2;
  o.drop_rate = drop_rate;
  return o;
}

/// Every tensor that is not quantised, by its name.
inline std::map<std::string, std::vector<float>> tensors_of(llama::Trainer& trainer) {
  std::map<std::string, std::vector<float>> tensors;
  trainer.model().for_each_tensor([&](const auto& tensor) {
    tensors[tensor.name].assign(tensor.value, tensor.value + tensor.size());
  });
  return tensors;
}

}  // namespace test
