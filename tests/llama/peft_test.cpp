// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Adapters of PEFT that train more than A and B: magnitudes (DoRA), and whole modules beside them.
// Against tests/data/peft.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <dropbp/dropbp.hpp>

#include "llama/app/trainer.hpp"
#include "llama/app/training_checkpoint.hpp"
#include "llama/files.hpp"
#include "llama/formats/lora_patterns.hpp"
#include "llama/formats/safetensors.hpp"
#include "llama/model/adapter.hpp"
#include "llama/model/cached_forward.hpp"
#include "llama/small_run.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"
#include "support/worst.hpp"

namespace {

using namespace llama;
using nlohmann::json;
using test::TemporaryFolder;
using test::tensors_of;
namespace fs = std::filesystem;
using Names = std::vector<std::string>;

const fs::path base_folder = fs::path(DROPBP_TEST_DATA) / "llama-tiny";
const fs::path golden_folder = fs::path(DROPBP_TEST_DATA) / "peft";
const LlamaConfig shape = test::small_shape;

json json_of(const fs::path& path) { return json::parse(std::ifstream(path)); }

LlamaConfig config_of(const std::string& name) {
  LlamaConfig config = load_config(base_folder);
  config.tie_embeddings = name == "tied";
  return config;
}

/// ../llama-tiny with the adapter of a golden case, or of a folder like it.
template <class T>
struct Adapted {
  LlamaModel<T> model;

  explicit Adapted(const std::string& name, const fs::path& adapter)
      : model(config_of(name), 16,
              {.lora = load_adapter_config(adapter, linear_names(config_of(name))),
               .fill = dropbp::ops::PoolFill::nan}) {
    load_weights(base_folder, model);
    load_adapter(adapter, model);
  }
};

Batch batch_of(const json& expected) {
  const auto ids = expected["input_ids"].get<std::vector<std::int32_t>>();
  return {.shape = {1, static_cast<std::ptrdiff_t>(ids.size()) - 1},
          .inputs = {ids.begin(), ids.end() - 1},
          .labels = {ids.begin() + 1, ids.end()}};
}

template <class Model>
double loss_of(Model& model, const Batch& batch) {
  dropbp::DropBPHandler handler{model, {.trainable_below = model.trainable_below()}};
  handler.begin_evaluation();
  return model.loss(batch);
}

std::vector<float> logits_of(LlamaModel<float>& model, const json& expected) {
  CachedForward<float> forward(model, 16);
  const auto logits = forward.next(expected["input_ids"].get<std::vector<std::int32_t>>());
  return {logits.begin(), logits.end()};
}

double distance(const std::vector<float>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i)
    dropbp::test::keep_worst(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  return worst;
}

/// The loss, and every trained tensor's gradient.
template <class T>
void check_gradients(const std::string& name) {
  const json expected = json_of(golden_folder / name / "expected.json");
  const SafetensorsFile golden(golden_folder / name / "golden.safetensors");
  Adapted<T> run(name, golden_folder / name / "adapter");
  dropbp::DropBPHandler handler{run.model, {.trainable_below = run.model.trainable_below()}};
  handler.begin_step(dropbp::DropPlan(std::vector<std::uint8_t>(6, 0)));
  run.model.clear_gradients();
  const double loss = run.model.loss_and_gradients(batch_of(expected));
  // Norms and rotations are in float there, whatever the rest is in.
  CHECK(std::abs(loss - expected["loss"].get<double>()) <=
        (std::is_same_v<T, double> ? 2e-7 : 2e-6));
  std::set<std::string> rest;
  for (const TensorInfo& tensor : golden.tensors()) rest.insert(tensor.name);
  run.model.for_each_tensor([&](const auto& tensor) {
    if (!tensor.trained) return;
    CAPTURE(tensor.name);
    const std::string key = "base_model.model." + tensor.name;
    REQUIRE(rest.erase(key) == 1);
    REQUIRE(tensor.gradient != nullptr);
    std::vector<float> reference(tensor.size());
    golden.read(key, reference);
    double largest = 0.0, worst = 0.0;
    for (const float g : reference) largest = std::max(largest, std::abs(static_cast<double>(g)));
    CHECK(largest > 0.0);
    for (std::size_t i = 0; i < reference.size(); ++i)
      dropbp::test::keep_worst(worst, std::abs(static_cast<double>(tensor.gradient[i]) -
                                               static_cast<double>(reference[i])));
    CHECK(worst <= (std::is_same_v<T, double> ? 2e-6 : 1e-5) * largest);
  });
  CHECK(rest == std::set<std::string>{});
}

Options options_of(double drop_rate = 0.5) {
  Options o = test::small_run(drop_rate);
  o.learning_rate = 1e-2;
  o.mode = ModeChoice::lora;
  o.lora_rank = 3;
  return o;
}

TokenData text() {
  std::vector<std::int32_t> tokens;
  for (std::uint64_t i = 0; i < 2000; ++i)
    tokens.push_back(static_cast<std::int32_t>((i * i / 3 + 5 * i) % 61));
  return {std::move(tokens), 0.2};
}

/// Names of the tensors that 8 steps change.
std::set<std::string> changed_by(const Options& options) {
  const TokenData data = text();
  Trainer trainer(options, options.shape, data, options.drop_rate);
  const auto before = tensors_of(trainer);
  while (trainer.steps_done() < options.steps) trainer.step();
  std::set<std::string> changed;
  for (const auto& [name, values] : tensors_of(trainer))
    if (values != before.at(name)) changed.insert(name);
  return changed;
}

}  // namespace

