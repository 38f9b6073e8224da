// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Every family of models against transformers and PEFT: the folders of tests/data/families.
#include "llama/formats/families.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include <dropbp/dropbp.hpp>

#include "llama/files.hpp"
#include "llama/formats/adapter.hpp"
#include "llama/formats/checkpoint.hpp"
#include "llama/formats/safetensors.hpp"
#include "llama/model/model.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"
#include "support/worst.hpp"

namespace {

using namespace llama;
using nlohmann::json;
namespace fs = std::filesystem;

std::vector<fs::path> folders() {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(fs::path(DROPBP_TEST_DATA) / "families"))
    if (entry.is_directory()) found.push_back(entry.path());
  std::ranges::sort(found);
  return found;
}

json json_of(const fs::path& path) { return json::parse(std::ifstream(path)); }

/// A model with its batch. `keep` decides which branches keep their backward pass.
template <class T>
struct Run {
  LlamaModel<T> model;
  Batch batch;
  dropbp::DropBPHandler<LlamaModel<T>> handler{model, {.trainable_below = model.trainable_below()}};

  Run(const fs::path& folder, const LlamaConfig& config, ModelOptions options)
      : model(config, sequence_of(folder), std::move(options)) {
    const SafetensorsFile golden(folder / "golden.safetensors");
    batch.shape = {golden.find("input_ids")->shape[0], sequence_of(folder)};
    batch.inputs.resize(static_cast<std::size_t>(batch.shape.tokens()));
    batch.labels.resize(batch.inputs.size());
    golden.read("input_ids", batch.inputs);
    golden.read("labels", batch.labels);
    load_weights(folder, model);
  }

  static std::ptrdiff_t sequence_of(const fs::path& folder) {
    return SafetensorsFile(folder / "golden.safetensors").find("input_ids")->shape[1];
  }

  double backprop(const std::function<bool(std::size_t)>& keep = [](std::size_t) { return true; }) {
    std::vector<std::uint8_t> dropped(handler.size());
    for (std::size_t i = 0; i < dropped.size(); ++i) dropped[i] = keep(i) ? 0 : 1;
    handler.begin_step(dropbp::DropPlan(dropped));
    model.clear_gradients();
    return model.loss_and_gradients(batch);
  }
};

/// Every trained tensor's gradient is golden, and every golden gradient is one of them.
template <class T>
void check_gradients(Run<T>& run, const fs::path& folder, const std::string& prefix) {
  const SafetensorsFile golden(folder / "golden.safetensors");
  std::set<std::string> rest;
  for (const TensorInfo& tensor : golden.tensors())
    if (tensor.name.starts_with(prefix)) rest.insert(tensor.name);
  CHECK(rest.size() > 4);
  double worst = 0.0;  // |error| as a multiple of 1e-6 + 1e-4 |g|
  std::string where;
  run.model.for_each_tensor([&](const auto& tensor) {
    if (!tensor.trained) return;
    const std::string name = prefix + tensor.name;
    CAPTURE(name);
    REQUIRE(rest.erase(name) == 1);
    REQUIRE(tensor.gradient != nullptr);
    std::vector<float> reference(tensor.size());
    golden.read(name, reference);
    for (std::size_t i = 0; i < reference.size(); ++i) {
      const auto g = static_cast<double>(reference[i]);
      const double before = worst;
      dropbp::test::keep_worst(worst, std::abs(static_cast<double>(tensor.gradient[i]) - g) /
                                          (1e-6 + 1e-4 * std::abs(g)));
      if (worst != before) where = name;
    }
  });
  CAPTURE(worst, where);
  CHECK(worst <= 1.0);
  CHECK(rest == std::set<std::string>{});
}

template <class T>
void check_family(const fs::path& folder) {
  const json expected = json_of(folder / "expected.json");
  const LlamaConfig config = load_config(folder);
  {
    Run<T> run(folder, config, {.fill = dropbp::ops::PoolFill::nan});
    const double loss = run.backprop();
    CHECK(std::abs(loss - expected["loss"].get<double>()) <= 1e-5);
    check_gradients(run, folder, "full/");
    // What a report and a budget count is what is kept.
    std::size_t saved = 0;
    for (std::size_t i = 0; i < run.handler.size(); ++i)
      saved += run.model.saved_bytes(i, run.batch.shape.tokens());
    CHECK(run.model.saved_memory().peak_bytes() == saved);
    // Dropping changes no forward pass.
    CHECK(run.backprop([](std::size_t i) { return i % 2 == 1; }) == loss);
    run.handler.begin_evaluation();
    CHECK(run.model.loss(run.batch) == Approx(loss).epsilon(1e-6));
    Run<T> again(folder, config, {.recompute = true, .fill = dropbp::ops::PoolFill::nan});
    CHECK(again.backprop() == loss);
    check_gradients(again, folder, "full/");
  }
  const ops::LoraConfig lora = load_adapter_config(folder / "adapter");
  Run<T> adapted(folder, config, {.lora = lora, .fill = dropbp::ops::PoolFill::nan});
  load_adapter(folder / "adapter", adapted.model);
  CHECK(std::abs(adapted.backprop() - expected["lora_loss"].get<double>()) <= 1e-5);
  check_gradients(adapted, folder, "lora/");
}

