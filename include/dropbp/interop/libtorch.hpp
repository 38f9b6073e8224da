// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// libtorch: residual branches of torch modules whose backward pass can be dropped, and gradients as
// torch::Tensor. docs/libtorch.md explains the use. For libtorch 1.13 or newer, on any device.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <sstream>
#include <string>
#include <type_traits>
#include <unordered_set>
#include <utility>

#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>
#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include "dropbp/dropbp.hpp"

DROPBP_NAMESPACE_BEGIN

namespace detail {

// Sum of |x - y|^2 over all elements, in double. An undefined tensor counts as zero. Accepts any
// device, layout and scalar type that libtorch can convert to double.
inline double torch_squared_distance(torch::Tensor x, torch::Tensor y) {
  const torch::NoGradGuard no_grad;
  if (!x.defined()) std::swap(x, y);
  if (!x.defined()) return 0.0;
  const bool alone = !y.defined();
  const auto flat = [&](torch::Tensor t) {
    if (t.is_sparse()) t = alone ? t.coalesce().values() : t.to_dense();
    if (t.is_complex()) t = torch::view_as_real(t.resolve_conj());
    return t.reshape({-1});
  };
  x = flat(x);
  if (!alone) y = flat(y);
  torch::Tensor sum = torch::zeros({}, x.options().dtype(torch::kDouble));
  constexpr std::int64_t piece = 1 << 20;  // limits the memory for copies in double
  for (std::int64_t begin = 0; begin < x.numel(); begin += piece) {
    const std::int64_t count = x.numel() - begin < piece ? x.numel() - begin : piece;
    torch::Tensor part = x.narrow(0, begin, count).to(torch::kDouble);
    if (!alone) part = part - y.narrow(0, begin, count).to(torch::kDouble);
    sum += part.square().sum();
  }
  return sum.item<double>();
}

inline void require_same_shape(const torch::Tensor& y, const torch::Tensor& x) {
  if (y.sizes() == x.sizes()) return;
  const auto shape = [](const torch::Tensor& t) {
    std::ostringstream text;
    text << t.sizes();
    return text.str();
  };
  throw_invalid("both tensors of a sum or difference must have the same shape",
                "one has " + shape(y) + " and the other " + shape(x),
                "let the branch return a tensor of the shape of its input");
}

// The autograd graph holds this too: it may outlive the module, and may run backward in other
// threads.
struct TorchBranchState {
  BranchDecision decision;
  // The state that a clone was copied from; null in an original, and after decide().
  std::shared_ptr<const TorchBranchState> original;
  std::atomic<std::uint64_t> forward{0};
  std::atomic<std::uint64_t> backward{0};

  // The stamp of the last micro-step that began.
  std::uint64_t stamp() const { return original ? original->decision.stamp : decision.stamp; }
};

// The identity function between f(x) and the sum x + f(x): a new tensor on the same memory, which
// gets the backward hook. A hook on f(x) itself would be lost if f(x) is a view to which the caller
// adds x in place. If f(x) is x itself, the hook would receive the whole gradient of x.
struct TorchBranchValue : torch::autograd::Function<TorchBranchValue> {
  static torch::Tensor forward(torch::autograd::AutogradContext*, const torch::Tensor& f) {
    return f.detach();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 torch::autograd::variable_list gradients) {
    return gradients;
  }
};

}  // namespace detail

/// torch::Tensor as a tensor of the library. An undefined tensor is absent: it counts as zero.
template <>
struct tensor_traits<torch::Tensor> {
  /// Throws std::invalid_argument for tensors of different shapes; there is no broadcasting.
  static void accumulate(torch::Tensor& y, const torch::Tensor& x) {
    if (!x.defined()) return;
    if (!y.defined()) {
      y = x.clone();
      return;
    }
    detail::require_same_shape(y, x);
    y.add_(x);
  }
  static void scale(torch::Tensor& y, double factor) {
    if (y.defined()) y.mul_(factor);
  }
  static double squared_norm(const torch::Tensor& x) {
    return detail::torch_squared_distance(x, {});
  }
  static double squared_distance(const torch::Tensor& x, const torch::Tensor& y) {
    if (x.defined() && y.defined()) detail::require_same_shape(x, y);
    return detail::torch_squared_distance(x, y);
  }
  static torch::Tensor clone(const torch::Tensor& x) {
    return x.defined() ? x.detach().clone() : x;
  }
};

