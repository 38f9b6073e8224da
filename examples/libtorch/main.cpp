// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Pre-trains a small transformer in libtorch on sums such as 37+25=62, then fine-tunes it on
// differences twice from the same weights: once in the ordinary way and once with dropped backward
// passes.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <sstream>
#include <string>

#include <torch/nn.h>
#include <torch/optim.h>
#include <torch/serialize.h>
#include <torch/utils.h>
#include <CLI/CLI.hpp>
#include <dropbp/interop/libtorch.hpp>

namespace nn = torch::nn;
constexpr std::int64_t width = 128, heads = 4, length = 64, batch = 8, bytes = 128;

struct BlockImpl : nn::Module {
  nn::LayerNorm norm1{register_module("norm1", nn::LayerNorm(nn::LayerNormOptions({width})))};
  nn::LayerNorm norm2{register_module("norm2", nn::LayerNorm(nn::LayerNormOptions({width})))};
  nn::Linear qkv{register_module("qkv", nn::Linear(width, 3 * width))};
  nn::Linear out{register_module("out", nn::Linear(width, width))};
  nn::Linear up{register_module("up", nn::Linear(width, 4 * width))};
  nn::Linear down{register_module("down", nn::Linear(4 * width, width))};
  dropbp::TorchBranch drop_attention{*this, "drop_attention",
                                     dropbp::attention_flops({batch, length, width, heads})};
  dropbp::TorchBranch drop_mlp{*this, "drop_mlp",
                               dropbp::mlp_flops({batch, length, width, 4 * width})};

  torch::Tensor attention(const torch::Tensor& x) {
    const auto parts =
        qkv(x).view({batch, length, 3, heads, width / heads}).permute({2, 0, 3, 1, 4}).unbind(0);
    torch::Tensor scores =
        parts[0].matmul(parts[1].transpose(-1, -2)) / std::sqrt(double(width / heads));
    scores = scores + torch::full({length, length}, -1e9f).triu(1);  // causal mask
    return out(scores.softmax(-1).matmul(parts[2]).transpose(1, 2).reshape({batch, length, width}));
  }
  torch::Tensor forward(torch::Tensor x) {
    x = x +
        drop_attention([&] { return attention(norm1(x)); });  // was: x = x + attention(norm1(x));
    x = x + drop_mlp([&] { return down(torch::gelu(up(norm2(x)))); });
    return x;
  }
};
TORCH_MODULE(Block);

struct NetImpl : nn::Module {
  nn::Embedding embedding{register_module("embedding", nn::Embedding(bytes, width))};
  nn::Embedding position{register_module("position", nn::Embedding(length, width))};
  nn::Sequential blocks{
      register_module("blocks", nn::Sequential(Block(), Block(), Block(), Block()))};
  nn::Linear head{register_module("head", nn::Linear(width, bytes))};

  torch::Tensor loss(
      const torch::Tensor& text) {  // [batch, length + 1]; byte t + 1 is the target of byte t
    const torch::Tensor x = embedding(text.narrow(1, 0, length)) + position(torch::arange(length));
    const torch::Tensor next = text.narrow(1, 1, length).reshape({-1});
    return nn::functional::cross_entropy(head(blocks->forward(x)).view({-1, bytes}), next);
  }
};
TORCH_MODULE(Net);

// Returns a sum or a difference, determined by the number alone.
torch::Tensor text_of(std::uint64_t number, bool differences) {
  const dropbp::CounterRandom random{1, dropbp::RandomStream::user, number};
  torch::Tensor text = torch::empty({batch, length + 1}, torch::kLong);
  std::uint64_t draw = 0;
  for (std::int64_t row = 0; row < batch; ++row) {
    std::string line;
    while (line.size() < std::size_t(length) + 1) {
      const auto a = std::to_string(random(draw++) % 50), b = std::to_string(random(draw++) % 50);
      const auto sum = std::to_string(std::stoi(a) + std::stoi(b));
      line += differences ? sum + "-" + b + "=" + a + ";" : a + "+" + b + "=" + sum + ";";
    }
    for (std::int64_t i = 0; i <= length; ++i)
      text.data_ptr<std::int64_t>()[row * (length + 1) + i] = line[std::size_t(i)];
  }
  return text;
}

void train(Net& net, double drop_rate, std::uint64_t steps, bool differences, const char* name) {
  dropbp::TorchModel model(*net);
  dropbp::DropBPHandler handler(model, {.drop_rate = drop_rate, .seed = 42});
  torch::optim::AdamW optimizer(net->parameters(), torch::optim::AdamWOptions(2e-3));
  const auto start = std::chrono::steady_clock::now();
  double sum = 0;
  for (std::uint64_t step = 0; step < steps; ++step) {
    if (drop_rate > 0 && step == steps / 10)
      handler.allocate_by_sensitivity([&] {
        dropbp::clear_gradients(optimizer);
        dropbp::backward(net->loss(text_of(0, differences)));
      });
    handler.begin_step(step);            // before the forward pass: draws the branches to drop
    dropbp::clear_gradients(optimizer);  // undefined, not zero: AdamW skips dropped branches
    const torch::Tensor loss = net->loss(text_of(step, differences));
    dropbp::backward(loss);  // also valid where every branch is dropped
    optimizer.step();
    sum += loss.item<double>();
    if (step % 30 == 29)
      std::printf("%s step %3d  loss %.3f\n", name, int(step + 1), sum / 30), sum = 0;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  handler.begin_evaluation();
  const torch::NoGradGuard no_grad;
  std::printf("%s %.1f ms a step, validation loss %.3f\n", name,
              1e3 * seconds.count() / double(steps),
              net->loss(text_of(1u << 20, differences)).item<double>());
  if (drop_rate > 0) std::fputs(to_text(handler.report()).c_str(), stdout);
}

int main(int argc, char** argv) try {
  CLI::App app(
      "Fine-tunes a small transformer in libtorch with and without dropped backward passes.");
  double drop_rate = 0.5;
  std::uint64_t steps = 90, pre_steps = 120;
  app.add_option("--drop-rate", drop_rate, "target drop rate")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str();
  app.add_option("--steps", steps, "steps of each fine-tuning run")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--pre-steps", pre_steps, "steps of pre-training")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  torch::manual_seed(1);
  Net net, dropping;
  train(net, 0.0, pre_steps, false, "pre-training");
  std::stringstream weights;
  torch::save(net, weights);
  torch::load(dropping, weights);
  train(net, 0.0, steps, true, "ordinary    ");
  train(dropping, drop_rate, steps, true, "dropping    ");
} catch (const std::exception& error) {
  std::fprintf(stderr, "libtorch: %s\n", error.what());
  return 1;
}
