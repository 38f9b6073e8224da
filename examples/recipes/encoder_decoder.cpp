// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An encoder and a decoder. The decoder's cross branches read the encoder's output too:
//   memory = encoder(x);  y = y + branch(y);  y = y + cross(y, memory)
#include "recipe.hpp"

// f(x, memory) = tanh(W (x, memory)). A kept one adds to the gradient of `memory`.
struct Cross : Linear {
  explicit Cross(std::uint64_t seed) : Linear(seed, 2 * width, width) {}

  Vector forward(const Vector& x, Saved* saved, const Vector& memory) {
    Vector both = x;
    both.insert(both.end(), memory.begin(), memory.end());
    return Linear::forward(both, saved);
  }
  Vector backward(const Vector& grad_output, Saved& saved, Vector& grad_memory) {
    Vector both = Linear::backward(grad_output, saved);
    for (std::size_t i = 0; i < width; ++i) grad_memory[i] += both[width + i];
    both.resize(width);
    return both;
  }
};

struct Model {
  std::vector<dropbp::DropBPLayer<Linear>> encoder, decoder;
  std::vector<dropbp::DropBPLayer<Cross>> crosses;  // one above each layer of the decoder
  Vector y;
  bool memory_has_gradient = false;

  // In the order of the forward pass.
  void for_each_layer(auto&& visit) {
    for (auto& layer : encoder) visit(layer);
    for (std::size_t l = 0; l < decoder.size(); ++l) visit(decoder[l]), visit(crosses[l]);
  }
  std::vector<Weight> weights() {
    std::vector<Weight> weights;
    for_each_layer([&](auto& layer) { append(weights, layer.op().weight, layer.op().gradient); });
    return weights;
  }
  double loss() {
    Vector memory(width, 0.3);
    for (auto& layer : encoder) memory = layer.forward(memory);
    y.assign(width, 0.2);
    for (std::size_t l = 0; l < decoder.size(); ++l) {
      y = decoder[l].forward(y);
      y = crosses[l].forward(y, memory);
    }
    double sum = 0;
    for (const double one : y) sum += one * one / 2;
    return sum;
  }
  void backward() {
    Vector grad = y, grad_memory(width);
    memory_has_gradient = false;
    for (std::size_t l = decoder.size(); l-- > 0;) {
      memory_has_gradient = memory_has_gradient || !crosses[l].dropped();
      grad = crosses[l].backward(std::move(grad), grad_memory);
      grad = decoder[l].backward(std::move(grad));
    }
    // Without a kept cross branch nothing reaches the encoder: its kept branches have no gradient,
    // and the optimizer leaves them alone as well.
    if (!memory_has_gradient) return;
    for (std::size_t l = encoder.size(); l-- > 0;)
      grad_memory = encoder[l].backward(std::move(grad_memory));
  }
};

int main() {
  Model model;
  for (std::uint64_t l = 0; l < 3; ++l) {
    model.encoder.emplace_back(Linear(l));
    model.decoder.emplace_back(Linear(10 + l));
    model.crosses.emplace_back(Cross(20 + l));
  }
  dropbp::DropBPHandler handler{model, {.drop_rate = 0.7, .seed = 1}};
  return check(model, handler);
}
