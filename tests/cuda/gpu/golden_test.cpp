// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Parity with the published implementation on a device, in float. The models, the float64 results
// of PyTorch and the tolerances are those of the CPU's tests: losses 1e-5, each gradient element
// 1e-6 + 1e-4 |g|, sensitivities 1e-5 relative. On the emulator the errors were 5e-7, a fifth of
// the tolerance, and 5e-7.
#include <string>

#include "cuda/gpu/llama_model.hpp"
#include "golden/golden.hpp"
#include "support/catch.hpp"

using test::Backend;

TEST_CASE("device: every gradient of every golden case agrees, and the same ones are absent") {
  const std::string model = GENERATE("llama-tiny", "llama-tiny-lora");
  CAPTURE(model);
  golden::gradients_agree<float, Backend>(model);
}

TEST_CASE("device: both sensitivities agree with the golden ones to 1e-5") {
  const std::string model = GENERATE("llama-tiny", "llama-tiny-lora");
  CAPTURE(model);
  golden::sensitivities_agree<float, Backend>(model, "sensitivities_gradient_norm",
                                              dropbp::GradientNormSensitivity{});
  golden::sensitivities_agree<float, Backend>(model, "sensitivities_gradient",
                                              dropbp::GradientSensitivity{});
}

TEST_CASE("device: 12 AdamW steps with their plans follow the golden losses") {
  const std::string model = GENERATE("llama-tiny", "llama-tiny-lora");
  CAPTURE(model);
  golden::optimizer_steps_agree<float, Backend>(model);
}
