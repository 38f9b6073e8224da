// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Parity with the published implementation: losses, gradients, sensitivities, rates and optimizer steps of a small
// LLaMA, all weights trained (tests/data/llama-tiny) or adapters alone (llama-tiny-lora), which PyTorch computed in float64.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/ops/adamw.hpp>
#include <nlohmann/json.hpp>

#include "llama/checkpoint.hpp"
#include "llama/model.hpp"
#include "llama/safetensors.hpp"
#include "support/catch.hpp"
#include "support/worst.hpp"

namespace {

struct Reference {
  std::filesystem::path folder;
  nlohmann::json expected;
};

const Reference& reference_of(const std::string& name) {
  static std::map<std::string, Reference> references;
  Reference& reference = references[name];
  if (reference.folder.empty()) {
    reference.folder = std::filesystem::path(DROPBP_TEST_DATA) / name;
    reference.expected = nlohmann::json::parse(std::ifstream(reference.folder / "expected.json"));
  }
  return reference;
}

dropbp::ops::Adaptation adaptation_of(const nlohmann::json& expected) {
  if (!expected.contains("lora")) return {};
  return {.rank = expected["lora"]["rank"].get<std::ptrdiff_t>(), .alpha = expected["lora"]["alpha"].get<double>()};
}

// The files call adapters "q_proj.lora_A", PEFT and the library "q_proj.lora_A.weight".
std::string golden_name(const std::string& name) {
  const auto adapter = name.find(".lora_");
  return adapter == std::string::npos ? name : name.substr(0, adapter + std::string(".lora_A").size());
}

template <class T>
struct Golden {
  const Reference& reference;
  const nlohmann::json& expected = reference.expected;
  llama::LlamaModel<T> model{llama::load_config(reference.folder), 12, {.adaptation = adaptation_of(expected), .fill = dropbp::ops::PoolFill::nan}};
  llama::Batch batch;
  dropbp::DropBPHandler<llama::LlamaModel<T>> handler{model, {.trains_below = model.trains_below()}};

  explicit Golden(const std::string& name) : reference(reference_of(name)) {
    const std::filesystem::path& folder = reference.folder;
    const llama::SafetensorsFile weights(folder / "model.safetensors");
    model.for_each_tensor([&](const auto& tensor) {
      std::vector<float> values(tensor.size());
      weights.read(golden_name(tensor.name), values);
      std::copy(values.begin(), values.end(), tensor.value);
    });
    const llama::SafetensorsFile tokens(folder / "tokens.safetensors");
    batch.shape = {expected["batch"].get<std::ptrdiff_t>(), expected["sequence"].get<std::ptrdiff_t>()};
    batch.inputs.resize(static_cast<std::size_t>(batch.shape.tokens()));
    batch.labels.resize(batch.inputs.size());
    tokens.read("input_ids", batch.inputs);
    tokens.read("labels", batch.labels);
    std::vector<double> flops;
    for (const auto& value : expected["flops"]) flops.push_back(value.get<double>());
    std::size_t i = 0;
    model.for_each_layer([&](auto& layer) { layer.set_flops(flops[i++]); });
    handler.update_flops();
  }

  void begin(const nlohmann::json& dropped) {
    std::vector<std::uint8_t> mask(handler.size());
    for (const auto& branch : dropped) mask.at(branch.get<std::size_t>()) = 1;
    handler.begin_step(dropbp::DropPlan(mask));
  }

