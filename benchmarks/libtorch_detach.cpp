// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What does a dropped branch cost in libtorch? Compares TorchBranch, which builds no graph for it,
// with the published way, which builds the graph and then detaches the output. Measures one branch,
// then whole training steps with equal plans; the two ways alternate in one run.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <fstream>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include <c10/core/CPUAllocator.h>
#include <torch/nn.h>
#include <torch/utils.h>
#include <torch/version.h>

#include <CLI/CLI.hpp>
#include <dropbp/interop/libtorch.hpp>
#include <nlohmann/json.hpp>

namespace {

namespace nn = torch::nn;
using torch::Tensor;

// ---- bytes of all tensors

std::atomic<std::size_t> live{0}, peak{0};

constexpr std::size_t header = 64;

void release(void* data) {
  if (data == nullptr) return;
  char* const begin = static_cast<char*>(data) - header;
  live -= *reinterpret_cast<std::size_t*>(begin);
  std::free(begin);
}

// Before libtorch 2.3 allocate is const and copy_data does not exist: hence no `override`.
struct CountingAllocator final : c10::Allocator {
  static c10::DataPtr make(std::size_t bytes) {
    void* data = nullptr;
    if (bytes > 0) {
      char* const begin = static_cast<char*>(
          std::aligned_alloc(header, (bytes + 2 * header - 1) / header * header));
      if (begin == nullptr) throw std::bad_alloc();
      *reinterpret_cast<std::size_t*>(begin) = bytes;
      data = begin + header;
      const std::size_t now = live += bytes;
      for (std::size_t most = peak; now > most && !peak.compare_exchange_weak(most, now);) {
      }
    }
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DataPtr allocate(std::size_t bytes) { return make(bytes); }
  c10::DataPtr allocate(std::size_t bytes) const { return make(bytes); }
  void copy_data(void* to, const void* from, std::size_t bytes) const {
    std::copy_n(static_cast<const char*>(from), bytes, static_cast<char*>(to));
  }
  c10::DeleterFnPtr raw_deleter() const { return &release; }
};

// ---- the model

struct Sizes {
  std::int64_t batch, length, width, heads, blocks;
};

enum class Way { ours, detach };

struct BlockImpl : nn::Module {
  Sizes sizes;
  const Way* way;
  nn::LayerNorm norm1{nullptr}, norm2{nullptr};
  nn::Linear qkv{nullptr}, out{nullptr}, up{nullptr}, down{nullptr};
  dropbp::TorchBranch drop_attention{*this, "drop_attention"}, drop_mlp{*this, "drop_mlp"};

  BlockImpl(const Sizes& sizes_, const Way& way_) : sizes(sizes_), way(&way_) {
    const std::int64_t w = sizes.width;
    norm1 = register_module("norm1", nn::LayerNorm(nn::LayerNormOptions({w})));
    norm2 = register_module("norm2", nn::LayerNorm(nn::LayerNormOptions({w})));
    qkv = register_module("qkv", nn::Linear(w, 3 * w));
    out = register_module("out", nn::Linear(w, w));
    up = register_module("up", nn::Linear(w, 4 * w));
    down = register_module("down", nn::Linear(4 * w, w));
  }

  Tensor attention(const Tensor& x) {
    const auto parts =
        qkv(norm1(x))
            .view({sizes.batch, sizes.length, 3, sizes.heads, sizes.width / sizes.heads})
            .permute({2, 0, 3, 1, 4})
            .unbind(0);
    return out(torch::softmax(parts[0].matmul(parts[1].transpose(-1, -2)) / 8.0, -1)
                   .matmul(parts[2])
                   .transpose(1, 2)
                   .reshape({sizes.batch, sizes.length, sizes.width}));
  }
  Tensor mlp(const Tensor& x) { return down(torch::gelu(up(norm2(x)))); }

