// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Both sensitivities compared with sums worked out by hand, on gradients of one type and of
// several.
#include "dropbp/policy/sensitivity.hpp"

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "support/catch.hpp"

using dropbp::GradientNormSensitivity;
using dropbp::GradientSensitivity;

static_assert(dropbp::Sensitivity<GradientNormSensitivity>);
static_assert(dropbp::Sensitivity<GradientSensitivity>);

namespace {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

// Three gradients of two types, visited in the three allowed ways.
struct Gradients {
  Floats a{3, 4};
  Doubles b{6, 8};
  const Doubles* c = nullptr;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(a);
    visit(&b);
    visit(c);
  }
};

// The gradients of `floats`, then those of `doubles`.
struct AnyGradients {
  std::vector<Floats> floats;
  std::vector<Doubles> doubles;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    for (Floats& one : floats) visit(one);
    for (Doubles& one : doubles) visit(std::as_const(one));
  }
};

// A tensor whose objects are counted.
struct Counted {
  static inline int alive = 0;
  Counted() { ++alive; }
  Counted(const Counted&) { ++alive; }
  Counted& operator=(const Counted&) = default;
  ~Counted() { --alive; }
  struct dropbp_tensor_traits {
    static double squared_norm(const Counted&) { return 1.0; }
    static double squared_distance(const Counted&, const Counted&) { return 0.0; }
    static Counted clone(const Counted& one) { return one; }
  };
};
struct CountedGradients {
  Counted one, other;
  void for_each_gradient(auto&& visit) { visit(one), visit(other); }
};

template <class Policy>
double difference(const Policy& policy, auto before, auto after) {
  const typename Policy::Reference reference = policy.reference(before);
  return policy.difference(reference, after);
}

}  // namespace

TEST_CASE("The gradient norm sensitivity is the sum of squared changes of the norms") {
  Gradients before, after;  // norms 5, 10, absent
  CHECK(difference(GradientNormSensitivity{}, before, after) == 0.0);
  after.a = {0, 7};   // 7
  after.b = {-8, 6};  // 10: only the direction has changed
  CHECK(difference(GradientNormSensitivity{}, before, after) == 4.0);
  const Doubles c{1, 2, 2};
  after.c = &c;  // a new gradient: 3
  CHECK(difference(GradientNormSensitivity{}, before, after) == 13.0);
  CHECK(difference(GradientNormSensitivity{}, after, before) == 13.0);
}

TEST_CASE("The gradient sensitivity is the sum of squared distances") {
  Gradients before, after;
  CHECK(difference(GradientSensitivity{}, before, after) == 0.0);
  after.a = {0, 7};   // 9 + 9
  after.b = {-8, 6};  // 196 + 4
  CHECK(difference(GradientSensitivity{}, before, after) == 218.0);
  const Doubles c{1, 2, 2};
  after.c = &c;
  CHECK(difference(GradientSensitivity{}, before, after) == 227.0);
  CHECK(difference(GradientSensitivity{}, after, before) == 227.0);
  before.c = after.c;
  CHECK(difference(GradientSensitivity{}, before, after) == 218.0);
}

TEST_CASE("A reference keeps a copy of the gradients") {
  Gradients model;
  const auto copies = GradientSensitivity{}.reference(model);
  const auto norms = GradientNormSensitivity{}.reference(model);
  model.a = {0, 0};
  CHECK(GradientSensitivity{}.difference(copies, model) == 25.0);
  CHECK(GradientNormSensitivity{}.difference(norms, model) == 25.0);
  // A reference can be moved and assigned.
  auto moved = GradientSensitivity{}.reference(model);
  auto other = std::move(moved);
  model.a = {1, 2};
  moved = GradientSensitivity{}.reference(model);
  other = std::move(moved);
  CHECK(GradientSensitivity{}.difference(other, model) == 0.0);
}

TEST_CASE("A reference releases its copies") {
  CountedGradients model;
  REQUIRE(Counted::alive == 2);
  {
    auto copies = GradientSensitivity{}.reference(model);
    CHECK(Counted::alive == 4);
    const auto moved = std::move(copies);
    CHECK(Counted::alive == 4);
  }
  CHECK(Counted::alive == 2);
}

TEST_CASE("A changed number, order or size of the visited gradients is detected") {
  const AnyGradients two{{{1, 2}, {3}}, {}}, one{{{1, 2}}, {}}, three{{{1, 2}, {3}, {4}}, {}};
  const AnyGradients other_types{{{1, 2}}, {{3}}}, other_size{{{1, 2}, {3, 4}}, {}};
  for (const AnyGradients& changed : {one, three}) {
    CHECK_THROWS_AS(difference(GradientNormSensitivity{}, two, changed), std::logic_error);
    CHECK_THROWS_AS(difference(GradientSensitivity{}, two, changed), std::logic_error);
  }
  CHECK_THROWS_AS(difference(GradientSensitivity{}, two, other_types), std::logic_error);
  CHECK_THROWS_AS(difference(GradientSensitivity{}, two, other_size), std::invalid_argument);
}

TEST_CASE("A model without gradients has sensitivity zero") {
  CHECK(difference(GradientNormSensitivity{}, AnyGradients{}, AnyGradients{}) == 0.0);
  CHECK(difference(GradientSensitivity{}, AnyGradients{}, AnyGradients{}) == 0.0);
}

TEST_CASE("Gradients that are not finite give a sensitivity that is not finite") {
  const AnyGradients good{{{1}}, {}};
  for (const float value :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const AnyGradients bad{{{value}}, {}};
    CHECK_FALSE(std::isfinite(difference(GradientNormSensitivity{}, good, bad)));
    CHECK_FALSE(std::isfinite(difference(GradientNormSensitivity{}, bad, bad)));
    CHECK_FALSE(std::isfinite(difference(GradientSensitivity{}, bad, good)));
  }
}