/// A residual branch that can be dropped; see TorchBranch. It has no parameters and is not written
/// to files, so modules with and without it can load each other's files.
class TorchBranchImpl : public torch::nn::Cloneable<TorchBranchImpl> {
 public:
  /// `cost` is the cost of one forward pass of the branch. Any unit may be used, the same for all
  /// branches of a model (flops.hpp computes the cost of transformers).
  explicit TorchBranchImpl(double cost = 1.0) : cost_(cost) { TorchBranchImpl::reset(); }

  /// Returns f(x), the result of one call of `branch()`. Autograd records the call if the plan
  /// keeps the branch, and nothing if it drops the branch. All computations with parameters or
  /// saved tensors belong inside the callable, because computations before it are already part of
  /// the graph. Throws std::logic_error if autograd is enabled in an evaluation; if autograd is
  /// enabled and the branch is a clone whose original has begun another step since; and for a kept
  /// branch inside a dropped one (DropOptions::parents).
  template <class Branch>
  torch::Tensor forward(Branch&& branch) {
    static_assert(std::is_invocable_r_v<torch::Tensor, Branch&>,
                  "dropbp: a TorchBranch is called with a callable that takes nothing and returns "
                  "f(x) as a torch::Tensor: x = x + drop([&] { return attention(norm(x)); }).");
    const BranchDecision decision = state_->decision;
    const bool records = torch::GradMode::is_enabled();
    if (records && state_->stamp() != decision.stamp)
      detail::throw_order("a clone must be told the plan of its step",
                          "its original has begun another one since it was cloned",
                          "clone after begin_step, or give the clone a handler of its own and "
                          "begin the step there too");
    if (records && !decision.saves)
      detail::throw_order("an evaluation must run without autograd", "it is on",
                          "put a torch::NoGradGuard before the evaluation's forward pass, or call "
                          "begin_step to train");
    detail::require_not_inside_dropped(decision);
    torch::Tensor f;
    {
      // If the caller disabled autograd (a NoGradGuard, the first pass of a recomputation), this
      // pass needs no gradients and is not a dropped pass.
      const detail::InsideDroppedBranch scope(records && decision.dropped);
      const torch::AutoGradMode mode(records && !decision.dropped);
      f = branch();
    }
    ++state_->forward;
    if (!records || !f.requires_grad()) return f;
    if (decision.dropped)
      return f.detach();  // f is not a result of the callable: it is x itself, or a parameter
    f = detail::TorchBranchValue::apply(f);
    const double scale = decision.gradient_scale;
    f.register_hook([state = state_, stamp = decision.stamp, scale](const torch::Tensor& gradient) {
      if (state->stamp() != stamp)
        detail::throw_order("forward and backward must belong to the same micro-step",
                            "the plan changed between them",
                            "call begin_step or begin_micro_step before the forward pass, not "
                            "between it and the backward");
      ++state->backward;
      return scale == 1.0 || !gradient.defined() ? gradient : gradient * scale;
    });
    return f;
  }

  /// The cost of one forward pass, in the unit of the model.
  double cost() const noexcept { return cost_; }
  /// Sets the cost, for example for a new sequence length. DropBPHandler::update_costs reads it.
  void set_cost(double cost) noexcept { cost_ = cost; }

  /// Whether the current plan drops the branch.
  bool dropped() const noexcept { return state_->decision.dropped; }

  /// Counts the calls. `backward` is the number of gradients that reached f(x).
  BranchCalls calls() const noexcept { return {state_->forward, state_->backward}; }
  /// Sets the counts. Called by the handler.
  void set_calls(BranchCalls calls) noexcept {
    state_->forward = calls.forward;
    state_->backward = calls.backward;
  }

  /// Sets the decision for a micro-step. Called by the handler before each micro-step.
  void decide(const BranchDecision& decision) noexcept {
    state_->decision = decision;
    state_->original.reset();
  }

  /// Autograd frees saved tensors in the backward pass, so sensitivities cannot be measured
  /// branchwise.
  static constexpr bool backward_is_repeatable = false;

  /// False: the branch is not written to files.
  bool is_serializable() const override { return false; }

  /// Called by clone(): the copy keeps the decision and starts its counts at zero. Until its own
  /// handler calls decide(), it belongs to the step of its original.
  void reset() override {
    auto fresh = std::make_shared<detail::TorchBranchState>();
    if (state_) {
      fresh->decision = state_->decision;
      fresh->original = state_->original ? state_->original : state_;
    }
    state_ = std::move(fresh);
  }

 private:
  std::shared_ptr<detail::TorchBranchState> state_;
  double cost_;
};