/// Names, shapes and bytes.
std::map<std::string, std::pair<std::vector<std::ptrdiff_t>, std::vector<float>>> tensors_of(
    const fs::path& path) {
  const SafetensorsFile file(path);
  std::map<std::string, std::pair<std::vector<std::ptrdiff_t>, std::vector<float>>> tensors;
  for (const TensorInfo& tensor : file.tensors()) {
    std::vector<float> values(tensor.elements());
    file.read(tensor.name, values);
    tensors[tensor.name] = {tensor.shape, values};
  }
  return tensors;
}

}  // namespace

TEST_CASE("families: losses, gradients and adapters are those of transformers and PEFT") {
  REQUIRE(folders().size() >= 17);
  for (const fs::path& folder : folders()) {
    CAPTURE(folder.filename().string());
    check_family<float>(folder);
    check_family<double>(folder);
  }
}

TEST_CASE("families: a saved model has the family's own names, values and config") {
  for (const fs::path& folder : folders()) {
    CAPTURE(folder.filename().string());
    const test::TemporaryFolder out;
    const LlamaConfig config = load_config(folder);
    Run<float> run(folder, config, {});
    save_weights(out.path(), run.model, DType::f32, default_shard_bytes, load_companions(folder));
    CHECK(tensors_of(out / "model.safetensors") == tensors_of(folder / "model.safetensors"));
    CHECK(json_of(out / "config.json") == json_of(folder / "config.json"));
    CHECK(load_config(out.path()) == config);
    // Without the config.json that it began with, it says the same of the model.
    save_weights(out.path(), run.model);
    CHECK(load_config(out.path()) == config);

    const test::TemporaryFolder adapter_out;
    Run<float> adapted(folder, config, {.lora = load_adapter_config(folder / "adapter")});
    load_adapter(folder / "adapter", adapted.model);
    save_adapter(adapter_out.path(), adapted.model, folder.string());
    CHECK(tensors_of(adapter_out / "adapter_model.safetensors") ==
          tensors_of(folder / "adapter" / "adapter_model.safetensors"));
    const auto targets = [](const fs::path& path) {
      return json_of(path / "adapter_config.json")["target_modules"].get<std::set<std::string>>();
    };
    CHECK(targets(adapter_out.path()) == targets(folder / "adapter"));
    // For make_golden.py --check, which needs Python.
    if (const char* kept = std::getenv("DROPBP_FAMILIES_OUT")) {
      const fs::path to = fs::path(kept) / folder.filename();
      save_weights(to, run.model, DType::f32, default_shard_bytes, load_companions(folder));
      save_adapter(to / "adapter", adapted.model, to.string());
    }
  }
}

TEST_CASE("families: merged adapters and a quantised base keep the loss") {
  for (const fs::path& folder : folders()) {
    CAPTURE(folder.filename().string());
    const LlamaConfig config = load_config(folder);
    const json expected = json_of(folder / "expected.json");
    ops::LoraConfig lora = load_adapter_config(folder / "adapter");
    Run<float> adapted(folder, config, {.lora = lora});
    load_adapter(folder / "adapter", adapted.model);
    const test::TemporaryFolder out;
    save_weights(out.path(), adapted.model, DType::f32, default_shard_bytes,
                 load_companions(folder));
    fs::copy_file(folder / "golden.safetensors", out / "golden.safetensors");
    Run<float> merged(out.path(), load_config(out.path()), {});
    CHECK(std::abs(merged.backprop() - expected["lora_loss"].get<double>()) <= 1e-5);

    lora.quantize = true;
    Run<float> quantized(folder, config, {.lora = lora});
    load_adapter(folder / "adapter", quantized.model);
    // 4 bits of random weights move the loss, but not far.
    CHECK(std::abs(quantized.backprop() - expected["lora_loss"].get<double>()) <= 0.5);
  }
}
