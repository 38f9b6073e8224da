// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Properties that the policies promise for a whole model, tested on the small LLaMA of
// tests/data/llama-tiny and similar models.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/steady_clock.hpp>

#include "llama/formats/safetensors.hpp"
#include "llama/model/model.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"
#include "support/worst.hpp"

namespace {

using dropbp::DropPlan;
using dropbp::GradientScaling;
using Gradients = std::map<std::string, std::vector<double>>;

const std::filesystem::path folder = std::filesystem::path(DROPBP_TEST_DATA) / "llama-tiny";

llama::Batch some_batch(std::ptrdiff_t batch, std::ptrdiff_t sequence, std::int32_t vocabulary) {
  llama::Batch result{.shape = {batch, sequence}, .inputs = {}, .labels = {}};
  for (std::ptrdiff_t i = 0; i < batch * sequence; ++i) {
    result.inputs.push_back(static_cast<std::int32_t>((i * 7 + i * i * 3 + 1) % vocabulary));
    result.labels.push_back(static_cast<std::int32_t>((i * 5 + 2) % vocabulary));
  }
  return result;
}

template <class T>
struct Tiny {
  llama::LlamaModel<T> model{llama::load_config(folder), 12, {.fill = dropbp::ops::PoolFill::nan}};
  llama::Batch batch = some_batch(2, 12, static_cast<std::int32_t>(model.config().vocabulary));

  Tiny() { llama::load_weights(folder, model); }

  void backprop() {
    model.clear_gradients();
    model.loss_and_gradients(batch);
  }

  Gradients gradients() {
    Gradients result;
    model.for_each_tensor([&](const auto& tensor) {
      std::vector<double>& gradient = result[tensor.name];
      gradient.resize(tensor.size());
      if (tensor.gradient != nullptr)
        std::copy(tensor.gradient, tensor.gradient + tensor.size(), gradient.begin());
    });
    return result;
  }
};

void add(Gradients& sum, const Gradients& gradients, double factor) {
  for (const auto& [name, gradient] : gradients) {
    std::vector<double>& total = sum[name];
    total.resize(gradient.size());
    for (std::size_t i = 0; i < gradient.size(); ++i) total[i] += factor * gradient[i];
  }
}

double largest_difference(const Gradients& a, const Gradients& b) {
  double worst = 0.0;
  for (const auto& [name, gradient] : a)
    for (std::size_t i = 0; i < gradient.size(); ++i)
      dropbp::test::keep_worst(worst, std::abs(gradient[i] - b.at(name)[i]));
  return worst;
}

std::vector<std::uint8_t> mask_of(unsigned bits, std::size_t size) {
  std::vector<std::uint8_t> mask(size);
  for (std::size_t i = 0; i < size; ++i) mask[i] = (bits >> i) & 1u;
  return mask;
}

// Averages the gradient over all plans, weighted by `rates`: the probability of each mask of
// dropped branches.
Gradients mean_gradient(const std::vector<double>& rates, GradientScaling scaling,
                        const std::vector<double>& probabilities) {
  Tiny<double> tiny;
  dropbp::DropBPHandler handler{tiny.model, {.gradient_scaling = scaling}};
  handler.set_drop_rates(rates);
  Gradients mean;
  for (unsigned bits = 0; bits < probabilities.size(); ++bits) {
    if (probabilities[bits] == 0.0) continue;
    handler.begin_step(DropPlan(mask_of(bits, rates.size())));
    tiny.backprop();
    add(mean, tiny.gradients(), probabilities[bits]);
  }
  return mean;
}

// The mask probabilities of independent draws at these rates.
std::vector<double> independent(const std::vector<double>& rates) {
  std::vector<double> probabilities(std::size_t{1} << rates.size(), 1.0);
  for (unsigned bits = 0; bits < probabilities.size(); ++bits)
    for (std::size_t i = 0; i < rates.size(); ++i)
      probabilities[bits] *= (bits >> i & 1u) != 0 ? rates[i] : 1.0 - rates[i];
  return probabilities;
}

}  // namespace

