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
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <dropbp/dropbp.hpp>

#include "llama/files.hpp"
#include "llama/formats/gguf_model.hpp"
#include "llama/formats/lora_patterns.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/formats/safetensors.hpp"
#include "llama/model/adapter.hpp"
#include "llama/model/cached_forward.hpp"
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
  // |error| as a multiple of what is allowed. In double, where the golden numbers' own rounding is
  // all there is, 1e-7 + 1e-5 |g|. In float an element's error is as large as the tensor's
  // elements make it, however small it is itself: 1e-6 + 1e-4 of the largest.
  double worst = 0.0;
  std::string where;
  run.model.for_each_tensor([&](const auto& tensor) {
    if (!tensor.trained) return;
    const std::string name = prefix + tensor.name;
    CAPTURE(name);
    REQUIRE(rest.erase(name) == 1);
    REQUIRE(tensor.gradient != nullptr);
    std::vector<float> reference(tensor.size());
    golden.read(name, reference);
    double largest = 0.0;
    for (const float g : reference) largest = std::max(largest, std::abs(static_cast<double>(g)));
    for (std::size_t i = 0; i < reference.size(); ++i) {
      const auto g = static_cast<double>(reference[i]);
      const double allowed =
          std::is_same_v<T, double> ? 1e-7 + 1e-5 * std::abs(g) : 1e-6 + 1e-4 * largest;
      const double before = worst;
      dropbp::test::keep_worst(worst,
                               std::abs(static_cast<double>(tensor.gradient[i]) - g) / allowed);
      if (worst != before) where = name;
    }
  });
  CAPTURE(worst, where, sizeof(T));
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
  const ops::LoraConfig lora = load_adapter_config(folder / "adapter", linear_names(config));
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
    Run<float> adapted(folder, config,
                       {.lora = load_adapter_config(folder / "adapter", linear_names(config))});
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

TEST_CASE("families: the logits of writing text give the loss of transformers") {
  for (const fs::path& folder : folders()) {
    CAPTURE(folder.filename().string());
    Run<double> run(folder, load_config(folder), {});
    const Index sequence = run.batch.shape.sequence;
    const std::span<const std::int32_t> ids = run.batch.inputs;
    CachedForward<double> cached(run.model, sequence);
    double cached_sum = 0.0, whole_sum = 0.0, counted = 0.0;
    const auto loss_of = [](std::span<const float> logits, std::int32_t label) {
      double sum = 0.0;
      for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
      return std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(label)]);
    };
    for (std::size_t at = 0; at < ids.size(); ++at) {
      const std::size_t position = at % static_cast<std::size_t>(sequence);
      if (position == 0) cached.keep_first(0);
      const std::span<const float> logits = cached.next(ids.subspan(at, 1));
      if (run.batch.labels[at] < 0) continue;
      WholeForward<double, dropbp::Cpu> whole(run.model);
      cached_sum += loss_of(logits, run.batch.labels[at]);
      whole_sum +=
          loss_of(whole.next(ids.subspan(at - position, position + 1)), run.batch.labels[at]);
      counted += 1.0;
    }
    const double loss = json_of(folder / "expected.json")["loss"].get<double>();
    REQUIRE(counted > 0.0);
    CHECK(std::abs(cached_sum / counted - loss) <= 1e-5);
    CHECK(std::abs(whole_sum / counted - loss) <= 1e-5);
  }
}

TEST_CASE("families: in bfloat16 a model trains, or is refused by the name of its trait") {
  std::size_t trained = 0, refused = 0;
  for (const fs::path& folder : folders()) {
    CAPTURE(folder.filename().string());
    const LlamaConfig config = load_config(folder);
    const Traits& t = config.traits;
    if (t.qkv_bias || t.o_bias || t.mlp_bias || t.attention_softcap > 0.0 ||
        t.logit_softcap > 0.0 || t.gate != ops::Gate::silu || t.norm_offset != 0.0) {
      test::check_throws<std::invalid_argument>([&] { Run<dropbp::BFloat16>(folder, config, {}); },
                                                {"in bfloat16", std::string(t.family)});
      ++refused;
      continue;
    }
    Run<dropbp::BFloat16> run(folder, config, {});
    const double loss = json_of(folder / "expected.json")["loss"].get<double>();
    CHECK(std::abs(run.backprop() - loss) <= 0.02 * loss);
    ++trained;
  }
  CHECK(trained >= 4);
  CHECK(refused >= 4);
}