  template <class F>
  Tensor residual(const Tensor& x, dropbp::TorchBranch& drop, F f) {
    if (*way == Way::ours) return x + drop(f);
    return x + (drop->dropped() ? f().detach() : f());
  }
  Tensor forward(const Tensor& x) {
    const Tensor y = residual(x, drop_attention, [&] { return attention(x); });
    return residual(y, drop_mlp, [&] { return mlp(y); });
  }
};
TORCH_MODULE(Block);

// ---- measuring

struct Figures {
  double seconds = 1e300;  // processor time, the minimum over all rounds
  std::size_t peak = 0,
              held = 0;  // bytes above those before the step: the peak, and after the forward pass
};

// Processor time of all threads. Other programs on the machine disturb it least.
double now() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// Runs `calls` forward passes, each followed by its backward pass if it has one.
template <class Forward>
void measure(Figures& figures, int calls, Forward forward) {
  const std::size_t before = live;
  peak = before;
  const double start = now();
  for (int call = 0; call < calls; ++call) {
    const Tensor result = forward();
    figures.held = std::max(figures.held, live - before);
    dropbp::backward(result);
  }
  figures.seconds = std::min(figures.seconds, (now() - start) / calls);
  figures.peak = std::max(figures.peak, peak - before);
}

int run(int argc, char** argv) {
  CLI::App app("Compares dropped branches in libtorch on the CPU: without a graph, and detached.");
  int rounds = 25, threads = 1;
  bool quick = false;
  std::string json_path;
  app.add_option("--rounds", rounds,
                 "timings of each; the least is reported (6 times as many for single branches)")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--threads", threads, "number of libtorch threads")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_flag("--quick", quick, "a small model and few rounds: tests that it runs, not its speed");
  app.add_option("--json", json_path, "also write the figures to this file");
  CLI11_PARSE(app, argc, argv);
  std::ofstream json_file;
  if (!json_path.empty()) {
    json_file.open(json_path);
    if (!json_file)
      throw std::runtime_error("cannot write '" + json_path + "': choose another file for --json");
  }
  static CountingAllocator allocator;
  c10::SetCPUAllocator(&allocator, 255);
  torch::set_num_threads(threads);
  torch::manual_seed(1);
  if (quick && app.count("--rounds") == 0) rounds = 3;
  const Sizes sizes = quick ? Sizes{2, 32, 64, 2, 2} : Sizes{4, 256, 256, 4, 8};
  Way way = Way::ours;
  nn::Sequential blocks;
  for (std::int64_t i = 0; i < sizes.blocks; ++i) blocks->push_back(Block(sizes, way));
  dropbp::TorchModel model(*blocks);
  dropbp::DropBPHandler handler(model);
  Tensor x = torch::randn({sizes.batch, sizes.length, sizes.width}).requires_grad_();

  nlohmann::ordered_json rows = nlohmann::json::array();
  std::printf(
      "libtorch %s, %d threads, %lld blocks, hidden %lld, %lld x %lld tokens, %d rounds\n"
      "                      processor ms (least of rounds)         peak MiB          held for "
      "backward MiB\n"
      "                        ours   detach ours/detach      ours   detach   ours/detach     ours "
      "  detach\n",
      TORCH_VERSION, threads, static_cast<long long>(sizes.blocks),
      static_cast<long long>(sizes.width), static_cast<long long>(sizes.batch),
      static_cast<long long>(sizes.length), rounds);
  bool less_memory = true;
  const auto compare = [&](const std::string& what, nn::Module& module, int count, int calls,
                           const auto& forward) {
    Figures of[2];
    for (int round = 0; round < count; ++round)
      for (int turn = 0; turn < 2; ++turn) {  // the two ways take turns at being first
        const int one = (round + turn) % 2;
        way = one == 0 ? Way::ours : Way::detach;
        dropbp::clear_gradients(module);
        x.mutable_grad().reset();
        measure(of[one], calls, forward);
      }
    constexpr double mib = 1024.0 * 1024.0;
    const auto bytes = [](std::size_t number) { return static_cast<double>(number) / mib; };
    const double faster = of[0].seconds / of[1].seconds,
                 smaller = static_cast<double>(of[0].peak) / static_cast<double>(of[1].peak);
    less_memory = less_memory && of[0].peak <= of[1].peak && of[0].held <= of[1].held;
    std::printf("%-19s %8.3f %8.3f %11.3f  %8.2f %8.2f %13.3f %8.2f %8.2f\n", what.c_str(),
                1e3 * of[0].seconds, 1e3 * of[1].seconds, faster, bytes(of[0].peak),
                bytes(of[1].peak), smaller, bytes(of[0].held), bytes(of[1].held));
    std::fflush(stdout);
    rows.push_back({{"what", what},
                    {"seconds", of[0].seconds},
                    {"detach_seconds", of[1].seconds},
                    {"time_ratio", faster},
                    {"peak_bytes", of[0].peak},
                    {"detach_peak_bytes", of[1].peak},
                    {"peak_ratio", smaller},
                    {"held_bytes", of[0].held},
                    {"detach_held_bytes", of[1].held}});
  };

  // One dropped branch, forward pass only: it has no backward pass in either way. The small branch
  // runs 50 times a round.
  const auto compare_branches = [&](const std::string& name, const Sizes& size, int calls) {
    Block block(size, way);
    const Tensor input = torch::randn({size.batch, size.length, size.width}).requires_grad_();
    block->drop_attention->decide({.dropped = true});
    block->drop_mlp->decide({.dropped = true});
    compare(name + " attention", *block, 6 * rounds, calls, [&] {
      return block->residual(input, block->drop_attention, [&] { return block->attention(input); })
          .detach();
    });
    compare(name + " MLP", *block, 6 * rounds, calls, [&] {
      return block->residual(input, block->drop_mlp, [&] { return block->mlp(input); }).detach();
    });
  };
  compare_branches("one small", {1, 16, 64, 2, 1}, 50);
  compare_branches("one", sizes, 1);
  for (const double rate : {0.0, 0.5, 0.875, 1.0}) {
    std::vector<std::uint8_t> dropped(handler.size());
    double sum = 0;
    for (std::uint8_t& one : dropped) one = std::floor(sum + rate) > std::floor(sum), sum += rate;
    char name[32];
    std::snprintf(name, sizeof name, "a step, p = %.3g", rate);
    compare(name, *blocks, rounds, 1, [&] {
      handler.begin_step(dropbp::DropPlan(dropped));
      return blocks->forward(x).square().mean();
    });
  }
  if (json_file.is_open()) {
    json_file << nlohmann::ordered_json{{"libtorch", TORCH_VERSION},
                                        {"threads", threads},
                                        {"rounds", rounds},
                                        {"rows", rows}}
                     .dump(1)
              << '\n';
    json_file.close();
    if (!json_file) throw std::runtime_error("could not write all of '" + json_path + "'");
  }
  if (!less_memory) std::printf("more memory than with detach\n");
  return less_memory ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "libtorch_detach: %s\n", error.what());
    return 1;
  }
}
