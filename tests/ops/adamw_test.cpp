// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// AdamW and gradient clipping, compared with the formulas in double.
#include "dropbp/ops/adamw.hpp"

#include <limits>
#include <utility>
#include <vector>

#include "ops/ops_test.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;

namespace {

template <class T>
void compare_with_formula(double bound) {
  const AdamWOptions options{3e-3, 0.85, 0.97, 1e-6, 0.1};
  Parameter<T> kept("kept", 3, 2801), rare("rare", 1, 7), frozen("frozen", 2, 2);
  randomise(kept, 1), randomise(rare, 2), randomise(frozen, 3);
  frozen.trained = false;
  AdamW<T> optimizer({&kept, &rare, &frozen}, options);
  std::vector<double> p = as_doubles<T>(elements(std::as_const(kept).value())), m(p.size()),
                      v(p.size());
  const Matrix<T> frozen_before = random_matrix<T>(2, 2, 3);
  std::vector<double> rare_before = as_doubles<T>(elements(std::as_const(rare).value()));
  for (int t = 1; t <= 12; ++t) {
    const double factor = t % 2 == 0 ? 0.25 : 1.0;
    kept.begin_gradient(), frozen.begin_gradient();
    fill<T>(elements(kept.gradient()), 10u + static_cast<unsigned>(t));
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double g = factor * static_cast<double>(kept.gradient().data[i]);
      p[i] *= 1 - options.learning_rate * options.weight_decay;
      m[i] = options.beta1 * m[i] + (1 - options.beta1) * g;
      v[i] = options.beta2 * v[i] + (1 - options.beta2) * g * g;
      p[i] -= options.learning_rate / (1 - std::pow(options.beta1, t)) * m[i] /
              (std::sqrt(v[i]) / std::sqrt(1 - std::pow(options.beta2, t)) + options.eps);
    }
    optimizer.step(factor);
    kept.drop_gradient();
  }
  CHECK(scaled_difference(elements(kept.value()), p) <= bound);
  CHECK(scaled_difference(elements(optimizer.state(0).first_moment), m) <= bound);
  CHECK(scaled_difference(elements(optimizer.state(0).second_moment), v) <= bound);
  CHECK(optimizer.state(0).steps == 12);

  // Without a gradient there is no decay, no moment and no step. A frozen parameter never changes.
  CHECK(scaled_difference(elements(rare.value()), rare_before) == 0);
  CHECK(optimizer.state(1).steps == 0);
  CHECK(optimizer.state(1).first_moment.size() == 0);
  CHECK(same_bits(elements(std::as_const(frozen).value()), elements(frozen_before)));
  CHECK(optimizer.state(2).steps == 0);

  // Each parameter has a step count of its own: the first update has the full bias correction, even
  // if it comes late.
  rare.begin_gradient();
  for (T& g : elements(rare.gradient())) g = T(0.5);
  optimizer.step();
  CHECK(optimizer.state(1).steps == 1);
  for (std::size_t i = 0; i < rare_before.size(); ++i) {
    const double expected = rare_before[i] * (1 - 3e-4) - 3e-3 * 0.5 / (0.5 + 1e-6);
    CHECK(std::abs(static_cast<double>(rare.value().data[i]) - expected) <= bound);
  }
}

}  // namespace

TEST_CASE("AdamW follows PyTorch's formulas and skips parameters without a gradient") {
  SECTION("float") { compare_with_formula<float>(3e-6); }
  SECTION("double") { compare_with_formula<double>(1e-14); }
}

TEST_CASE("AdamW applies weight decay only to parameters that decay") {
  const auto trained = [](double weight_decay, bool decays) {
    Parameter<float> matrix("matrix", 3, 700), norm("norm", 1, 700);
    norm.decays = decays;
    randomise(matrix, 1), randomise(norm, 2);
    AdamW<float> optimizer({&matrix, &norm}, {.weight_decay = weight_decay});
    for (unsigned step = 0; step < 3; ++step) {
      matrix.begin_gradient(), norm.begin_gradient();
      fill<float>(elements(matrix.gradient()), 10 + step);
      fill<float>(elements(norm.gradient()), 20 + step);
      optimizer.step();
    }
    return std::pair(std::vector<float>(matrix.value().data, matrix.value().data + 2100),
                     std::vector<float>(norm.value().data, norm.value().data + 700));
  };
  const auto all = trained(0.5, true), none = trained(0.0, true), some = trained(0.5, false);
  CHECK(some.first == all.first);
  CHECK(some.second == none.second);
  CHECK(all.second != none.second);
  CHECK(Parameter<float>("w", 1, 1).decays);
}

TEST_CASE("AdamW and the gradient norm have the same bits on any number of threads") {
  const ThreadsGuard guard;
  std::uint64_t first = 0;
  double first_norm = 0;
  for (const int threads : thread_counts) {
    use_threads(threads);
    Parameter<float> a("a", 211, 307), b("b", 1, 1);
    randomise(a, 1), randomise(b, 2);
    a.begin_gradient(), b.begin_gradient();
    fill<float>(elements(a.gradient()), 3), fill<float>(elements(b.gradient()), 4);
    std::vector<Parameter<float>*> parameters{&a, &b};
    const double norm = global_gradient_norm<float>(parameters);
    AdamW<float> optimizer(parameters);
    for (int step = 0; step < 3; ++step) optimizer.step(clip_factor(norm, 1.0));
    Hash hash;
    hash.add(elements(a.value())), hash.add(elements(b.value()));
    if (threads == 1) first = hash.value(), first_norm = norm;
    CHECK(hash.value() == first);
    CHECK(norm == first_norm);
  }
}

