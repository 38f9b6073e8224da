// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a handler asks of a model and of its layers.
#include <functional>
#include <utility>

#include "branch.hpp"

// A handler needs a model that walks over its layers.
// expect: dropbp: a handler's model needs for_each_layer(visit)
namespace model_without_layers {
struct Model {
  std::vector<dropbp::DropBPLayer<Branch>> layers;
#ifndef DROPBP_TEST_WRONG
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
#endif
};

void use(Model& model) { dropbp::DropBPHandler<Model> handler(model); }
}  // namespace model_without_layers

// The handler calls for_each_layer.
// expect: dropbp: a handler's model needs for_each_layer(visit), which calls visit(layer) with a
// reference
namespace model_hides_its_layers {
class Model {
#ifndef DROPBP_TEST_WRONG
 public:
#endif
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    visit(layer_);
  }

 private:
  dropbp::DropBPLayer<Branch> layer_{Branch{}};
};

void use(Model& model) { dropbp::DropBPHandler handler{model}; }
}  // namespace model_hides_its_layers

// A visitor of copies would not tell the layers.
// expect: dropbp: a handler's model needs for_each_layer(visit), which calls visit(layer) with a
// reference
namespace model_takes_layers_by_value {
struct Model {
  dropbp::DropBPLayer<Branch> layer{Branch{}};
#ifdef DROPBP_TEST_WRONG
  using Visit = std::function<void(dropbp::DropBPLayer<Branch>)>;
#else
  using Visit = std::function<void(dropbp::DropBPLayer<Branch>&)>;
#endif
  void for_each_layer(const Visit& visit) { visit(layer); }
};

void use(Model& model) { dropbp::DropBPHandler handler{model}; }
}  // namespace model_takes_layers_by_value

// The handler changes the layers.
// expect: dropbp: a handler's model needs for_each_layer(visit), which calls visit(layer) with a
// reference
namespace handler_of_a_constant_model {
#ifdef DROPBP_TEST_WRONG
using Model = const PlainModel;
#else
using Model = PlainModel;
#endif

void use(Model& model) { dropbp::DropBPHandler handler{model}; }
}  // namespace handler_of_a_constant_model

// What a model visits must be layers.
// expect: dropbp: for_each_layer must visit every DropBPLayer itself
namespace model_visits_no_layer {
struct Model {
  std::vector<dropbp::DropBPLayer<Branch>> layers;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
#ifdef DROPBP_TEST_WRONG
    for (auto& layer : layers) visit(layer.op());
#else
    for (auto& layer : layers) visit(layer);
#endif
  }
};

void use(Model& model) { dropbp::DropBPHandler handler{model}; }
}  // namespace model_visits_no_layer

// A decision told to a copy would be lost.
// expect: dropbp: for_each_layer must visit every DropBPLayer itself
namespace model_visits_copies {
struct Model {
  std::vector<dropbp::DropBPLayer<Branch>> layers;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
#ifdef DROPBP_TEST_WRONG
    for (auto& layer : layers) visit(dropbp::DropBPLayer<Branch>(layer));
#else
    for (auto& layer : layers) visit(layer);
#endif
  }
};

void use(Model& model) { dropbp::DropBPHandler handler{model}; }
}  // namespace model_visits_copies

// The handler must be allowed to change the layers.
// expect: dropbp: for_each_layer must visit every DropBPLayer itself
namespace model_visits_constant_layers {
struct Model {
  std::vector<dropbp::DropBPLayer<Branch>> layers;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
#ifdef DROPBP_TEST_WRONG
    for (auto& layer : layers) visit(std::as_const(layer));
#else
    for (auto& layer : layers) visit(layer);
#endif
  }
};

void use(Model& model) { dropbp::DropBPHandler handler{model}; }
}  // namespace model_visits_constant_layers

// A layer of one's own must have all that the handler uses.
// expect: dropbp: for_each_layer must visit every DropBPLayer itself
namespace layer_without_counts {
struct OwnLayer {
  void decide(const dropbp::BranchDecision&) {}
  double cost() const { return 1.0; }
  dropbp::BranchCalls calls() const { return {}; }
#ifndef DROPBP_TEST_WRONG
  void set_calls(dropbp::BranchCalls) {}
#endif
};

struct Model {
  OwnLayer layer;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    visit(layer);
  }
};

void use(Model& model) { dropbp::DropBPHandler handler{model}; }
}  // namespace layer_without_counts

// Only layers that take the time can be timed.
// expect: dropbp: measure_costs needs layers with set_clock
namespace own_layer_without_a_clock {
struct OwnLayer {
  void decide(const dropbp::BranchDecision&) {}
  double cost() const { return 1.0; }
  dropbp::BranchCalls calls() const { return {}; }
  void set_calls(dropbp::BranchCalls) {}
#ifndef DROPBP_TEST_WRONG
  void set_clock(auto) {}
  dropbp::BranchTimes times() const { return {}; }
#endif
};

struct Model {
  OwnLayer layer;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    visit(layer);
  }
};

void use(dropbp::DropBPHandler<Model>& handler) {
  handler.measure_costs([] {}, [] { return 0.0; });
}
}  // namespace own_layer_without_a_clock

// A running estimate asks the layers.
// expect: dropbp: observe_gradients needs layers with double squared_gradient_norm
namespace own_layer_without_a_gradient_norm {
struct OwnLayer {
  void decide(const dropbp::BranchDecision&) {}
  double cost() const { return 1.0; }
  dropbp::BranchCalls calls() const { return {}; }
  void set_calls(dropbp::BranchCalls) {}
#ifndef DROPBP_TEST_WRONG
  double squared_gradient_norm() { return 0.0; }
#endif
};

struct Model {
  OwnLayer layer;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    visit(layer);
  }
};

void use(dropbp::DropBPHandler<Model>& handler, dropbp::RunningSensitivity& running) {
  handler.observe_gradients(running);
}
}  // namespace own_layer_without_a_gradient_norm

// A running estimate needs the branches' own gradients.
// expect: dropbp: the norm of a branch's own gradients needs an operation with for_each_gradient
namespace own_gradients_not_visited {
struct Visiting : Branch {
#ifndef DROPBP_TEST_WRONG
  Vector gradient;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
#endif
};

struct Model {
  std::vector<dropbp::DropBPLayer<Visiting>> layers;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
};

void use(Model& model, dropbp::RunningSensitivity& running) {
  dropbp::DropBPHandler handler{model};
  handler.observe_gradients(running);
}
}  // namespace own_gradients_not_visited

// Sensitivities need the gradients.
// expect: dropbp: measuring sensitivities needs a model with for_each_gradient(visit)
namespace sensitivities_without_gradients {
struct Model {
  std::vector<dropbp::DropBPLayer<Branch>> layers;
  Vector gradient;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
#ifndef DROPBP_TEST_WRONG
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
#endif
};

std::vector<double> use(Model& model) {
  dropbp::DropBPHandler handler{model};
  return handler.measure_sensitivities([] {});
}
}  // namespace sensitivities_without_gradients

// for_each_gradient visits tensors.
// expect: dropbp: GradientNormSensitivity needs the norm of every gradient
namespace gradients_that_are_layers {
struct Model : PlainModel {
  Vector gradient;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
#ifdef DROPBP_TEST_WRONG
    for (auto& layer : layers) visit(layer);
#else
    visit(gradient);
#endif
  }
};

std::vector<double> use(Model& model) {
  dropbp::DropBPHandler handler{model};
  return handler.measure_sensitivities([] {});
}
}  // namespace gradients_that_are_layers
