// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What measurements are given: backprop, a clock, the pass of a branchwise one.
#include <chrono>

#include "branch.hpp"
#include "dropbp/steady_clock.hpp"

// The function is handed over, not its result.
// expect: dropbp: the first argument of a measurement is backprop, a function that is called
// without arguments
namespace backprop_that_has_run {
float backprop();

auto use(dropbp::DropBPHandler<TrainedModel>& handler) {
#ifdef DROPBP_TEST_WRONG
  return handler.allocate_by_sensitivity(backprop());
#else
  return handler.allocate_by_sensitivity(backprop);
#endif
}
}  // namespace backprop_that_has_run

// The library does not pass a batch to backprop.
// expect: dropbp: the first argument of a measurement is backprop, a function that is called
// without arguments
namespace backprop_with_an_argument {
auto use(dropbp::DropBPHandler<TrainedModel>& handler) {
#ifdef DROPBP_TEST_WRONG
  return handler.measure_sensitivities([](int) {});
#else
  return handler.measure_sensitivities([] {});
#endif
}
}  // namespace backprop_with_an_argument

// measure_costs does not pass a batch to backprop either.
// expect: dropbp: the first argument of a measurement is backprop, a function that is called
// without arguments
namespace costs_of_a_backprop_with_an_argument {
void use(dropbp::DropBPHandler<PlainModel>& handler) {
#ifdef DROPBP_TEST_WRONG
  handler.measure_costs([](int) {}, [] { return 0.0; });
#else
  handler.measure_costs([] {}, [] { return 0.0; });
#endif
}
}  // namespace costs_of_a_backprop_with_an_argument

// A clock is read as a constant.
// expect: dropbp: the second argument of measure_costs is a clock
namespace clock_that_changes {
void use(dropbp::DropBPHandler<PlainModel>& handler) {
#ifdef DROPBP_TEST_WRONG
  handler.measure_costs([] {}, [seconds = 0.0]() mutable { return seconds += 1.0; });
#else
  handler.measure_costs([] {}, [seconds = 0.0] { return seconds; });
#endif
}
}  // namespace clock_that_changes

// A clock tells seconds as a number.
// expect: dropbp: the second argument of measure_costs is a clock
namespace clock_that_tells_a_point_in_time {
void use(dropbp::DropBPHandler<PlainModel>& handler) {
#ifdef DROPBP_TEST_WRONG
  handler.measure_costs([] {}, [] { return std::chrono::steady_clock::now(); });
#else
  handler.measure_costs([] {}, dropbp::SteadyClock{});
#endif
}
}  // namespace clock_that_tells_a_point_in_time

// Branchwise measurements run a backward again on the same Saved, which the operation must allow.
// expect: dropbp: measure_sensitivities_branchwise runs each backward several times
namespace branchwise_backward_that_consumes {
struct Repeatable : Branch {
#ifndef DROPBP_TEST_WRONG
  static constexpr bool backward_is_repeatable = true;
#endif
};

struct Model {
  std::vector<dropbp::DropBPLayer<Repeatable>> layers;
  Vector gradient;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
};

struct Pass {
  Model& model;
  Vector forward() { return {}; }
  Vector backward(std::size_t branch, const Vector& grad) {
    return model.layers[branch].backward(grad);
  }
  void backward_below(const Vector&) {}
  void clear_gradients(std::size_t) {}
};

std::vector<double> use(Model& model) {
  dropbp::DropBPHandler handler{model};
  return handler.measure_sensitivities_branchwise(Pass{model});
}
}  // namespace branchwise_backward_that_consumes

// A branchwise measurement begins with a forward pass.
// expect: dropbp: the pass of measure_sensitivities_branchwise needs Gradient forward()
namespace branchwise_pass_without_forward {
struct Pass {
#ifndef DROPBP_TEST_WRONG
  Vector forward() { return {}; }
#endif
  Vector backward(std::size_t, const Vector& grad) { return grad; }
  void backward_below(const Vector&) {}
  void clear_gradients(std::size_t) {}
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_branchwise(pass);
}
}  // namespace branchwise_pass_without_forward