TEST_CASE("peft: losses and gradients with magnitudes and with modules that are trained whole") {
  for (const char* const name : {"dora", "modules", "tied"}) {
    CAPTURE(name);
    check_gradients<double>(name);
    check_gradients<float>(name);
  }
}

TEST_CASE("peft: an adapter of PEFT gives its logits, and comes back as it was, or merged") {
  // With this variable the folders stay, for make_golden.py --check.
  const char* const kept = std::getenv("DROPBP_PEFT_OUT");
  const TemporaryFolder temporary;
  const fs::path out = kept != nullptr ? fs::path(kept) : temporary.path();
  for (const std::string name : {"dora", "modules", "tied"}) {
    CAPTURE(name);
    const fs::path from = golden_folder / name;
    const json expected = json_of(from / "expected.json");
    const auto logits = expected["last_logits"].get<std::vector<double>>();
    Adapted<float> read(name, from / "adapter");
    CHECK(distance(logits_of(read.model, expected), logits) <= 1e-5);

    save_adapter(out / name / "adapter", read.model, "");
    const SafetensorsFile saved(out / name / "adapter" / "adapter_model.safetensors");
    const SafetensorsFile original(from / "adapter" / "adapter_model.safetensors");
    REQUIRE(saved.tensors().size() == original.tensors().size());
    for (const TensorInfo& tensor : original.tensors()) {
      CAPTURE(tensor.name);
      REQUIRE(saved.find(tensor.name) != nullptr);
      CHECK(saved.find(tensor.name)->shape == tensor.shape);
      std::vector<float> a(tensor.elements()), b(tensor.elements());
      saved.read(tensor.name, a), original.read(tensor.name, b);
      CHECK(a == b);
    }
    const json config = json_of(out / name / "adapter" / "adapter_config.json");
    CHECK(config.value("use_dora", false) == (name == "dora"));
    CHECK(config.value("ensure_weight_tying", false) == (name == "tied"));
    CHECK(config.value("modules_to_save", Names{}) ==
          (name == "dora"   ? Names{}
           : name == "tied" ? Names{"embed_tokens", "model.embed_tokens"}
                            : Names{"embed_tokens", "lm_head", "norm"}));
    Adapted<float> again(name, out / name / "adapter");
    CHECK(logits_of(again.model, expected) == logits_of(read.model, expected));

    save_weights(out / name / "merged", read.model);
    LlamaModel<float> merged(load_config(out / name / "merged"), 16);
    CHECK(merged.config().tie_embeddings == (name == "tied"));
    load_weights(out / name / "merged", merged);
    CHECK(distance(logits_of(merged, expected), logits) <= 1e-5);

    if (kept == nullptr) continue;
    LlamaModel<float> base(config_of(name), 16);
    load_weights(base_folder, base);
    save_weights(out / name / "base", base);
    fs::copy_file(from / "expected.json", out / name / "expected.json",
                  fs::copy_options::overwrite_existing);
  }
}

