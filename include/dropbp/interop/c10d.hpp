// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Data-parallel training with libtorch: gradients averaged over the ranks of a process group of
// c10d, without those of dropped branches. docs/libtorch.md explains the use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include <ATen/core/ivalue.h>  // ProcessGroup.hpp needs it, and does not include it
#include <torch/nn/module.h>
#include <torch/types.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "dropbp/base/error.hpp"
#include "dropbp/base/hash.hpp"
#include "dropbp/base/view.hpp"
#include "dropbp/interop/agreement.hpp"
#include "dropbp/interop/communicator.hpp"
#include "dropbp/plan.hpp"

DROPBP_NAMESPACE_BEGIN

/// A Communicator over a process group such as c10d::ProcessGroupGloo. Errors of the group, a rank
/// that has died among them, are exceptions of wait.
template <class Group>
class TorchCommunicator {
 public:
  /// Complete if it has no work.
  struct Request {
    torch::Tensor values;                   ///< kept until the work is done
    c10::intrusive_ptr<c10d::Work> work{};  ///< of the group
  };

  /// Throws std::invalid_argument for no group.
  explicit TorchCommunicator(c10::intrusive_ptr<Group> group) : group_(std::move(group)) {
    if (!group_)
      detail::throw_invalid("a communicator must have a process group", "there is none",
                            "make a c10d::ProcessGroupGloo, say, on every rank");
  }

  int rank() const { return group_->getRank(); }  ///< of this process
  int size() const { return group_->getSize(); }  ///< number of ranks

  /// Sums in place; see Communicator.
  Request all_reduce(std::span<float> values) {
    return all_reduce(tensor_of(values, torch::kFloat));
  }
  /// Sums in place; see Communicator.
  Request all_reduce(std::span<double> values) {
    return all_reduce(tensor_of(values, torch::kDouble));
  }
  /// Sums a dense, contiguous tensor in place.
  Request all_reduce(torch::Tensor values) {
    std::vector<torch::Tensor> one{values};
    return {std::move(values), group_->allreduce(one, c10d::AllreduceOptions())};
  }
  /// Copies the bytes of rank `root` to all.
  Request broadcast(std::span<std::byte> bytes, int root) {
    std::vector<torch::Tensor> one{tensor_of(bytes, torch::kByte)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    auto work = group_->broadcast(one, options);
    return {std::move(one.front()), std::move(work)};
  }
  /// Whether it has ended.
  bool test(Request& request) { return !request.work || request.work->isCompleted(); }
  /// Returns when it has ended.
  void wait(Request& request) {
    if (request.work) request.work->wait();
    request = {};
  }

 private:
  template <class T>
  static torch::Tensor tensor_of(std::span<T> values, torch::ScalarType type) {
    return torch::from_blob(values.data(), {static_cast<std::int64_t>(values.size())}, type);
  }

  c10::intrusive_ptr<Group> group_;
};

/// What average_gradients has communicated.
struct TorchTraffic {
  std::uint64_t messages = 0;        ///< all-reduces of gradients
  std::uint64_t gradient_bytes = 0;  ///< in these
};

namespace detail {

// The gradients that are defined, those of the last registered parameter first, and a hash of which
// ones they are.
struct TorchGradients {
  std::vector<torch::Tensor> all;
  std::uint64_t layout = 0;

  explicit TorchGradients(torch::nn::Module& module) {
    std::unordered_set<const void*> seen;  // tied parameters are registered twice
    const std::vector<torch::Tensor> parameters = module.parameters();
    for (std::size_t i = parameters.size(); i-- > 0;) {
      torch::Tensor gradient = parameters[i].grad();
      if (!gradient.defined() || !seen.insert(parameters[i].unsafeGetTensorImpl()).second) continue;
      if (gradient.layout() != torch::kStrided)
        throw_invalid("a gradient that ranks average must be dense",
                      "that of parameter " + text(i) + " is sparse",
                      "make the embedding without sparse(true)");
      layout = mix(mix(layout, i), static_cast<std::uint64_t>(gradient.numel()));
      all.push_back(std::move(gradient));
    }
  }
};

// Gradients that share a message.
struct TorchBucket {
  std::vector<torch::Tensor> gradients;
  std::int64_t bytes = 0;
  torch::Tensor flat{};