// A branchwise measurement goes on from the gradient that forward returns.
// expect: dropbp: the pass of measure_sensitivities_branchwise needs Gradient forward()
namespace branchwise_pass_forward_returns_nothing {
struct Pass {
#ifdef DROPBP_TEST_WRONG
  void forward() {}
#else
  Vector forward() { return {}; }
#endif
  Vector backward(std::size_t, const Vector& grad) { return grad; }
  void backward_below(const Vector&) {}
  void clear_gradients(std::size_t) {}
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_branchwise(pass);
}
}  // namespace branchwise_pass_forward_returns_nothing

// Branches are run backward one by one.
// expect: dropbp: the pass of measure_sensitivities_branchwise needs Gradient backward(std::size_t
// branch
namespace branchwise_pass_backward_of_all {
struct Pass {
  Vector forward() { return {}; }
#ifdef DROPBP_TEST_WRONG
  Vector backward(const Vector& grad) { return grad; }
#else
  Vector backward(std::size_t, const Vector& grad) { return grad; }
#endif
  void backward_below(const Vector&) {}
  void clear_gradients(std::size_t) {}
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_branchwise(pass);
}
}  // namespace branchwise_pass_backward_of_all

// The gradient of a branch's output is used again.
// expect: dropbp: the pass of measure_sensitivities_branchwise needs Gradient backward(std::size_t
// branch
namespace branchwise_pass_backward_in_place {
struct Pass {
  Vector forward() { return {}; }
#ifdef DROPBP_TEST_WRONG
  void backward(std::size_t, Vector&) {}
#else
  Vector backward(std::size_t, const Vector& grad) { return grad; }
#endif
  void backward_below(const Vector&) {}
  void clear_gradients(std::size_t) {}
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_branchwise(pass);
}
}  // namespace branchwise_pass_backward_in_place

// All gradients of the residual stream are of one type.
// expect: dropbp: the pass of measure_sensitivities_branchwise needs Gradient backward(std::size_t
// branch
namespace branchwise_pass_backward_returns_another_gradient {
struct Pass {
  Vector forward() { return {}; }
#ifdef DROPBP_TEST_WRONG
  std::vector<double> backward(std::size_t, const Vector& grad) {
    return std::vector<double>(grad.size());
  }
#else
  Vector backward(std::size_t, const Vector& grad) { return grad; }
#endif
  void backward_below(const Vector&) {}
  void clear_gradients(std::size_t) {}
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_branchwise(pass);
}
}  // namespace branchwise_pass_backward_returns_another_gradient

// What lies below the branches has gradients too.
// expect: dropbp: the pass of measure_sensitivities_branchwise needs void backward_below
namespace branchwise_pass_without_backward_below {
struct Pass {
  Vector forward() { return {}; }
  Vector backward(std::size_t, const Vector& grad) { return grad; }
#ifndef DROPBP_TEST_WRONG
  void backward_below(const Vector&) {}
#endif
  void clear_gradients(std::size_t) {}
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_branchwise(pass);
}
}  // namespace branchwise_pass_without_backward_below

// Each branchwise pass begins with absent gradients.
// expect: dropbp: the pass of measure_sensitivities_branchwise needs void clear_gradients
namespace branchwise_pass_without_clear_gradients {
struct Pass {
  Vector forward() { return {}; }
  Vector backward(std::size_t, const Vector& grad) { return grad; }
  void backward_below(const Vector&) {}
#ifndef DROPBP_TEST_WRONG
  void clear_gradients(std::size_t) {}
#endif
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_branchwise(pass);
}
}  // namespace branchwise_pass_without_clear_gradients

// What lies above the dropped branch keeps its gradients.
// expect: dropbp: the pass of measure_sensitivities_branchwise needs void clear_gradients
namespace branchwise_pass_clears_everything {
struct Pass {
  Vector forward() { return {}; }
  Vector backward(std::size_t, const Vector& grad) { return grad; }
  void backward_below(const Vector&) {}
#ifdef DROPBP_TEST_WRONG
  void clear_gradients() {}
#else
  void clear_gradients(std::size_t) {}
#endif
};

auto use(dropbp::DropBPHandler<RepeatableModel>& handler, Pass& pass) {
  return handler.measure_sensitivities_branchwise(pass);
}
}  // namespace branchwise_pass_clears_everything