TEST_CASE("peft: settings that choose linear maps choose those of PEFT") {
  const Names names = linear_names(load_config(base_folder));
  for (const json& one : json_of(golden_folder / "selections.json")) {
    CAPTURE(one["config"].dump());
    const ops::LoraConfig lora = parse_adapter_config(one["config"].dump(), "'c'", names);
    Names chosen;
    std::ranges::copy_if(names, std::back_inserter(chosen),
                         [&](const auto& name) { return lora.adapts(name); });
    std::ranges::sort(chosen);
    CHECK(chosen == one["modules"].get<Names>());
    // What is written chooses the same.
    const ops::LoraConfig again =
        parse_adapter_config(adapter_config_json(lora, "", load_config(base_folder)), "'c'", names);
    for (const std::string& name : names) CHECK(again.adapts(name) == lora.adapts(name));
    CHECK(again.modules_to_save == lora.modules_to_save);
  }
  const auto refused = [&](const std::string& more, const char* key) {
    CAPTURE(more);
    test::check_throws<std::runtime_error>(
        [&] {
          (void)parse_adapter_config(R"({"peft_type":"LORA","r":4,"lora_alpha":8,)" + more + "}",
                                     "'c'", names);
        },
        {"'c'", key});
  };
  refused(R"("target_modules":["q_proj","no_such_module"])", "no_such_module");
  refused(R"("target_modules":["q_proj"],"layers_to_transform":[7])", "layers_to_transform");
  refused(R"("target_modules":["q_proj"],"layers_to_transform":[-1])", "layers_to_transform");
  refused(R"("target_modules":["q_proj"],"layers_to_transform":"1")", "layers_to_transform");
  refused(R"("target_modules":".*q_proj","layers_to_transform":[1])", "layers_to_transform");
  refused(R"("target_modules":["q_proj"],"layers_pattern":"layers")", "layers_pattern");
  refused(R"("target_modules":["q_proj"],"layers_to_transform":1,"layers_pattern":"(")",
          "layers_pattern");
  refused(R"("target_modules":["q_proj"],"exclude_modules":["q_proj"])", "exclude_modules");
  refused(R"("target_modules":["q_proj"],"exclude_modules":"(")", "exclude_modules");
  refused(R"("target_modules":["q_proj"],"exclude_modules":[1])", "exclude_modules");
  refused(R"("target_modules":["q_proj"],"modules_to_save":3)", "modules_to_save");
  refused(R"("target_modules":["q_proj"],"use_dora":"yes")", "use_dora");
  refused(R"("target_modules":["q_proj"],"init_lora_weights":"olora")", "init_lora_weights");
  refused(R"("target_modules":["q_proj"],"init_lora_weights":"mica")", "init_lora_weights");
  refused(R"("target_modules":["q_proj"],"fan_in_fan_out":true)", "fan_in_fan_out");
  refused(R"("target_modules":["q_proj"],"eva_config":{"rho":2.0})", "eva_config");
  refused(R"("target_modules":["q_proj"],"bias":"lora_only")", "bias");
}

TEST_CASE("peft: magnitudes and whole modules train, and nothing else does") {
  Options options = options_of();
  options.lora_targets = {"q_proj"};
  options.dora = true;
  options.modules_to_save = {"lm_head", "norm"};
  const TokenData data = text();
  Options full = options;
  full.mode = ModeChoice::full;
  // A new adapter changes nothing.
  CHECK(Trainer(options, shape, data, 0.5).step().loss ==
        Trainer(full, shape, data, 0.5).step().loss);
  std::set<std::string> expected{"lm_head.weight", "model.norm.weight"};
  for (int layer = 0; layer < 3; ++layer) {
    const std::string block = "model.layers." + std::to_string(layer) + ".";
    for (const char* const one :
         {"input_layernorm.weight", "post_attention_layernorm.weight",
          "self_attn.q_proj.lora_A.weight", "self_attn.q_proj.lora_B.weight",
          "self_attn.q_proj.lora_magnitude_vector"})
      expected.insert(block + one);
  }
  CHECK(changed_by(options) == expected);
  // What lies outside of the branches trains where all of these are dropped.
  options.drop_rate = 1.0;
  CHECK(changed_by(options) == std::set<std::string>{"lm_head.weight", "model.norm.weight"});
  options.modules_to_save = {"lm_head"};
  CHECK(changed_by(options) == std::set<std::string>{"lm_head.weight"});
  options.modules_to_save = {"embed_tokens"};
  CHECK(changed_by(options) == std::set<std::string>{"model.embed_tokens.weight"});
  // The matrix of a tied model is one, whoever asks for it.
  options.shape.tie_embeddings = true;
  options.modules_to_save = {"lm_head"};
  CHECK(changed_by(options) == std::set<std::string>{"model.embed_tokens.weight"});
  options.mode = ModeChoice::qlora;
  CHECK(changed_by(options) == std::set<std::string>{"model.embed_tokens.weight"});
}

TEST_CASE("peft: the norms of key heads train in the lowest branch too, without those of queries") {
  Options options = options_of(0.0);
  options.shape.traits.head_norm = dropbp::ops::HeadNorm::per_head;
  options.lora_targets = {"down_proj"};
  options.modules_to_save = {"k_norm"};
  const std::set<std::string> changed = changed_by(options);
  for (const char* const layer : {"0", "1", "2"}) {
    const std::string block = std::string("model.layers.") + layer + ".self_attn.";
    CHECK(changed.contains(block + "k_norm.weight"));
    CHECK_FALSE(changed.contains(block + "q_norm.weight"));
  }
}

TEST_CASE("peft: a resumed run with magnitudes and whole modules has the same bits") {
  const TokenData data = text();
  Options options = options_of();
  options.dora = true;
  options.lora_targets = {"v_proj", "down_proj"};
  options.modules_to_save = {"embed_tokens", "norm"};
  options.shape.tie_embeddings = true;
  const TemporaryFolder folder;
  Trainer whole(options, options.shape, data, 0.5), first(options, options.shape, data, 0.5),
      second(options, options.shape, data, 0.5);
  const RunIdentity identity = identity_of(options, options.shape, data, first.model());
  for (int i = 0; i < 4; ++i) whole.step(), first.step();
  {
    TrainingCheckpoints checkpoints(folder.path(), identity);
    checkpoints.save(first);
  }
  TrainingCheckpoints checkpoints(folder.path(), identity);
  REQUIRE(checkpoints.resume(second, [](std::string_view) {}));
  CHECK(tensors_of(second) == tensors_of(whole));
  for (int i = 0; i < 4; ++i) CHECK(whole.step().loss == second.step().loss);
  CHECK(tensors_of(second) == tensors_of(whole));

  Options other = options;
  other.dora = false;
  CHECK(identity !=
        identity_of(other, options.shape, data, Trainer(other, options.shape, data, 0.5).model()));
  other = options;
  other.modules_to_save = {"norm"};
  CHECK(identity !=
        identity_of(other, options.shape, data, Trainer(other, options.shape, data, 0.5).model()));
}

TEST_CASE("peft: magnitudes over weights in 4 bits train and merge") {
  const TokenData data = text();
  Options options = options_of();
  options.mode = ModeChoice::qlora;
  options.dora = true;
  options.modules_to_save = {"lm_head"};
  const TemporaryFolder folder;
  Trainer trainer(options, shape, data, 0.0);
  const double first = trainer.step().loss;
  double last = first;
  while (trainer.steps_done() < 8) last = trainer.step().loss;
  CHECK(last < first);
  const double loss = trainer.validate();
  save_weights(folder / "merged", trainer.model());
  Options merged = options_of();
  merged.mode = ModeChoice::full;
  merged.model = folder / "merged";
  CHECK(std::abs(Trainer(merged, shape, data, 0.0).validate() - loss) <= 2e-5);
}

TEST_CASE("peft: what cannot be trained whole or with magnitudes is refused") {
  const auto model = [](const ops::LoraConfig& lora) {
    LlamaModel<float>(shape, 16, {.lora = lora});
  };
  for (const char* const linear : {"q_proj", "model.layers.1.mlp.down_proj", "proj"})
    test::check_throws<std::invalid_argument>(
        [&] { model({.rank = 2, .modules_to_save = {"norm", linear}}); },
        {"modules that are trained whole", linear, "linear maps", "give those adapters"});
  test::check_throws<std::invalid_argument>(
      [&] { model({.rank = 2, .modules_to_save = {"score"}}); }, {"'score' names none of them"});
  test::check_throws<std::invalid_argument>(
      [&] { model({.rank = 2, .dropout = 0.1, .magnitudes = true}); }, {"DoRA", "dropout"});
  // An adapter of a model whose embedding and output layer PEFT took apart.
  const TemporaryFolder folder;
  LlamaConfig tied = shape;
  tied.tie_embeddings = true;
  const ops::LoraConfig lora{.rank = 2, .modules_to_save = {"embed_tokens", "lm_head"}};
  LlamaModel<float> apart(shape, 16, {.lora = lora}), together(tied, 16, {.lora = lora});
  apart.initialize(3), apart.initialize_adapters(3);
  together.initialize(3), together.initialize_adapters(3);
  save_adapter(folder / "together", together, "");
  CHECK_NOTHROW(load_adapter(folder / "together", together));
  CHECK(json_of(folder / "together" / "adapter_config.json")["modules_to_save"] ==
        Names{"embed_tokens"});
  LlamaModel<float> other(tied, 16, {.lora = lora});
  other.initialize(4), other.initialize_adapters(4);
  apart.for_each_tensor([](const auto& tensor) {
    if (tensor.name == "lm_head.weight") tensor.value[7] += 1.0f;
  });
  save_adapter(folder / "apart", apart, "");
  // Without the checksum of its base, as PEFT writes it.
  {
    std::vector<std::vector<float>> values;
    std::vector<TensorToWrite> tensors;
    const SafetensorsFile file(folder / "apart" / "adapter_model.safetensors");
    for (const TensorInfo& tensor : file.tensors())
      file.read(tensor.name, values.emplace_back(tensor.elements()));
    for (std::size_t i = 0; i < values.size(); ++i)
      tensors.push_back({file.tensors()[i].name, file.tensors()[i].shape, values[i]});
    write_safetensors(folder / "apart" / "adapter_model.safetensors", tensors);
  }
  test::check_throws<std::runtime_error>([&] { load_adapter(folder / "apart", other); },
                                         {"one matrix for both", "ensure_weight_tying"});

  test::check_throws<std::invalid_argument>(
      [&] { LlamaModel<dropbp::BFloat16>(shape, 16, {.lora = {.rank = 2, .magnitudes = true}}); },
      {"DoRA", "float or double on the CPU"});
}