  bool takes(const torch::Tensor& gradient, std::int64_t most) const {
    return gradients.empty() || (bytes + static_cast<std::int64_t>(gradient.nbytes()) <= most &&
                                 gradient.scalar_type() == gradients.front().scalar_type() &&
                                 gradient.device() == gradients.front().device());
  }
  void add(const torch::Tensor& gradient) {
    gradients.push_back(gradient);
    bytes += static_cast<std::int64_t>(gradient.nbytes());
  }
  void pack() {
    std::vector<torch::Tensor> parts;
    for (const torch::Tensor& gradient : gradients) parts.push_back(gradient.reshape({-1}));
    flat = torch::cat(parts);
  }
  void unpack(int ranks) {
    flat.div_(ranks);
    std::int64_t begin = 0;
    for (torch::Tensor& gradient : gradients) {
      gradient.copy_(flat.narrow(0, begin, gradient.numel()).view(gradient.sizes()));
      begin += gradient.numel();
    }
  }
};

}  // namespace detail

/// Averages the gradients of a module over the ranks: after the last backward pass of a step,
/// before the optimizer. A parameter without a gradient, whose branch every micro-step dropped, is
/// not communicated, and its gradient stays undefined. `plan`: of the last micro-step. Smaller
/// gradients share messages of up to `bucket_bytes`.
///
/// Throws RanksDisagree on all ranks, before any gradient is communicated, if the plans differ or
/// other parameters have a gradient; std::invalid_argument for a sparse gradient. Do not use it
/// together with DistributedDataParallel, which averages as well.
template <class Group>
TorchTraffic average_gradients(TorchCommunicator<Group>& communicator, torch::nn::Module& module,
                               const DropPlan& plan, std::int64_t bucket_bytes = 25 << 20) {
  const torch::NoGradGuard no_grad;
  const detail::TorchGradients gradients(module);
  const detail::AgreedField fields[] = {
      {"the same plan", plan.fingerprint(),
       "give all ranks the same seed, options and checkpoint, and begin the same step"},
      {"gradients of the same parameters", gradients.layout,
       "make the same module on all ranks, and clear gradients to undefined before each step"}};
  std::vector<double> sums;
  for (const detail::AgreedField& field : fields) detail::append_field(sums, field.value);
  auto agreement = communicator.all_reduce(detail::view(sums));
  communicator.wait(agreement);
  for (std::size_t i = 0; i < std::size(fields); ++i)
    if (!detail::agrees({sums.data() + i * detail::sums_of_field, detail::sums_of_field},
                        communicator.size()))
      detail::throw_disagreement(communicator, plan.step(), fields[i]);

  std::vector<detail::TorchBucket> buckets;
  std::vector<typename TorchCommunicator<Group>::Request> requests;
  TorchTraffic traffic;
  const auto begin_last = [&] {
    if (buckets.empty()) return;
    buckets.back().pack();
    requests.push_back(communicator.all_reduce(buckets.back().flat));
    ++traffic.messages;
    traffic.gradient_bytes += static_cast<std::uint64_t>(buckets.back().bytes);
  };
  for (const torch::Tensor& gradient : gradients.all) {
    if (buckets.empty() || !buckets.back().takes(gradient, bucket_bytes)) {
      begin_last();
      buckets.emplace_back();
    }
    buckets.back().add(gradient);
  }
  begin_last();
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    communicator.wait(requests[i]);
    buckets[i].unpack(communicator.size());
  }
  return traffic;
}

DROPBP_NAMESPACE_END
