// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Two processes that average gradients over gloo:
//   gloo_ranks FOLDER
// FOLDER, which must exist, gets the file by which they find each other. The first process begins
// the second one before either uses libtorch.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include <torch/nn/modules/linear.h>
#include <torch/utils.h>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <dropbp/interop/c10d.hpp>
#include <dropbp/interop/libtorch.hpp>

namespace {

using Group = c10d::ProcessGroupGloo;
using Communicator = dropbp::TorchCommunicator<Group>;
static_assert(dropbp::Communicator<Communicator>);

constexpr std::int64_t width = 8, blocks = 6;

void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error("failed: " + what);
}

struct NetImpl : torch::nn::Module {
  torch::nn::Linear below{register_module("below", torch::nn::Linear(width, width))};
  std::vector<torch::nn::Linear> linears;
  std::vector<dropbp::TorchBranch> drops;
  NetImpl() {
    for (int i = 0; i < blocks; ++i) {
      const std::string number = std::to_string(i);
      linears.push_back(register_module("linear" + number, torch::nn::Linear(width, width)));
      drops.emplace_back(*this, "drop" + number);
    }
  }
  torch::Tensor loss(torch::Tensor x) {
    x = below(x);
    for (std::size_t i = 0; i < linears.size(); ++i)
      x = x + drops[i]([&] { return torch::tanh(linears[i](x)); });
    return x.square().mean();
  }
};
TORCH_MODULE(Net);

// The batch of a rank: a plain function of its arguments.
torch::Tensor batch_of(int rank, std::uint64_t step) {
  std::vector<float> values(3 * width);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] =
        static_cast<float>((i * 37 + step * 11 + static_cast<std::uint64_t>(rank) * 101) % 29) /
            14.0f -
        1.0f;
  return torch::tensor(values).view({3, width});
}

std::vector<torch::Tensor> gradients_of(Net& net) {
  std::vector<torch::Tensor> all;
  for (const torch::Tensor& parameter : net->parameters())
    all.push_back(parameter.grad().defined() ? parameter.grad().clone() : torch::Tensor());
  return all;
}

// Every rank computes the gradients of both batches by itself; their mean is what the ranks get
// together. Two micro-steps a step.
void averages(Communicator& communicator, std::int64_t bucket_bytes) {
  torch::manual_seed(1);
  Net net;
  dropbp::TorchModel model(*net);
  dropbp::DropBPHandler handler(model, {.drop_rate = 0.5, .seed = 42});
  std::uint64_t dropped = 0;
  for (std::uint64_t step = 0; step < 20; ++step) {
    std::vector<torch::Tensor> of_rank[2];
    dropbp::TorchTraffic traffic;
    for (const int rank : {0, 1, communicator.rank()}) {
      dropbp::clear_gradients(*net);
      for (const std::uint32_t micro_step : {0u, 1u}) {
        if (micro_step == 0)
          handler.begin_step(step);
        else
          handler.begin_micro_step(micro_step);
        dropbp::backward(net->loss(batch_of(rank, 2 * step + micro_step)));
      }
      of_rank[rank] = gradients_of(net);
    }
    traffic = dropbp::average_gradients(communicator, *net, handler.plan(), bucket_bytes);
    const std::vector<torch::Tensor> together = gradients_of(net);
    std::uint64_t bytes = 0, present = 0;
    for (std::size_t i = 0; i < together.size(); ++i) {
      require(together[i].defined() == of_rank[0][i].defined(), "absent gradients stay absent");
      if (!together[i].defined()) continue;
      require(torch::equal(together[i], (of_rank[0][i] + of_rank[1][i]) / 2), "the mean's bits");
      bytes += together[i].nbytes();
      ++present;
    }
    require(traffic.gradient_bytes == bytes, "only what was kept is communicated");
    for (std::size_t i = 0; i < blocks; ++i) {
      dropped += !handler.has_gradient(i);
      require(together[2 + 2 * i].defined() == handler.has_gradient(i), "a branch's gradients");
    }
    require(traffic.messages == (bucket_bytes > 0 ? 1 : present), "messages");
  }
  require(dropped > 10, "some branches were dropped");
}

void disagrees(Communicator& communicator) {
  Net net;
  dropbp::TorchModel model(*net);
  dropbp::DropBPHandler handler(
      model, {.drop_rate = 0.5, .seed = static_cast<std::uint64_t>(communicator.rank())});
  handler.begin_step(3);
  dropbp::backward(net->loss(batch_of(0, 0)));
  const std::vector<torch::Tensor> before = gradients_of(net);
  std::string message;
  try {
    dropbp::average_gradients(communicator, *net, handler.plan());
  } catch (const dropbp::RanksDisagree& error) {
    message = error.what();
  }
  require(message.find("all ranks must have the same plan, but in step 3") != std::string::npos,
          "who disagrees");
  const std::vector<torch::Tensor> after = gradients_of(net);
  for (std::size_t i = 0; i < after.size(); ++i)
    require(!after[i].defined() || torch::equal(after[i], before[i]), "gradients are as before");
}

// The other rank leaves: the one that waits for it must not hang.
void is_left_alone(Communicator& communicator) {
  if (communicator.rank() == 1) return;
  Net net;
  dropbp::backward(net->loss(batch_of(0, 0)));
  bool threw = false;
  try {
    dropbp::average_gradients(communicator, *net, dropbp::DropPlan::keep_all(blocks));
  } catch (const std::exception&) {
    threw = true;
  }
  require(threw, "a rank that has left is an error");
}

void run(int rank, const std::string& folder) {
  torch::set_num_threads(1);
  const auto options = Group::Options::create();
  options->devices.push_back(Group::createDeviceForInterface("lo"));
  const auto store = c10::make_intrusive<c10d::FileStore>(folder + "/gloo_ranks", 2);
  Communicator communicator(c10::make_intrusive<Group>(store, rank, 2, options));
  averages(communicator, 25 << 20);
  averages(communicator, 0);
  std::vector<std::byte> bytes(5, static_cast<std::byte>(rank));
  auto request = communicator.broadcast(bytes, 1);
  communicator.wait(request);
  require(bytes[4] == static_cast<std::byte>(1), "the root's bytes");
  disagrees(communicator);
  is_left_alone(communicator);
}

int status_of(int rank, const std::string& folder) {
  try {
    run(rank, folder);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
    return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string folder = argc > 1 ? argv[1] : ".";
  std::filesystem::remove(folder + "/gloo_ranks");
  const pid_t child = fork();
  if (child < 0) {
    std::perror("gloo_ranks: fork");
    return 1;
  }
  if (child == 0) _exit(status_of(1, folder));
  const int status = status_of(0, folder);
  int of_child = 1;
  waitpid(child, &of_child, 0);
  if (status == 0 && of_child == 0) std::puts("two ranks over gloo agree with one");
  return status != 0 || of_child != 0;
}