  double backprop() {
    model.clear_gradients();
    return model.loss_and_gradients(batch);
  }
};

template <class T>
void gradients_agree(const std::string& model) {
  Golden<T> tiny(model);
  const nlohmann::json& expected = tiny.expected;
  const llama::SafetensorsFile golden(tiny.reference.folder / "gradients.safetensors");
  REQUIRE(expected["cases"].size() == 10);
  for (const auto& one_case : expected["cases"]) {
    const auto name = one_case["name"].get<std::string>();
    CAPTURE(name);
    tiny.begin(one_case["dropped"]);
    CHECK(std::abs(tiny.backprop() - one_case["loss"].get<double>()) <= 1e-5);

    std::set<std::string> absent;
    double worst = 0.0;  // |error| as a multiple of 1e-6 + 1e-4 |g|
    tiny.model.for_each_tensor([&](const auto& tensor) {
      if (tensor.gradient == nullptr) {
        if (tensor.trained) absent.insert(golden_name(tensor.name));
        return;
      }
      CHECK(tensor.trained);
      std::vector<float> reference(tensor.size());
      golden.read(name + "/" + golden_name(tensor.name), reference);
      for (std::size_t i = 0; i < reference.size(); ++i) {
        const double g = static_cast<double>(reference[i]);
        const double error = std::abs(static_cast<double>(tensor.gradient[i]) - g) / (1e-6 + 1e-4 * std::abs(g));
        dropbp::test::keep_worst(worst, error);
      }
    });
    CAPTURE(worst);
    CHECK(worst <= 1.0);
    CHECK(absent == one_case["parameters_without_gradient"].get<std::set<std::string>>());
  }
}

template <class T, class Policy>
void sensitivities_agree(const std::string& model, const char* key, const Policy& policy) {
  Golden<T> tiny(model);
  const nlohmann::json& expected = tiny.expected;
  const auto measured = tiny.handler.measure_sensitivities([&] { tiny.backprop(); }, policy);
  REQUIRE(measured.size() == expected[key].size());
  double worst = 0.0;
  for (std::size_t i = 0; i < measured.size(); ++i) {
    const double reference = expected[key][i].get<double>();
    dropbp::test::keep_worst(worst, std::abs(measured[i] / reference - 1.0));
  }
  CAPTURE(worst);
  CHECK(worst <= 1e-5);
}

template <class T>
void optimizer_steps_agree(const std::string& model) {
  Golden<T> tiny(model);
  const nlohmann::json& expected = tiny.expected;
  const auto& recipe = expected["adamw"];
  dropbp::ops::AdamW<T> optimizer(tiny.model.parameters(), {.learning_rate = recipe["lr"].get<double>(),
                                                            .beta1 = recipe["betas"][0].get<double>(),
                                                            .beta2 = recipe["betas"][1].get<double>(),
                                                            .eps = recipe["eps"].get<double>(),
                                                            .weight_decay = recipe["weight_decay"].get<double>()});
  double worst = 0.0;
  REQUIRE(recipe["steps"].size() == 12);
  for (const auto& step : recipe["steps"]) {
    tiny.begin(step["dropped"]);
    dropbp::test::keep_worst(worst, std::abs(tiny.backprop() - step["loss"].get<double>()));
    optimizer.step();
  }
  CAPTURE(worst);
  CHECK(worst <= 1e-5);
}

}  // namespace

TEST_CASE("every gradient of every golden case agrees, and the same ones are absent") {
  const std::string model = GENERATE("llama-tiny", "llama-tiny-lora");
  CAPTURE(model);
  SECTION("float") { gradients_agree<float>(model); }
  SECTION("double") { gradients_agree<double>(model); }
}

TEST_CASE("both sensitivities agree with the golden ones to 1e-5") {
  const std::string model = GENERATE("llama-tiny", "llama-tiny-lora");
  CAPTURE(model);
  const dropbp::GradientNormSensitivity norm;
  const dropbp::GradientSensitivity gradient;
  SECTION("gradient norm, float") { sensitivities_agree<float>(model, "sensitivities_gradient_norm", norm); }
  SECTION("gradient norm, double") { sensitivities_agree<double>(model, "sensitivities_gradient_norm", norm); }
  SECTION("gradient, float") { sensitivities_agree<float>(model, "sensitivities_gradient", gradient); }
  SECTION("gradient, double") { sensitivities_agree<double>(model, "sensitivities_gradient", gradient); }
}

TEST_CASE("the rates allocated from the golden sensitivities are the golden rates") {
  Golden<float> tiny(GENERATE("llama-tiny", "llama-tiny-lora"));
  for (const auto& [target, rates] : tiny.expected["greedy_drop_rates"].items()) {
    CAPTURE(target);
    tiny.handler.set_drop_rate(std::stod(target));
    tiny.handler.allocate_by_sensitivity([&] { tiny.backprop(); });
    for (std::size_t i = 0; i < tiny.handler.size(); ++i) CHECK(tiny.handler.drop_rates()[i] == rates[i].get<double>());
  }
}

TEST_CASE("12 AdamW steps with their plans follow the golden losses") {
  const std::string model = GENERATE("llama-tiny", "llama-tiny-lora");
  CAPTURE(model);
  SECTION("float") { optimizer_steps_agree<float>(model); }
  SECTION("double") { optimizer_steps_agree<double>(model); }
}