TEST_CASE("the global norm counts the present gradients, and the clip factor is PyTorch's") {
  Parameter<float> a("a", 1, 20001), large("large", 2, 1100003), absent("absent", 1, 3),
      frozen("frozen", 1, 3);
  a.begin_gradient(), large.begin_gradient(), frozen.begin_gradient();
  frozen.trained = false;
  std::fill_n(a.gradient().data, 20001, 0.5f);
  std::fill_n(large.gradient().data, 2200006, 0.5f);
  std::fill_n(frozen.gradient().data, 3, 100.0f);
  const std::vector<Parameter<float>*> parameters{&a, &absent, &large, &frozen};
  CHECK(std::abs(global_gradient_norm<float>(parameters) - std::sqrt(2220007 * 0.25)) <= 1e-10);
  CHECK(clip_factor(2.0, 1.0) == 1.0 / (2.0 + 1e-6));
  CHECK(clip_factor(0.5, 1.0) == 1.0);
  CHECK(clip_factor(0.0, 1.0) == 1.0);
}

TEST_CASE("the norm is finite if and only if all gradients are finite") {
  constexpr float largest = std::numeric_limits<float>::max();
  Parameter<float> a("a", 3, 8201);
  a.begin_gradient();
  const std::vector<Parameter<float>*> parameters{&a};
  std::fill_n(a.gradient().data, a.size(), largest);
  const double norm = global_gradient_norm<float>(parameters);
  CHECK(std::abs(norm / (std::sqrt(3.0 * 8201.0) * static_cast<double>(largest)) - 1.0) < 1e-12);
  for (const float wrong :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()})
    for (const std::size_t at : {std::size_t{0}, std::size_t{8200}, a.size() - 1}) {
      std::fill_n(a.gradient().data, a.size(), 0.0f);
      a.gradient().data[at] = wrong;
      CHECK_FALSE(std::isfinite(global_gradient_norm<float>(parameters)));
    }
}

TEST_CASE("AdamW's defaults are PyTorch's, and its moments begin at 0") {
  const AdamWOptions options;
  CHECK(std::vector{options.learning_rate, options.beta1, options.beta2, options.eps,
                    options.weight_decay} == std::vector{1e-3, 0.9, 0.999, 1e-8, 1e-2});
  Parameter<float> a("a", 1, 3);
  AdamWState<float> state;
  a.begin_gradient();
  std::fill_n(a.gradient().data, 3, 0.0f);
  adamw_update(a, state, options);
  CHECK(state.steps == 1);
  for (const Matrix<float>* moment : {&state.first_moment, &state.second_moment})
    for (const float value : elements(*moment)) CHECK(value == 0.0f);
}

TEST_CASE("AdamW adds up changes that a bfloat16 cannot hold") {
  Parameter<dropbp::BFloat16> a("a", 1, 2);
  for (dropbp::BFloat16& value : elements(a.value()))
    value = dropbp::from_float<dropbp::BFloat16>(1);
  AdamW<dropbp::BFloat16> optimizer({&a}, {.learning_rate = 1e-3, .weight_decay = 0.0});
  for (int step = 0; step < 10; ++step) {
    a.begin_gradient();
    for (dropbp::BFloat16& g : elements(a.gradient()))
      g = dropbp::from_float<dropbp::BFloat16>(0.5f);
    optimizer.step();
    a.drop_gradient();
  }
  REQUIRE(optimizer.state(0).master.size() == 2);
  CHECK(std::abs(optimizer.state(0).master.data()[0] - 0.99f) < 1e-5f);
  CHECK(dropbp::to_float(a.value().data[0]) < 1.0f);
}

TEST_CASE("AdamW refuses options outside their ranges") {
  Parameter<float> a("a", 1, 1);
  const auto message_of = [&](double AdamWOptions::* option, double value) {
    AdamWOptions options;
    options.*option = value;
    return invalid_message([&] { AdamW<float> optimizer({&a}, options); });
  };
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (double AdamWOptions::* const option :
       {&AdamWOptions::learning_rate, &AdamWOptions::beta1, &AdamWOptions::beta2,
        &AdamWOptions::eps, &AdamWOptions::weight_decay}) {
    CHECK(message_of(option, 0.0).empty());
    for (const double wrong :
         {-1e-300, -infinity, infinity, std::numeric_limits<double>::quiet_NaN()})
      CHECK(contains(message_of(option, wrong), "at least 0 and betas in [0, 1)"));
  }
  for (double AdamWOptions::* const beta : {&AdamWOptions::beta1, &AdamWOptions::beta2}) {
    CHECK(message_of(beta, std::nextafter(1.0, 0.0)).empty());
    CHECK_FALSE(message_of(beta, 1.0).empty());
  }
  CHECK(contains(message_of(&AdamWOptions::beta2, 1.0), "0.9 and 1 were given"));
  CHECK(contains(message_of(&AdamWOptions::learning_rate, std::nan("")), "learning_rate nan"));
}