TEST_CASE(
    "With gradient scaling the expected gradient over all 64 plans is exactly the full gradient") {
  const std::vector<double> rates = {0.5, 0.25, 0.75, 0.3, 0.875, 0.1};
  Tiny<double> full;
  full.backprop();
  const Gradients expected = full.gradients();
  const Gradients none = mean_gradient(rates, GradientScaling::none, independent(rates));
  const double bias = largest_difference(none, expected);
  CHECK(bias > 1e-4);  // biased, as published

  const Gradients scaled =
      mean_gradient(rates, GradientScaling::inverse_keep_rate, independent(rates));
  CAPTURE(bias, largest_difference(scaled, expected));
  CHECK(largest_difference(scaled, expected) <= 1e-10);

  // With dependent draws only a gradient that passes through no other branch is unbiased. That is
  // true for the highest branch.
  std::vector<double> dependent(64);
  const std::vector<double> half(6, 0.5);
  for (unsigned bits = 0; bits < 64; ++bits)
    if (std::popcount(bits) == 3) dependent[bits] = 1.0 / 20.0;
  const Gradients of_dependent = mean_gradient(half, GradientScaling::inverse_keep_rate, dependent);
  const std::string highest = "model.layers.2.mlp.down_proj.weight";
  CHECK(largest_difference({{highest, expected.at(highest)}}, of_dependent) <= 1e-10);
  const double dependent_bias = largest_difference(of_dependent, expected);
  CAPTURE(dependent_bias);
  CHECK(dependent_bias > 1e-6);
  CHECK(dependent_bias <
        largest_difference(mean_gradient(half, GradientScaling::none, dependent), expected));
}

TEST_CASE("The gradient scale of a step follows the rates that its plan was drawn with") {
  Tiny<double> tiny;
  dropbp::DropBPHandler handler{tiny.model,
                                {.drop_rate = 0.5,
                                 .seed = 3,
                                 .gradient_scaling = GradientScaling::inverse_keep_rate,
                                 .warmup_steps = 4}};
  std::vector<double> scales;
  handler.schedule().gradient_scales(0, scales);
  CHECK(scales == std::vector<double>(6, 1.0));
  handler.schedule().gradient_scales(2, scales);
  CHECK(scales == std::vector<double>(6, 1.0 / 0.75));
  handler.schedule().gradient_scales(4, scales);
  CHECK(scales == std::vector<double>(6, 2.0));
  handler.set_drop_rate(1.0);
  handler.schedule().gradient_scales(4, scales);
  CHECK(scales == std::vector<double>(6, 1.0));
}

TEST_CASE("Nested backward passes measure the same as one pass per branch") {
  const bool tied = GENERATE(false, true);
  CAPTURE(tied);
  llama::LlamaConfig config = llama::load_config(folder);
  config.tie_embeddings = tied;
  const auto agree = [&]<class T>(T, const auto& policy, double tolerance) {
    llama::LlamaModel<T> model(config, 12, {.fill = dropbp::ops::PoolFill::nan});
    model.initialize(5);
    const llama::Batch batch = some_batch(2, 12, static_cast<std::int32_t>(config.vocabulary));
    dropbp::DropBPHandler handler{model};
    const auto reference = handler.measure_sensitivities(
        [&] {
          model.clear_gradients();
          model.loss_and_gradients(batch);
        },
        policy);
    handler.begin_step(7);
    const DropPlan before = handler.plan();
    const auto report = handler.report();
    const auto branchwise =
        handler.measure_sensitivities_branchwise(llama::BranchwisePass<T>(model, batch), policy);
    double worst = 0.0;
    for (std::size_t i = 0; i < reference.size(); ++i)
      dropbp::test::keep_worst(worst, std::abs(branchwise[i] / reference[i] - 1.0));
    CAPTURE(worst);
    CHECK(worst <= tolerance);

    // The measurement leaves the handler unchanged.
    CHECK(handler.plan() == before);
    CHECK(handler.report().branches[0].calls == report.branches[0].calls);
    model.for_each_layer([](auto& layer) { CHECK_FALSE(layer.holds_saved()); });
    model.clear_gradients();
    model.loss_and_gradients(batch);
    for (std::size_t i = 0; i < handler.size(); ++i)
      CHECK(handler.report().branches[i].calls.backward == (before.kept(i) ? 1u : 0u));
  };
  agree(double{}, dropbp::GradientNormSensitivity{}, 1e-10);
  agree(double{}, dropbp::GradientSensitivity{}, 1e-10);
  agree(float{}, dropbp::GradientNormSensitivity{}, 1e-5);
  agree(float{}, dropbp::GradientSensitivity{}, 1e-5);
}

