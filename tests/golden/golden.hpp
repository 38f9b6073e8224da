// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Compares a model of tests/data on any backend with the float64 results of PyTorch: losses,
// gradients, sensitivities and optimizer steps.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/ops/adamw.hpp>
#include <nlohmann/json.hpp>

#include "llama/formats/model_folder.hpp"
#include "llama/formats/safetensors.hpp"
#include "llama/model/model.hpp"
#include "support/catch.hpp"
#include "support/promise.hpp"
#include "support/values.hpp"
#include "support/worst.hpp"

namespace golden {

struct Reference {
  std::filesystem::path folder;
  nlohmann::json expected;
};

inline const Reference& reference_of(const std::string& name) {
  static std::map<std::string, Reference> references;
  Reference& reference = references[name];
  if (reference.folder.empty()) {
    // Programs that were carried to another machine find the data by the environment.
    const char* const moved = std::getenv("DROPBP_TEST_DATA");
    reference.folder = std::filesystem::path(moved == nullptr ? DROPBP_TEST_DATA : moved) / name;
    reference.expected = nlohmann::json::parse(std::ifstream(reference.folder / "expected.json"));
  }
  return reference;
}

inline dropbp::ops::LoraConfig lora_of(const nlohmann::json& expected) {
  if (!expected.contains("lora")) return {};
  return {.rank = expected["lora"]["rank"].get<std::ptrdiff_t>(),
          .alpha = expected["lora"]["alpha"].get<double>()};
}

// The golden files name adapters "q_proj.lora_A"; PEFT and the library name them
// "q_proj.lora_A.weight".
inline std::string golden_name(const std::string& name) {
  const auto adapter = name.find(".lora_");
  return adapter == std::string::npos ? name
                                      : name.substr(0, adapter + std::string(".lora_A").size());
}

template <class T, class Backend = dropbp::Cpu>
struct Golden {
  using Model = llama::LlamaModel<T, Backend>;

  const Reference& reference;
  const nlohmann::json& expected = reference.expected;
  Model model{llama::load_config(reference.folder),
              12,
              {.lora = lora_of(expected), .fill = dropbp::ops::PoolFill::nan}};
  llama::Batch batch;
  dropbp::DropBPHandler<Model> handler{model, {.trainable_below = model.trainable_below()}};

  explicit Golden(const std::string& name) : reference(reference_of(name)) {
    const std::filesystem::path& folder = reference.folder;
    const llama::SafetensorsFile weights(folder / "model.safetensors");
    model.for_each_tensor([&](const auto& tensor) {
      std::vector<float> values(tensor.size());
      weights.read(golden_name(tensor.name), values);
      test::set_values<Backend>(tensor.value, values);
    });
    const llama::SafetensorsFile tokens(folder / "tokens.safetensors");
    batch.shape = {expected["batch"].get<std::ptrdiff_t>(),
                   expected["sequence"].get<std::ptrdiff_t>()};
    batch.inputs.resize(static_cast<std::size_t>(batch.shape.tokens()));
    batch.labels.resize(batch.inputs.size());
    tokens.read("input_ids", batch.inputs);
    tokens.read("labels", batch.labels);
    std::vector<double> flops;
    for (const auto& value : expected["flops"]) flops.push_back(value.get<double>());
    std::size_t i = 0;
    model.for_each_layer([&](auto& layer) { layer.set_cost(flops[i++]); });
    handler.update_costs();
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

template <class T, class Backend = dropbp::Cpu>
void gradients_agree(const std::string& model) {
  Golden<T, Backend> tiny(model);
  const nlohmann::json& expected = tiny.expected;
  const llama::SafetensorsFile golden(tiny.reference.folder / "gradients.safetensors");
  REQUIRE(expected["cases"].size() == 10);
  double worst_loss = 0.0, worst_of_all = 0.0;
  for (const auto& one_case : expected["cases"]) {
    const auto name = one_case["name"].get<std::string>();
    CAPTURE(name);
    tiny.begin(one_case["dropped"]);
    const double loss_error = std::abs(tiny.backprop() - one_case["loss"].get<double>());
    CHECK(loss_error <= 1e-5);
    dropbp::test::keep_worst(worst_loss, loss_error);

    std::set<std::string> absent;
    double worst = 0.0;  // |error| as a multiple of 1e-6 + 1e-4 |g|
    tiny.model.for_each_tensor([&](const auto& tensor) {
      if (tensor.gradient == nullptr) {
        if (tensor.trained) absent.insert(golden_name(tensor.name));
        return;
      }
      CHECK(tensor.trained);
      std::vector<float> reference(tensor.size());
      const std::vector<float> gradient = test::values_of<Backend>(tensor.gradient, tensor.size());
      golden.read(name + "/" + golden_name(tensor.name), reference);
      for (std::size_t i = 0; i < reference.size(); ++i) {
        const double g = static_cast<double>(reference[i]);
        const double error =
            std::abs(static_cast<double>(gradient[i]) - g) / (1e-6 + 1e-4 * std::abs(g));
        dropbp::test::keep_worst(worst, error);
      }
    });
    CAPTURE(worst);
    CHECK(worst <= 1.0);
    CHECK(absent == one_case["parameters_without_gradient"].get<std::set<std::string>>());
    dropbp::test::keep_worst(worst_of_all, worst);
  }
  dropbp_test::promise(3, "cases=10 worst_loss_error=%.2g worst_gradient_of_its_bound=%.2g",
                       worst_loss, worst_of_all);
}

template <class T, class Backend = dropbp::Cpu, class Policy>
void sensitivities_agree(const std::string& model, const char* key, const Policy& policy) {
  Golden<T, Backend> tiny(model);
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
  dropbp_test::promise(3, "worst_sensitivity_error=%.2g", worst);
}

template <class T, class Backend = dropbp::Cpu>
void optimizer_steps_agree(const std::string& model) {
  Golden<T, Backend> tiny(model);
  const nlohmann::json& expected = tiny.expected;
  const auto& recipe = expected["adamw"];
  dropbp::ops::AdamW<T, Backend> optimizer(tiny.model.parameters(),
                                           {.learning_rate = recipe["lr"].get<double>(),
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
  dropbp_test::promise(3, "adamw_steps=12 worst_loss_error=%.2g", worst);
}

}  // namespace golden
