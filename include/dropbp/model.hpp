// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Requirements of a model: it visits its layers and, for sensitivities, its gradients.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "dropbp/operation.hpp"
#include "dropbp/tensor.hpp"

#if !defined(__GNUC__)
#include <atomic>
#endif

DROPBP_NAMESPACE_BEGIN

/// The decision that a branch gets before a micro-step.
struct BranchDecision {
  bool dropped = false;  ///< the branch needs no backward pass
  /// False in an evaluation: the branch counts as kept, but saves nothing, because no backward pass
  /// follows.
  bool saves = true;
  bool input_gradient_needed = true;  ///< see DropPlan::input_gradient_needed
  bool retains_saved = false;  ///< what is saved is kept for further backwards, until release()
  /// A kept branch measures the norms of the residual stream's gradient above and below itself.
  bool observes_stream = false;
  /// Factor on what a kept branch adds to gradients, its parameters' and its input's.
  double gradient_scale = 1.0;
  /// Identifies the micro-step among those of all handlers of the process, to detect a backward
  /// whose forward belonged to another one. 0 without a handler.
  std::uint64_t stamp = 0;
};

/// Number of passes that a branch ran.
struct BranchCalls {
  std::uint64_t forward = 0;  ///< forward passes, kept or dropped
  /// Calls of the operation's backward, which a dropped branch does not make.
  std::uint64_t backward = 0;
  bool operator==(const BranchCalls&) const = default;  ///< by both counts
};

/// Seconds that one branch spent in forward and backward passes.
struct BranchTimes {
  double forward = 0.0;   ///< in forward passes
  double backward = 0.0;  ///< in backward passes; a dropped branch spends none
};

namespace detail {

// One counter for all handlers of the process, across shared libraries.
#if defined(__GNUC__)  // <atomic> would slow down the compilation
[[gnu::visibility("default")]] inline std::uint64_t last_stamp = 0;
inline std::uint64_t next_stamp() noexcept {
  return __atomic_add_fetch(&last_stamp, 1, __ATOMIC_RELAXED);
}
#else
inline std::atomic<std::uint64_t> last_stamp = 0;
inline std::uint64_t next_stamp() noexcept { return ++last_stamp; }
#endif

// Whether the forward pass of a dropped branch is running in this thread: no gradient reaches the
// branches nested in it.
class InsideDroppedBranch {
 public:
  explicit InsideDroppedBranch(bool dropped) noexcept : before_(inside()) {
    if (dropped) inside() = true;
  }
  InsideDroppedBranch(const InsideDroppedBranch&) = delete;
  InsideDroppedBranch& operator=(const InsideDroppedBranch&) = delete;
  ~InsideDroppedBranch() { inside() = before_; }

  static bool& inside() noexcept {
    static thread_local bool inside = false;
    return inside;
  }

 private:
  bool before_;
};

// Throws if the handler keeps a branch that runs inside a dropped one. A branch without a handler
// (stamp 0) is dropped with the branch that contains it.
inline void require_not_inside_dropped(const BranchDecision& decision) {
  if (InsideDroppedBranch::inside() && !decision.dropped && decision.saves && decision.stamp != 0)
    throw_order("a branch that is nested in a dropped one must be dropped with it",
                "its plan keeps it, and no gradient would reach it",
                "give one handler both, and tell it which branch is nested in which: "
                "DropOptions::parents");
}

// A type-erased callable that returns seconds.
struct ClockReference {
  double (*read)(const void*) = nullptr;
  const void* clock = nullptr;

  double operator()() const { return read != nullptr ? read(clock) : 0.0; }
};

// As std::addressof; <memory> would slow down the compilation.
template <class T>
constexpr T* address_of(T& x) noexcept {
  return __builtin_addressof(x);
}

template <class L>
concept has_decide = requires(L& layer, const BranchDecision& decision) { layer.decide(decision); };

template <class L>
concept has_calls = requires(L& layer, const L& constant) {
  { constant.calls() } -> std::convertible_to<BranchCalls>;
  layer.set_calls(BranchCalls{});
};

}  // namespace detail

/// A branch that can drop its backward pass and counts its calls. DropBPLayer models this concept.
template <class L>
concept DroppableLayer =
    detail::has_decide<L> && detail::can_ask<double, detail::Cost, L> && detail::has_calls<L>;

namespace detail {

struct LayerProbe {
  template <DroppableLayer L>
  void operator()(L&) const {}
};

struct GradientProbe {
  template <NormedTensor T>
  void operator()(const T&) const {}
  template <NormedTensor T>
  void operator()(const T*) const {}
};

template <class Use>
struct GradientVisitor {
  Use& use;
  template <class T>
  void operator()(const T& gradient) const {
    use(detail::address_of(gradient));
  }
  template <class T>
  void operator()(const T* gradient) const {
    use(gradient);
  }
  template <class T>
  void operator()(T* gradient) const {
    use(static_cast<const T*>(gradient));
  }
};

// Calls use(const T*) for every visited gradient; null if the parameter has none.
template <class Model, class Use>
void for_each_gradient_of(Model& model, Use use) {
  model.for_each_gradient(GradientVisitor<Use>{use});
}

template <class M>
concept has_for_each_layer = requires(M& model) { model.for_each_layer(LayerProbe{}); };

template <class M>
concept has_for_each_gradient = requires(M& model) { model.for_each_gradient(GradientProbe{}); };

}  // namespace detail

/// A model whose branches can be dropped: for_each_layer(visit) calls visit(layer) for every
/// DropBPLayer, in the order of the forward pass, the same layers every time. The layers may be of
/// different types.
template <class M>
concept Model = detail::has_for_each_layer<M>;

/// A model whose sensitivities can be measured: for_each_gradient(visit) also calls visit(gradient)
/// for every trained parameter tensor, in the same order every time. For a parameter without a
/// gradient, visit a null pointer (visit(static_cast<const T*>(nullptr))) or a gradient of zeros;
/// visit(&gradient) is allowed too.
template <class M>
concept GradientModel = Model<M> && detail::has_for_each_gradient<M>;

DROPBP_NAMESPACE_END