TEST_CASE(
    "A running estimate observes the own gradient of each kept branch, for any number of "
    "micro-steps and any gradient scale") {
  Tiny<double> tiny;
  tiny.backprop();
  std::vector<double> own;
  tiny.model.for_each_layer([&](auto& layer) { own.push_back(layer.squared_gradient_norm()); });
  double sum = 0.0;
  for (const auto& [name, gradient] : tiny.gradients())
    if (name.starts_with("model.layers.0.mlp") ||
        name == "model.layers.0.post_attention_layernorm.weight")
      for (const double g : gradient) sum += g * g;
  CHECK(std::abs(own[1] / sum - 1.0) < 1e-12);

  // The highest branch gets the full gradient whenever it is kept: in one of two micro-steps, in
  // both, and with scaling.
  for (const std::uint32_t micro_steps : {1u, 2u}) {
    dropbp::DropBPHandler handler{
        tiny.model, {.drop_rate = 0.5, .gradient_scaling = GradientScaling::inverse_keep_rate}};
    dropbp::RunningSensitivity running(handler.size());
    tiny.model.clear_gradients();
    std::uint64_t step = 0;
    while (handler.schedule().plan(step).dropped(5)) ++step;
    handler.begin_step(step);
    tiny.model.loss_and_gradients(tiny.batch);
    for (std::uint32_t micro = 1; micro < micro_steps; ++micro) {
      handler.begin_micro_step(micro);
      tiny.model.loss_and_gradients(tiny.batch);
    }
    handler.observe_gradients(running);
    CHECK(std::abs(running.sensitivities()[5] / own[5] - 1.0) < 1e-10);
    for (std::size_t i = 0; i < handler.size(); ++i)
      CHECK(running.is_known(i) == handler.has_gradient(i));
  }
}

TEST_CASE("A running estimate adds a branch's effect on the gradients of lower branches") {
  Tiny<double> tiny;
  dropbp::DropBPHandler handler{tiny.model, {.drop_rate = 0.0}};
  std::vector<double> own, ratios;  // from the lowest branch up
  {
    llama::BranchwisePass<double> pass(tiny.model, tiny.batch);
    handler.begin_step(0);
    auto gradient = pass.forward();
    for (std::size_t i = handler.size(); i-- > 0;) {
      const double above = dropbp::squared_norm(gradient);
      gradient = pass.backward(i, gradient);
      ratios.insert(ratios.begin(), std::sqrt(above / dropbp::squared_norm(gradient)));
    }
    tiny.model.for_each_layer([&](auto& layer) { own.push_back(layer.squared_gradient_norm()); });
  }
  dropbp::RunningSensitivity running(handler.size());
  const auto step = [&](std::uint64_t number) {
    handler.begin_step(number);
    tiny.backprop();
    handler.observe_gradients(running);
  };
  step(1);
  CHECK(running.sensitivities() == own);  // the layers do not observe the ratios yet
  step(2);
  double below = 0.0;
  for (std::size_t i = 0; i < handler.size(); ++i) {
    const double expected = own[i] + (1.0 - ratios[i]) * (1.0 - ratios[i]) * below;
    CAPTURE(i, ratios[i]);
    CHECK(std::abs(running.sensitivities()[i] / expected - 1.0) < 1e-10);
    CHECK(ratios[i] != 1.0);
    below += own[i];
  }

  // The trainer may pass norms of its own. A wrong number of norms, or an infinite one, throws and
  // changes nothing.
  dropbp::RunningSensitivity given(handler.size());
  handler.observe_gradients(given, own);
  CHECK(given.sensitivities()[5] == running.sensitivities()[5]);
  const dropbp::RunningSensitivity before = given;
  std::vector<double> wrong = own;
  wrong[3] = std::numeric_limits<double>::infinity();
  test::check_throws<std::invalid_argument>([&] { handler.observe_gradients(given, wrong); },
                                            {"finite", "branch 3"});
  wrong.pop_back();
  test::check_throws<std::invalid_argument>([&] { handler.observe_gradients(given, wrong); },
                                            {"squared norm", "5 were given"});
  CHECK(given.sensitivities() == before.sensitivities());
}

TEST_CASE("Costs are the seconds of each branch, and replace the FLOPs") {
  Tiny<float> tiny;
  dropbp::DropBPHandler handler{tiny.model};
  handler.begin_step(0);
  const auto before = handler.report().branches[0].calls;
  // A clock that advances by one second at each call.
  double seconds = 0.0;
  const auto look = [&] { return seconds += 1.0; };
  const auto times = handler.measure_costs([&] { tiny.backprop(); }, look);
  for (const auto& one : times) {
    CHECK(one.forward == 1.0);
    CHECK(one.backward == 1.0);
  }
  CHECK(handler.report().branches[0].calls == before);
  for (const auto& one :
       handler.measure_costs([&] { tiny.backprop(); }, dropbp::SteadyClock{}, 1)) {
    CHECK(one.forward > 0.0);
    CHECK(one.backward > 0.0);
  }
  const std::vector<double> costs(6, 0.25);
  handler.set_costs(costs);
  CHECK(handler.costs()[3] == 0.25);
  const double seen = seconds;
  tiny.backprop();
  CHECK(seconds == seen);  // the layers no longer call the clock
  test::check_throws<std::logic_error>([&] { handler.measure_costs([] {}, dropbp::SteadyClock{}); },
                                       {"backprop must run a forward and a backward pass"});
}
