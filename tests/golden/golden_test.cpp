// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Parity with the published implementation on a small LLaMA: losses, gradients, sensitivities,
// rates and optimizer steps. PyTorch computed the reference in float64, once with all weights
// trained (tests/data/llama-tiny) and once with adapters alone (llama-tiny-lora).
#include "golden.hpp"

#include <string>

using golden::Golden;
using golden::gradients_agree;
using golden::optimizer_steps_agree;
using golden::sensitivities_agree;

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
  SECTION("gradient norm, float") {
    sensitivities_agree<float>(model, "sensitivities_gradient_norm", norm);
  }
  SECTION("gradient norm, double") {
    sensitivities_agree<double>(model, "sensitivities_gradient_norm", norm);
  }
  SECTION("gradient, float") {
    sensitivities_agree<float>(model, "sensitivities_gradient", gradient);
  }
  SECTION("gradient, double") {
    sensitivities_agree<double>(model, "sensitivities_gradient", gradient);
  }
}

TEST_CASE("the rates allocated from the golden sensitivities are the golden rates") {
  Golden<float> tiny(GENERATE("llama-tiny", "llama-tiny-lora"));
  int rates_compared = 0, wrong = 0;
  for (const auto& [target, rates] : tiny.expected["greedy_drop_rates"].items()) {
    CAPTURE(target);
    tiny.handler.set_drop_rate(std::stod(target));
    tiny.handler.allocate_by_sensitivity([&] { tiny.backprop(); });
    for (std::size_t i = 0; i < tiny.handler.size(); ++i) {
      const bool equal = tiny.handler.drop_rates()[i] == rates[i].get<double>();
      CHECK(equal);
      ++rates_compared, wrong += !equal;
    }
  }
  dropbp_test::promise(3, "rates=%d wrong_rates=%d", rates_compared, wrong);
}

TEST_CASE("12 AdamW steps with their plans follow the golden losses") {
  const std::string model = GENERATE("llama-tiny", "llama-tiny-lora");
  CAPTURE(model);
  SECTION("float") { optimizer_steps_agree<float>(model); }
  SECTION("double") { optimizer_steps_agree<double>(model); }
}
