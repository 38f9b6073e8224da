// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A small language model of attention and MLP branches. Backend selects the memory and the kernels:
// main.cpp uses dropbp::Cuda; dropbp::Cpu with T = float or double works as well.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/ops/attention_branch.hpp>
#include <dropbp/ops/cross_entropy.hpp>
#include <dropbp/ops/elementwise.hpp>
#include <dropbp/ops/embedding.hpp>
#include <dropbp/ops/swiglu_branch.hpp>

namespace ops = dropbp::ops;

template <class T, class Backend>
struct Net {
  using Attention = ops::AttentionBranch<T, Backend>;
  using Mlp = ops::SwiGLUBranch<T, Backend>;
  using Tensor = ops::Matrix<T, Backend>;        // [tokens, hidden], in the backend's memory
  using Parameter = ops::Parameter<T, Backend>;  // a value and its gradient
  static constexpr ops::Index vocabulary = 128, hidden = 64, heads = 4, blocks = 2;

  ops::BasicBranchMemory<Backend> memory;  // pools that the branches share
  std::vector<dropbp::DropBPLayer<Attention>> attention;
  std::vector<dropbp::DropBPLayer<Mlp>> mlp;
  Parameter embedding{"embedding", vocabulary, hidden}, head{"head", vocabulary, hidden};
  ops::CrossEntropy<T, Backend> loss{memory.workspace};

  explicit Net(ops::Index longest_sequence) {
    const auto rope =
        std::make_shared<const ops::RopeTable<T, Backend>>(longest_sequence, hidden / heads);
    for (ops::Index i = 0; i < blocks; ++i) {
      attention.emplace_back(Attention({.hidden = hidden, .heads = heads}, rope, memory));
      mlp.emplace_back(Mlp({.hidden = hidden, .intermediate = 3 * hidden}, memory));
    }
    // Weights start uninitialised; a real program loads a checkpoint. upload() takes floats and
    // rounds them to T.
    std::uint32_t number = 0;
    for (Parameter* parameter : parameters()) {
      const dropbp::CounterRandom random(1, dropbp::RandomStream::user, number++);
      std::vector<float> values(parameter->size(), 1.0f);  // for norms
      if (parameter->rows() > 1)
        for (std::size_t i = 0; i < values.size(); ++i)
          values[i] = 0.1f * (static_cast<float>(random(i) >> 40) * 0x1p-24f - 0.5f);
      ops::upload(parameter->value(), ops::MatrixView<const float>(values.data(), parameter->rows(),
                                                                   parameter->columns()));
    }
  }

  // DropBPHandler visits the layers through this function.
  void for_each_layer(auto&& visit) {
    for (std::size_t i = 0; i < mlp.size(); ++i) visit(attention[i]), visit(mlp[i]);
  }

  std::vector<Parameter*> parameters() {
    std::vector<Parameter*> all{&embedding, &head};
    for_each_layer([&](auto& layer) {
      layer.op().for_each_parameter([&](Parameter& parameter) { all.push_back(&parameter); });
    });
    return all;
  }

  // Computes the mean loss and its gradients. The tokens are in host memory. The only wait for the
  // device is at the end, where the loss is read.
  double backpropagate(std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets,
                       const ops::SequenceShape& shape) {
    for (Parameter* parameter : parameters()) parameter->drop_gradient();
    Tensor x(shape.tokens(), hidden, memory.workspace);
    ops::embedding_forward(x.view(), tokens, embedding);
    for (std::size_t i = 0; i < mlp.size(); ++i) {
      x = attention[i].forward(std::move(x), shape);
      x = mlp[i].forward(std::move(x), shape);
    }
    Tensor grad(shape.tokens(), hidden, memory.workspace);
    const double mean = loss.loss_and_gradient(grad.view(), std::as_const(x).view(), head, targets);
    for (std::size_t i = mlp.size(); i-- > 0;) {
      grad = mlp[i].backward(std::move(grad), shape);
      grad = attention[i].backward(std::move(grad), shape);
    }
    ops::embedding_backward(grad.view(), tokens, embedding);
    return mean;
  }
};