/// A residual branch that can be dropped. Make it a member of the module with the branch:
/// @code
/// dropbp::TorchBranch drop_attention{*this, "drop_attention"};
/// @endcode
/// and in its forward function replace x = x + attention(norm(x)) by
/// @code
/// x = x + drop_attention([&] { return attention(norm(x)); });
/// @endcode
/// A dropped branch computes the same value without autograd: no graph is built, the gradient
/// passes through x alone, and the gradients of the branch's parameters stay undefined. Without a
/// handler every branch is kept.
class TorchBranch : public torch::nn::ModuleHolder<TorchBranchImpl> {
 public:
  using Impl = TorchBranchImpl;  ///< the name that libtorch's module holders require

  /// Registers the branch in `parent` under `name`, which must be unused there. For `cost` see
  /// TorchBranchImpl.
  TorchBranch(torch::nn::Module& parent, std::string name, double cost = 1.0)
      : ModuleHolder(
            parent.register_module(std::move(name), std::make_shared<TorchBranchImpl>(cost))) {}

  /// For modules that register their members in reset(): drop = register_module("drop",
  /// dropbp::TorchBranch(cost)).
  explicit TorchBranch(double cost) : ModuleHolder(std::make_shared<TorchBranchImpl>(cost)) {}
  /// An empty holder, to be assigned later.
  TorchBranch(std::nullptr_t) : ModuleHolder(nullptr) {}
  /// Holds an existing branch.
  TorchBranch(std::shared_ptr<TorchBranchImpl> branch) : ModuleHolder(std::move(branch)) {}

  /// See TorchBranchImpl::forward.
  template <class Branch>
  torch::Tensor operator()(Branch&& branch) {
    return get()->forward(std::forward<Branch>(branch));
  }
};

/// The model of a DropBPHandler for a torch module. It visits all branches of the module at any
/// depth, once each, in the order of registration, and the gradients of the trained parameters.
/// Keeps a reference to the module.
///   dropbp::TorchModel net{*model};
///   dropbp::DropBPHandler handler{net, {.drop_rate = 0.5, .seed = 42}};
class TorchModel {
 public:
  /// Throws std::invalid_argument for a module without branches.
  explicit TorchModel(torch::nn::Module& module) : module_(&module) {
    bool found = false;
    for_each_layer([&](TorchBranchImpl&) { found = true; });
    if (!found)
      detail::throw_invalid("a module must contain a registered TorchBranch",
                            "none was found in " + module.name(),
                            "give the module of each residual branch a member dropbp::TorchBranch "
                            "drop{*this, \"drop\"}");
  }

  /// Calls visit(TorchBranchImpl&) for each branch.
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    std::unordered_set<const void*> seen;
    walk(*module_, visit, seen);
  }

  /// Calls visit(const torch::Tensor*) with the gradient of each trained parameter, or null if it
  /// is undefined. A shared parameter is visited once.
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    std::unordered_set<const void*> seen;  // tied parameters are registered twice
    for (const torch::Tensor& parameter : module_->parameters()) {
      if (!parameter.requires_grad() || !seen.insert(parameter.unsafeGetTensorImpl()).second)
        continue;
      const torch::Tensor& gradient = parameter.grad();
      visit(gradient.defined() ? &gradient : static_cast<const torch::Tensor*>(nullptr));
    }
  }

 private:
  template <class Visit>
  static void walk(torch::nn::Module& module, Visit& visit, std::unordered_set<const void*>& seen) {
    if (auto* branch = dynamic_cast<TorchBranchImpl*>(&module);
        branch != nullptr && seen.insert(branch).second)
      visit(*branch);
    for (const std::shared_ptr<torch::nn::Module>& child : module.children())
      walk(*child, visit, seen);
  }

  torch::nn::Module* module_;
};

/// Makes all gradients of a module absent, as zero_grad(true) does in newer releases. In older
/// releases an optimizer's zero_grad() sets gradients to zero, with which the optimizer would
/// update the moments and decay the weights of dropped branches.
inline void clear_gradients(torch::nn::Module& module) {
  for (torch::Tensor& parameter : module.parameters()) parameter.mutable_grad().reset();
}
/// Makes the gradients of all parameters of an optimizer absent.
inline void clear_gradients(torch::optim::Optimizer& optimizer) {
  for (torch::optim::OptimizerParamGroup& group : optimizer.param_groups())
    for (torch::Tensor& parameter : group.params()) parameter.mutable_grad().reset();
}

/// Calls loss.backward() if the loss depends on a trained parameter, and returns whether it did. If
/// every branch is dropped and nothing else is trained, loss.backward() itself would throw.
inline bool backward(const torch::Tensor& loss) {
  if (!loss.requires_grad()) return false;
  loss.backward();
  return true;
}

DROPBP_NAMESPACE_END
