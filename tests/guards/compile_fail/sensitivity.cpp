// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sensitivity policies, and what they ask of gradients.
#include <cstddef>
#include <string>
#include <vector>

#include "branch.hpp"
#include "dropbp/policy/sensitivity.hpp"

// A sensitivity policy compares two passes.
// expect: dropbp: the second argument of a measurement is a sensitivity policy
namespace sensitivity_without_difference {
struct Own {
  struct Reference {};
  Reference reference(auto&) const { return {}; }
#ifndef DROPBP_TEST_WRONG
  double difference(const Reference&, auto&) const { return 0.0; }
#endif
};

auto use(dropbp::DropBPHandler<TrainedModel>& handler) {
  return handler.measure_sensitivities([] {}, Own{});
}
}  // namespace sensitivity_without_difference

// A sensitivity is a double.
// expect: dropbp: the second argument of a measurement is a sensitivity policy
namespace sensitivity_in_floats {
struct Own {
  struct Reference {};
  Reference reference(auto&) const { return {}; }
#ifdef DROPBP_TEST_WRONG
  float difference(const Reference&, auto&) const { return 0.0f; }
#else
  double difference(const Reference&, auto&) const { return 0.0; }
#endif
};

auto use(dropbp::DropBPHandler<TrainedModel>& handler) {
  return handler.measure_sensitivities([] {}, Own{});
}
}  // namespace sensitivity_in_floats

// A sensitivity policy keeps what it remembers in its Reference.
// expect: dropbp: the second argument of a measurement is a sensitivity policy
namespace sensitivity_that_changes {
struct Own {
  struct Reference {};
#ifdef DROPBP_TEST_WRONG
  Reference reference(auto&) { return {}; }
#else
  Reference reference(auto&) const { return {}; }
#endif
  double difference(const Reference&, auto&) const { return 0.0; }
};

auto use(dropbp::DropBPHandler<TrainedModel>& handler) {
  return handler.measure_sensitivities([] {}, Own{});
}
}  // namespace sensitivity_that_changes

// The handler has its allocation policy already.
// expect: dropbp: the second argument of a measurement is a sensitivity policy
namespace allocation_in_the_place_of_sensitivity {
auto use(dropbp::DropBPHandler<TrainedModel>& handler) {
#ifdef DROPBP_TEST_WRONG
  return handler.allocate_by_sensitivity([] {}, dropbp::GreedyAllocation{});
#else
  return handler.allocate_by_sensitivity([] {}, dropbp::GradientSensitivity{});
#endif
}
}  // namespace allocation_in_the_place_of_sensitivity

// The default sensitivity needs norms.
// expect: dropbp: GradientNormSensitivity needs the norm of every gradient
namespace gradient_without_norm {
struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
#ifndef DROPBP_TEST_WRONG
    static double squared_norm(const Field& x) { return static_cast<double>(x.value * x.value); }
#endif
  };
};

struct Model {
  Field gradient;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
};

double use(const dropbp::GradientNormSensitivity& policy, Model& model) {
  return policy.difference(policy.reference(model), model);
}
}  // namespace gradient_without_norm

// A bare nullptr does not say of which type the gradient would be.
// expect: dropbp: GradientNormSensitivity needs the norm of every gradient
namespace gradient_visited_as_nullptr {
struct Model {
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
#ifdef DROPBP_TEST_WRONG
    visit(nullptr);
#else
    visit(static_cast<const std::vector<float>*>(nullptr));
#endif
  }
};

dropbp::GradientNormSensitivity::Reference use(const dropbp::GradientNormSensitivity& policy,
                                               Model& model) {
  return policy.reference(model);
}
}  // namespace gradient_visited_as_nullptr

// Gradients are asked for their norms where no layer has seen their type.
// expect: dropbp: data() of this tensor type must return a pointer to its elements
namespace gradient_whose_data_is_no_pointer {
#ifdef DROPBP_TEST_WRONG
using Gradient = std::vector<std::string>;
#else
using Gradient = std::vector<float>;
#endif

struct Model {
  Gradient gradient;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
};

dropbp::GradientNormSensitivity::Reference use(const dropbp::GradientNormSensitivity& policy,
                                               Model& model) {
  return policy.reference(model);
}
}  // namespace gradient_whose_data_is_no_pointer

// The sensitivity by distance needs copies and distances.
// expect: dropbp: GradientSensitivity keeps and compares every gradient
namespace gradient_without_distance {
struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
    static double squared_norm(const Field& x) { return static_cast<double>(x.value * x.value); }
#ifndef DROPBP_TEST_WRONG
    static double squared_distance(const Field& x, const Field& y) {
      return static_cast<double>((x.value - y.value) * (x.value - y.value));
    }
    static Field clone(const Field& x) { return x; }
#endif
  };
};

struct Model {
  Field gradient;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
};

double use(const dropbp::GradientSensitivity& policy, Model& model) {
  return policy.difference(policy.reference(model), model);
}
}  // namespace gradient_without_distance

// A clone is a tensor of the same type.
// expect: dropbp: GradientSensitivity keeps and compares every gradient
namespace clone_returns_another_type {
struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
    static double squared_norm(const Field& x) { return static_cast<double>(x.value * x.value); }
    static double squared_distance(const Field& x, const Field& y) {
      return squared_norm({x.value - y.value});
    }
#ifdef DROPBP_TEST_WRONG
    static float clone(const Field& x) { return x.value; }
#else
    static Field clone(const Field& x) { return x; }
#endif
  };
};

struct Model {
  Field gradient;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
};

double use(const dropbp::GradientSensitivity& policy, Model& model) {
  return policy.difference(policy.reference(model), model);
}
}  // namespace clone_returns_another_type