TEST_CASE("families: GGUF is refused by the name of the trait that it cannot say") {
  LlamaConfig plain;
  CHECK_NOTHROW(require_gguf_traits(plain));
  plain.traits.layers.assign(4, {.window = plain.max_positions});  // sees all
  CHECK_NOTHROW(require_gguf_traits(plain));
  using Rope = LayerTraits::Rope;
  const std::pair<const char*, std::function<void(Traits&)>> traits[] = {
      {"scaled RoPE", [](Traits& t) { t.rope.kind = RopeScaling::Kind::llama3; }},
      {"RoPE on a part of each head", [](Traits& t) { t.rotary = 16; }},
      {"biases", [](Traits& t) { t.qkv_bias = true; }},
      {"biases", [](Traits& t) { t.o_bias = true; }},
      {"biases", [](Traits& t) { t.mlp_bias = true; }},
      {"fused linear maps", [](Traits& t) { t.fused = true; }},
      {"norms of query and key heads", [](Traits& t) { t.head_norm = ops::HeadNorm::per_head; }},
      {"norms of the branches' results", [](Traits& t) { t.norms = NormPlaces::both; }},
      {"norms of 1 + weight", [](Traits& t) { t.norm_offset = 1.0; }},
      {"the gate gelu_pytorch_tanh", [](Traits& t) { t.gate = ops::Gate::gelu_tanh; }},
      {"a scaled embedding", [](Traits& t) { t.scaled_embedding = true; }},
      {"a scale of its own", [](Traits& t) { t.query_scale = 0.25; }},
      {"soft caps", [](Traits& t) { t.attention_softcap = 50.0; }},
      {"soft caps", [](Traits& t) { t.logit_softcap = 30.0; }},
      {"layers without RoPE", [](Traits& t) { t.layers[1].rope = Rope::none; }},
      {"a base of RoPE", [](Traits& t) { t.layers[1].rope = Rope::local; }},
      {"a sliding window of 9 tokens", [](Traits& t) { t.layers[1].window = 9; }}};
  for (const auto& [name, set] : traits) {
    LlamaConfig config;
    config.traits.layers.resize(4);
    set(config.traits);
    const test::TemporaryFolder folder;
    test::check_throws<std::runtime_error>(
        [&] { save_gguf(folder / "m.gguf", config, {}, DType::f32, {}); }, {"llama", name});
    CHECK(!fs::exists(folder / "m.gguf"));
  }
}

TEST_CASE("families: adapters are on the family's own linear maps") {
  const LlamaConfig phi = load_config(fs::path(DROPBP_TEST_DATA) / "families/phi3");
  const std::vector<std::string> names = linear_names(phi);
  REQUIRE(names.size() == 4 * static_cast<std::size_t>(phi.layers));
  CHECK(names[0] == "model.layers.0.self_attn.qkv_proj");
  CHECK(names[2] == "model.layers.0.mlp.gate_up_proj");
  const auto targets_of = [&](const std::string& targets) {
    return parse_adapter_config(
               R"({"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":)" + targets + "}",
               "'c'", names)
        .targets;
  };
  using Names = std::vector<std::string>;
  // up_proj is not the end of gate_up_proj, from a dot on.
  CHECK(targets_of(R"(".*gate_up_proj")") == Names{"gate_up_proj"});
  // As in PEFT, names that the model does not have are left out beside those that it has.
  const Names listed = targets_of(R"(["q_proj","qkv_proj","up_proj"])");
  const Names kinds = linears_of(phi.traits);
  CHECK(canonical_targets(listed, kinds, false) == Names{"qkv_proj"});
  CHECK_THROWS_AS(canonical_targets(listed, kinds, true), std::invalid_argument);
  CHECK_THROWS_AS(canonical_targets({"q_proj"}, kinds, false), std::invalid_argument);
  CHECK_THROWS_AS(targets_of(R"(["q_proj","up_proj"])"), std::runtime_error);
}

TEST_CASE("families: merged adapters and a quantised base keep the loss") {
  for (const fs::path& folder : folders()) {
    CAPTURE(folder.filename().string());
    const LlamaConfig config = load_config(folder);
    const json expected = json_of(folder / "expected.json");
    ops::LoraConfig lora = load_adapter_config(folder / "adapter", linear_names(config));
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
