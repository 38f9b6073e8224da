// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// LoRA and QLoRA: what is trained, what is saved, and which adapters are refused.
#include "llama/model/adapter.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "llama/app/trainer.hpp"
#include "llama/files.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/formats/safetensors.hpp"
#include "llama/model/cached_forward.hpp"
#include "llama/small_run.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using test::TemporaryFolder;
using test::tensors_of;
namespace fs = std::filesystem;

const LlamaConfig shape = test::small_shape;

Options options_of(ModeChoice mode, double drop_rate = 0.5) {
  Options o = test::small_run(drop_rate);
  o.learning_rate = 1e-2;
  o.mode = mode;
  o.lora_rank = 3;
  return o;
}

TokenData text() {
  std::vector<std::int32_t> tokens;
  for (std::uint64_t i = 0; i < 2000; ++i)
    tokens.push_back(static_cast<std::int32_t>((i * i / 3 + 5 * i) % 61));
  return {std::move(tokens), 0.2};
}

bool is_adapter(const std::string& name) { return name.find(".lora_") != std::string::npos; }

}  // namespace

TEST_CASE(
    "lora: only adapters are trained, to the bit, and a new adapter does not change the loss") {
  const TokenData data = text();
  const Options options = options_of(ModeChoice::lora);
  Trainer full(options_of(ModeChoice::full), shape, data, 0.5), lora(options, shape, data, 0.5);
  CHECK_FALSE(lora.model().trainable_below());
  const auto before = tensors_of(lora);
  const double first = lora.step().loss;
  CHECK(first == full.step().loss);
  double last = first;
  while (lora.steps_done() < options.steps) last = lora.step().loss;
  CHECK(last < first);
  std::size_t changed = 0;
  for (const auto& [name, values] : tensors_of(lora)) {
    CAPTURE(name);
    CHECK((values != before.at(name)) == is_adapter(name));
    if (is_adapter(name)) ++changed;
  }
  CHECK(changed == 3 * 7 * 2);
}

TEST_CASE(
    "lora: a step that drops all branches runs no backward pass, and each micro-step has its own "
    "dropout masks") {
  const TokenData data = text();
  Trainer dropping(options_of(ModeChoice::lora, 1.0), shape, data, 1.0);
  const auto before = tensors_of(dropping);
  for (int i = 0; i < 3; ++i) {
    const StepRecord& record = dropping.step();
    CHECK(record.dropped.size() == 6);
    CHECK(record.backward_ms == 0.0);
    CHECK(record.activation_bytes == 0);
    CHECK(std::isfinite(record.loss));
  }
  CHECK(tensors_of(dropping) == before);

  Options options = options_of(ModeChoice::lora, 0.0);
  options.lora_dropout = 0.5;
  options.micro_steps = 2;
  Trainer a(options, shape, data, 0.0), b(options, shape, data, 0.0),
      other(options_of(ModeChoice::lora, 0.0), shape, data, 0.0);
  for (int i = 0; i < 3; ++i) CHECK(a.step().loss == b.step().loss);
  CHECK(tensors_of(a) == tensors_of(b));
  for (int i = 0; i < 3; ++i) other.step();
  CHECK(tensors_of(a) != tensors_of(other));

  // The masks are those of the trainer's step and micro-step: with the same data twice, only they
  // can differ.
  const TokenData same{std::vector<std::int32_t>(2000, 7), 0.2};
  options.learning_rate = 1e-12;
  options.warmup = 0;
  const TemporaryFolder folder;
  {
    Trainer learned(options_of(ModeChoice::lora, 0.0), shape, data, 0.0);
    while (learned.steps_done() < 8) learned.step();
    save_adapter(folder.path(), learned.model(), "");
  }
  options.adapter = folder.path();
  Trainer masked(options, shape, same, 0.0);
  std::set<double> losses;
  for (int i = 0; i < 4; ++i) losses.insert(masked.step().loss);
  CHECK(losses.size() == 4);
  options.micro_steps = 1;
  Trainer single(options, shape, same, 0.0);
  losses.insert(single.step().loss);
  CHECK(losses.size() == 5);  // the mean of two masks is neither of them
  // Evaluation drops nothing out.
  CHECK(masked.validate() == single.validate());
}

TEST_CASE(
    "lora: below the lowest branch with an adapter nothing is computed, and the gradients are the "
    "same bits") {
  const TokenData data = text();
  for (const std::vector<std::string>& targets :
       {std::vector<std::string>{"down_proj"}, {"q_proj", "v_proj"}}) {
    Options options = options_of(ModeChoice::lora, 0.0);
    options.lora_targets = targets;
    const std::size_t untrained = targets.size() == 1 ? 1 : 0;  // of the branches from below
    CAPTURE(untrained);
    Trainer trainer(options, shape, data, 0.0);
    const StepRecord& record = trainer.step();
    CHECK(record.dropped ==
          (untrained == 1 ? std::vector<std::size_t>{0} : std::vector<std::size_t>{}));
    CHECK(record.activation_bytes == record.kept_activation_bytes);
    CHECK(trainer.drop_report().consistent());

    auto& model = trainer.model();
    dropbp::DropBPHandler handler{model, {.drop_rate = 0.0, .trainable_below = false}};
    Batch batch{.shape = {2, 16},
                .inputs = std::vector<std::int32_t>(32, 3),
                .labels = std::vector<std::int32_t>(32, 5)};
    for (std::size_t i = 0; i < 32; ++i) batch.inputs[i] = static_cast<std::int32_t>(7 * i % 61);
    const auto gradients = [&](auto plan) {
      model.clear_gradients();
      handler.begin_step(plan);
      static_cast<void>(model.loss_and_gradients(batch));
      std::map<std::string, std::vector<float>> result;
      model.for_each_tensor([&](const auto& tensor) {
        if (tensor.gradient != nullptr)
          result[tensor.name].assign(tensor.gradient, tensor.gradient + tensor.size());
      });
      return result;
    };
    const auto all = gradients(dropbp::DropPlan(std::vector<std::uint8_t>(6, 0), false));
    CHECK(all.size() == 3 * 2 * targets.size());
    CHECK(gradients(std::uint64_t{0}) == all);
    CHECK(handler.plan().lowest_kept() == untrained);
    for (std::size_t i = 0; i < 6; ++i) CHECK(handler.has_gradient(i) == (i % 2 == untrained));
  }
}

TEST_CASE(
    "lora: the limits of the savings include the input gradient that the lowest kept branch "
    "skips") {
  const TokenData data = text();
  const double sequence = 16, hidden = 24, kv = 12, units = 40;
  const double attention = 4 * hidden * hidden + 4 * hidden * kv + 2 * sequence * hidden,
               mlp = 6 * hidden * units;
  const double all = 3 * (attention + mlp), qkv = 2 * hidden * (hidden + 2 * kv),
               gate_up = 4 * hidden * units;
  const auto fraction = [&](std::vector<std::string> targets, ModeChoice mode) {
    Options options = options_of(mode, 0.0);
    options.lora_targets = std::move(targets);
    Trainer trainer(options, shape, data, 0.0);
    return trainer.step().kept_flops_fraction;
  };
  CHECK(fraction({}, ModeChoice::full) == Approx(1.0));
  CHECK(fraction({}, ModeChoice::lora) == Approx((all - qkv) / all));
  CHECK(fraction({}, ModeChoice::qlora) == Approx((all - qkv) / all));
  CHECK(fraction({"o_proj"}, ModeChoice::lora) == Approx((all - attention) / all));
  CHECK(fraction({"up_proj"}, ModeChoice::lora) == Approx((all - attention - gate_up) / all));
  CHECK(fraction({"down_proj"}, ModeChoice::lora) == Approx((all - attention - mlp) / all));
}

TEST_CASE("lora: adapters and merged models are saved, and load to the same loss") {
  const TokenData data = text();
  const TemporaryFolder folder;
  for (const ModeChoice mode : {ModeChoice::lora, ModeChoice::qlora}) {
    CAPTURE(static_cast<int>(mode));
    Options options = options_of(mode);
    options.lora_targets = {"q_proj", "v_proj", "down_proj"};
    options.lora_alpha = 7.5;
    options.lora_dropout = 0.25;
    {
      Trainer base(options_of(ModeChoice::full), shape, data, 0.0);
      save_weights(folder / "base", base.model());
    }
    options.model = folder / "base";
    Trainer trained(options, shape, data, 0.5);
    while (trained.steps_done() < options.steps) trained.step();
    const double loss = trained.validate();
    save_adapter(folder / "adapter", trained.model(), "some/base");
    save_weights(folder / "merged", trained.model());

    const ops::LoraConfig read = load_adapter_config(folder / "adapter", linear_names(shape));
    CHECK(read.rank == 3);
    CHECK(read.alpha == 7.5);
    CHECK(read.dropout == 0.25);
    CHECK(read.targets == options.lora_targets);
    CHECK(test::read_bytes(folder / "adapter" / "adapter_config.json").find("\"some/base\"") !=
          std::string::npos);

    Options again = options_of(mode);
    again.model = folder / "base";
    again.adapter = folder / "adapter";
    Trainer loaded(again, shape, data, 0.0);
    CHECK(loaded.validate() == loss);

    Options plain = options_of(ModeChoice::full);
    plain.model = folder / "merged";
    Trainer merged(plain, shape, data, 0.0);
    CHECK(std::abs(merged.validate() - loss) <= 2e-5);
    CHECK(merged.validate() != Trainer(options_of(ModeChoice::full), shape, data, 0.0).validate());
  }
}

TEST_CASE(
    "lora: an adapter of another model is refused with the tensor and both shapes, and changes "
    "nothing") {
  const TokenData data = text();
  const TemporaryFolder folder;
  Trainer small(options_of(ModeChoice::lora), shape, data, 0.0);
  save_adapter(folder / "adapter", small.model(), "");
  Options options = options_of(ModeChoice::lora);
  LlamaConfig wider = shape;
  wider.intermediate = 44;
  LlamaModel<float> other(wider, 16, {.lora = small.model().lora()});
  other.initialize_adapters(5);
  std::vector<float> before;
  other.for_each_tensor([&](const auto& tensor) {
    if (is_adapter(tensor.name))
      before.insert(before.end(), tensor.value, tensor.value + tensor.size());
  });
  test::check_throws<std::runtime_error>(
      [&] { load_adapter(folder / "adapter", other); },
      {"mlp.gate_proj.lora_B.weight", "[44, 3]", "[40, 3]", "made for this model"});
  std::vector<float> after;
  other.for_each_tensor([&](const auto& tensor) {
    if (is_adapter(tensor.name))
      after.insert(after.end(), tensor.value, tensor.value + tensor.size());
  });
  CHECK(after == before);

  LlamaConfig lower = shape;
  lower.layers = 2;
  LlamaModel<float> fewer(lower, 16, {.lora = small.model().lora()});
  test::check_throws<std::runtime_error>(
      [&] { load_adapter(folder / "adapter", fewer); },
      {"model.layers.2.", "choose an adapter that was made for this model"});

  options.shape = wider;
  options.adapter = folder / "nowhere";
  test::check_throws<std::runtime_error>([&] { Trainer trainer(options, wider, data, 0.0); },
                                         {"nowhere", "not there"});
}

TEST_CASE(
    "lora: an adapter of other weights of the same shapes is refused if it has their checksum") {
  const TokenData data = text();
  const TemporaryFolder folder;
  Options options = options_of(ModeChoice::lora);
  {
    Trainer base(options_of(ModeChoice::full), shape, data, 0.0);
    CHECK(base.model().base_checksum() == 0);
    save_weights(folder / "base", base.model());
    save_weights(folder / "narrow", base.model(), DType::bf16);
    Trainer other(options, shape, data, 0.0);
    save_adapter(folder / "adapter", other.model(), "");
  }
  const auto load = [&](const char* base, ModeChoice mode) {
    Options again = options;
    again.mode = mode;
    if (base != nullptr) again.model = folder / base;
    again.adapter = folder / "adapter";
    return Trainer(again, shape, data, 0.0).model().base_checksum();
  };
  // The checksum identifies the base weights, from the seed or a file, in 4 bits or not.
  CHECK(load(nullptr, ModeChoice::lora) == load("base", ModeChoice::lora));
  CHECK(load(nullptr, ModeChoice::qlora) == load("base", ModeChoice::qlora));
  CHECK(load("base", ModeChoice::qlora) == load("base", ModeChoice::lora));
  // One bit of one weight, wherever it is.
  for (const char* const changed :
       {"model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"}) {
    Trainer base(options_of(ModeChoice::full), shape, data, 0.0);
    base.model().for_each_tensor([&](const auto& tensor) {
      if (tensor.name == changed)
        tensor.value[tensor.size() - 1] = std::nextafter(tensor.value[tensor.size() - 1], 9.0f);
    });
    save_weights(folder / "changed", base.model());
    for (const ModeChoice mode : {ModeChoice::lora, ModeChoice::qlora})
      test::check_throws<std::runtime_error>(
          [&] { load("changed", mode); }, {"adapter'", "base that it was trained on", "CRC-32C"});
  }
  test::check_throws<std::runtime_error>([&] { load("narrow", ModeChoice::lora); },
                                         {"base that it was trained on"});

  // An adapter of another program has no checksum.
  const fs::path path = folder / "adapter" / "adapter_model.safetensors";
  std::vector<std::vector<float>> values;
  std::vector<TensorToWrite> tensors;
  {
    const SafetensorsFile file(path);
    for (const TensorInfo& tensor : file.tensors())
      file.read(tensor.name, values.emplace_back(tensor.elements()));
    for (std::size_t i = 0; i < values.size(); ++i)
      tensors.push_back({file.tensors()[i].name, file.tensors()[i].shape, values[i]});
  }
  write_safetensors(path, tensors);
  CHECK_NOTHROW(load("narrow", ModeChoice::lora));
}

TEST_CASE(
    "lora: NaN or infinity in a base or an adapter is refused in every mode, naming the position") {
  const TokenData data = text();
  const TemporaryFolder folder;
  {
    Trainer full(options_of(ModeChoice::full), shape, data, 0.0);
    save_weights(folder / "base", full.model());
    Options options = options_of(ModeChoice::lora);
    options.model = folder / "base";
    Trainer lora(options, shape, data, 0.0);
    save_adapter(folder / "adapter", lora.model(), "");
  }
  // One number of a file; without metadata, an adapter fits any base.
  const auto poison = [](const fs::path& path, const std::string& name, std::size_t at) {
    const SafetensorsFile file(path);
    std::vector<std::vector<float>> values;
    std::vector<TensorToWrite> tensors;
    for (const TensorInfo& tensor : file.tensors())
      file.read(tensor.name, values.emplace_back(tensor.elements()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (file.tensors()[i].name == name) values[i][at] = std::numeric_limits<float>::quiet_NaN();
      tensors.push_back({file.tensors()[i].name, file.tensors()[i].shape, values[i]});
    }
    write_safetensors(path, tensors);
  };
  const auto load = [&](ModeChoice mode, bool adapter) {
    Options options = options_of(mode);
    options.model = folder / "base";
    if (adapter) options.adapter = folder / "adapter";
    Trainer trainer(options, shape, data, 0.0);
  };
  CHECK_NOTHROW(load(ModeChoice::lora, true));
  poison(folder / "adapter" / "adapter_model.safetensors",
         "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight", 3 * 39 + 2);
  for (const ModeChoice mode : {ModeChoice::lora, ModeChoice::qlora})
    test::check_throws<std::runtime_error>(
        [&] { load(mode, true); },
        {"adapter_model.safetensors'", "layers.1.mlp.up_proj.lora_B.weight' is NaN at [39, 2];"});
  poison(folder / "base" / "model.safetensors", "model.layers.2.self_attn.k_proj.weight", 24);
  for (const ModeChoice mode : {ModeChoice::full, ModeChoice::lora, ModeChoice::qlora})
    test::check_throws<std::runtime_error>(
        [&] { load(mode, false); },
        {"model.safetensors'", "'model.layers.2.self_attn.k_proj.weight' is NaN at [1, 0];"});
}

TEST_CASE("lora: without --lora-dropout the adapter's own dropout is used") {
  const TokenData data = text();
  const TemporaryFolder folder;
  Options options = options_of(ModeChoice::lora);
  CHECK(Trainer(options, shape, data, 0.0).model().lora().dropout == 0.0);
  options.lora_dropout = 0.25;
  save_adapter(folder.path(), Trainer(options, shape, data, 0.0).model(), "");
  options.adapter = folder.path();
  options.lora_dropout.reset();
  CHECK(Trainer(options, shape, data, 0.0).model().lora().dropout == 0.25);
  options.lora_dropout = 0.0;
  CHECK(Trainer(options, shape, data, 0.0).model().lora().dropout == 0.0);
}

TEST_CASE("lora: names and patterns choose maps and ranks as in PEFT") {
  const std::vector<std::string> names = linear_names(shape);
  REQUIRE(names.size() == 21);
  CHECK(names[7] == "model.layers.1.self_attn.q_proj");
  CHECK(names[20] == "model.layers.2.mlp.down_proj");
  const auto parsed = [&](const std::string& more) {
    return parse_adapter_config(R"({"peft_type":"LORA","r":4,"lora_alpha":8,)" + more + "}", "'c'",
                                names);
  };
  using Names = std::vector<std::string>;
  // Of a list each is the end of a name, from a dot on; a pattern is the whole of it.
  CHECK(parsed(R"("target_modules":["1.self_attn.q_proj","2.mlp.up_proj"])").targets ==
        Names{"model.layers.1.self_attn.q_proj", "model.layers.2.mlp.up_proj"});
  CHECK(parsed(R"("target_modules":["layers.1.mlp.up_proj","q_proj"])").targets ==
        Names{"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj",
              "model.layers.1.mlp.up_proj", "model.layers.2.self_attn.q_proj"});
  CHECK(parsed(R"("target_modules":".*\\.[02]\\..*[kv]_proj")").targets ==
        Names{"model.layers.0.self_attn.k_proj", "model.layers.0.self_attn.v_proj",
              "model.layers.2.self_attn.k_proj", "model.layers.2.self_attn.v_proj"});
  CHECK(parsed(R"("target_modules":".*\\.(q|v)_proj")").targets == Names{"q_proj", "v_proj"});
  CHECK(canonical_targets(parsed(R"("target_modules":".*_proj")").targets, linears_of({}), false)
            .empty());

  const ops::LoraConfig ranks = parsed(
      R"("target_modules":"all-linear","rank_pattern":{"q_proj":16,"layers.1.*":2,"v_proj":4},
         "alpha_pattern":{"down_proj":3.5},"use_rslora":true)");
  CHECK(ranks.rank_stabilized);
  CHECK(ranks.exceptions.size() == 3 + 6 + 2);  // q_proj, the rest of a block, down_proj
  const auto rank = [&](int layer, const char* name) {
    return ranks.rank_of(names[static_cast<std::size_t>(7 * layer)].substr(0, 15) + name);
  };
  CHECK(rank(0, "self_attn.q_proj") == 16);
  CHECK(rank(1, "self_attn.q_proj") == 16);  // the first pattern in the file counts
  CHECK(rank(1, "self_attn.v_proj") == 2);
  CHECK(rank(2, "self_attn.v_proj") == 4);
  CHECK(rank(1, "mlp.down_proj") == 2);
  CHECK(ranks.scale_of("model.layers.2.mlp.down_proj") == 3.5 / 2.0);
  CHECK(ranks.scale_of("model.layers.0.self_attn.q_proj") == 8.0 / 4.0);
  // What is written means the same.
  const ops::LoraConfig again =
      parse_adapter_config(adapter_config_json(ranks, "b", shape), "'c'", names);
  CHECK(again.rank_stabilized);
  for (const std::string& name : names) {
    CHECK(again.rank_of(name) == ranks.rank_of(name));
    CHECK(again.scale_of(name) == ranks.scale_of(name));
  }
  for (const char* const bad : {R"("target_modules":"q_proj")", R"("target_modules":"(")",
                                R"("target_modules":[".q_proj"])",
                                R"("target_modules":["q_proj"],"rank_pattern":{"lm_head":2})",
                                R"("target_modules":["q_proj"],"rank_pattern":{"q_proj":0})",
                                R"("target_modules":["q_proj"],"rank_pattern":{"q_proj":1.5})",
                                R"("target_modules":["q_proj"],"rank_pattern":[1])",
                                R"("target_modules":["q_proj"],"alpha_pattern":{"q_proj":"2"})",
                                R"("target_modules":["q_proj"],"alpha_pattern":{"proj":2})"}) {
    CAPTURE(bad);
    test::check_throws<std::runtime_error>([&] { (void)parsed(bad); }, {"'c'"});
  }
}

TEST_CASE("lora: an adapter of PEFT with patterns for maps, ranks and alphas gives its logits") {
  const std::filesystem::path data = DROPBP_TEST_DATA;
  const LlamaConfig config = load_config(data / "llama-tiny");
  const std::filesystem::path folder = data / "lora-patterns";
  const nlohmann::json expected = nlohmann::json::parse(test::read_bytes(folder / "expected.json"));
  LlamaModel<float> model(config, 16,
                          {.lora = load_adapter_config(folder / "adapter", linear_names(config))});
  load_weights(data / "llama-tiny", model);
  load_adapter(folder / "adapter", model);
  const auto ids = expected["input_ids"].get<std::vector<std::int32_t>>();
  const auto logits = expected["last_logits"].get<std::vector<float>>();
  CachedForward<float> forward(model, 16);
  const std::span<const float> got = forward.next(ids);
  REQUIRE(got.size() == logits.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i, got[i], logits[i]);
    CHECK(std::abs(got[i] - logits[i]) <= 2e-6f);
  }
}

TEST_CASE("lora: adapters of several ranks train, and come back merged and by themselves") {
  const TokenData data = text();
  Options options = options_of(ModeChoice::lora);
  options.lora_patterns.targets = ".*(q|v|down)_proj";
  options.lora_patterns.ranks = {{"v_proj", 3}, {R"(layers\.1\..*)", 1}};
  options.lora_patterns.alphas = {{"down_proj", 5.0}};
  options.rslora = true;
  Trainer trainer(options, shape, data, 0.5);
  const double first = trainer.step().loss;
  double last = first;
  while (trainer.steps_done() < 8) last = trainer.step().loss;
  CHECK(last < first);
  const double loss = trainer.validate();
  TemporaryFolder folder;
  save_adapter(folder / "adapter", trainer.model(), "");
  Options with = options_of(ModeChoice::lora);
  with.adapter = folder / "adapter";
  Trainer loaded(with, shape, data, 0.5);
  CHECK(loaded.validate() == loss);
  save_weights(folder / "merged", trainer.model());
  Options full = options_of(ModeChoice::full);
  full.model = folder / "merged";
  CHECK(std::abs(Trainer(full, shape, data, 0.5).validate() - loss) <= 1e-5 * loss);
}

TEST_CASE("lora: unsupported adapter configs are refused, naming the key") {
  const std::vector<std::string> names = linear_names(shape);
  const auto config = [](const std::string& more) {
    return R"({"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":["q_proj","up_proj"],)"
           R"("bias":"none")" +
           more + "}";
  };
  const ops::LoraConfig good = parse_adapter_config(
      config(
          R"(,"use_dora":false,"rank_pattern":{},"modules_to_save":null,"init_lora_weights":true)"),
      "'c'", names);
  CHECK(good.rank == 4);
  CHECK(good.scale_of("q_proj") == 2.0);
  CHECK(good.adapts("model.layers.0.self_attn.q_proj"));
  CHECK_FALSE(good.adapts("model.layers.0.self_attn.k_proj"));
  CHECK(parse_adapter_config(
            R"({"peft_type":"LORA","r":1,"lora_alpha":1,"target_modules":"all-linear"})", "'c'",
            names)
            .targets.empty());
  // A config that PEFT 0.21 writes without further methods.
  CHECK_NOTHROW((void)parse_adapter_config(
      R"({"alora_invocation_tokens":null,"alpha_pattern":{},"arrow_config":null,
        "auto_mapping":{"base_model_class":"LlamaForCausalLM","parent_library":"transformers"},
        "base_model_name_or_path":"b","bias":"none","corda_config":null,"ensure_weight_tying":false,
        "eva_config":null,"exclude_modules":null,"fan_in_fan_out":false,"inference_mode":true,
        "init_lora_weights":true,"kasa_config":null,"layer_replication":null,"layers_pattern":null,
        "layers_to_transform":null,"loftq_config":{},"lora_alpha":16,"lora_bias":false,
        "lora_dropout":0.05,"lora_ga_config":null,"megatron_config":null,
        "megatron_core":"megatron.core","modules_to_save":null,"monteclora_config":null,
        "peft_type":"LORA","peft_version":"0.21.2","qalora_group_size":16,"r":8,"rank_pattern":{},
        "revision":null,"target_modules":["q_proj","v_proj"],"target_parameters":null,
        "task_type":"CAUSAL_LM","trainable_token_indices":null,"use_bdlora":null,"use_dora":false,
        "use_qalora":false,"use_rslora":false,"velora_config":null})",
      "'c'", names));

  const struct {
    std::string text;
    const char* key;
  } bad[] = {
      {config(R"(,"use_rslora":1)"), "use_rslora"},
      {config(R"(,"init_lora_weights":"pissa_niter_4")"), "init_lora_weights"},
      {config(R"(,"use_qalora":true)"), "use_qalora"},
      {config(R"(,"lora_dropout":1)"), "lora_dropout"},
      {config(R"(,"alora_invocation_tokens":[1,2])"), "alora_invocation_tokens"},
      {config(R"(,"velora_config":{"num_groups":4})"), "velora_config"},
      {config(R"(,"loftq_config":{"loftq_bits":4})"), "loftq_config"},
      {config(R"(,"scaling_of_next_year":0)"), "scaling_of_next_year"},
      {config(R"(,"task_type":"SEQ_CLS")"), "task_type"},
      {config(R"(,"r":5)"), "occurs twice"},
      {R"({"peft_type":"IA3"})", "peft_type"},
      {R"({"r":4})", "peft_type"},
      {R"({"peft_type":"LORA","lora_alpha":8,"target_modules":["q_proj"]})", "'r'"},
      {R"({"peft_type":"LORA","r":0,"lora_alpha":8,"target_modules":["q_proj"]})", "'r'"},
      {R"({"peft_type":"LORA","r":2.5,"lora_alpha":8,"target_modules":["q_proj"]})", "'r'"},
      {R"({"peft_type":"LORA","r":2,"target_modules":["q_proj"]})", "lora_alpha"},
      {R"({"peft_type":"LORA","r":2,"lora_alpha":"8","target_modules":["q_proj"]})", "lora_alpha"},
      {R"({"peft_type":"LORA","r":2,"lora_alpha":8})", "target_modules"},
      {R"({"peft_type":"LORA","r":2,"lora_alpha":8,"target_modules":[]})", "target_modules"},
      {R"({"peft_type":"LORA","r":2,"lora_alpha":8,"target_modules":"_proj"})", "_proj"},
      {R"({"peft_type":"LORA","r":2,"lora_alpha":8,"target_modules":["c_attn"]})", "c_attn"},
      {R"({"peft_type":"LORA","r":2,"lora_alpha":8,"target_modules":["q_proj"],"bias":"all"})",
       "bias"},
      {R"([1])", "JSON"},
  };
  for (const auto& one : bad) {
    CAPTURE(one.text);
    test::check_throws<std::runtime_error>(
        [&] { static_cast<void>(parse_adapter_config(one.text, "'c'", names)); }, {"'c'", one.key});
  }
}

TEST_CASE("lora: no pattern exhausts the stack or takes exponential time") {
  const std::vector<std::string> names = linear_names(shape);
  const auto refused = [&](const std::string& key, const std::string& pattern, const char* reason) {
    const std::string text =
        R"({"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":"all-linear",)" + key + "}";
    CAPTURE(key);
    test::check_throws<std::runtime_error>([&] { (void)parse_adapter_config(text, "'c'", names); },
                                           {"'c'", pattern, reason});
  };
  const std::string deep = std::string(20000, '(') + "a" + std::string(20000, ')');
  refused(R"("exclude_modules":")" + deep + '"', "((((", "500 groups");
  refused(R"("rank_pattern":{")" + deep + R"(":2})", "((((", "500 groups");
  // Backtracking would try 2^30 ways to cut the name.
  refused(R"("rank_pattern":{"(([a-z.]|[a-z_.])*)*!":2})", "!", "matches none");
}

TEST_CASE("qlora: frozen linear maps are in 4 bits, and are trained and saved as dense ones are") {
  const TokenData data = text();
  Trainer dense(options_of(ModeChoice::lora), shape, data, 0.5),
      quantized(options_of(ModeChoice::qlora), shape, data, 0.5);
  const std::size_t linears = 3u * (2u * 24u * 24u + 2u * 24u * 12u + 3u * 24u * 40u);
  const std::size_t rest = dense.model().base_bytes() - 4 * linears;
  // 4 bits, a byte for each 64, a few floats for each matrix.
  CHECK(quantized.model().base_bytes() - rest < linears * 33 / 64 + 3 * 7 * 12);
  CHECK(quantized.model().base_bytes() - rest >= linears * 33 / 64);
  const double a = dense.step().loss, b = quantized.step().loss;
  CHECK(a != b);
  CHECK(std::abs(a - b) < 0.05 * a);
  double last = b;
  while (quantized.steps_done() < 8) last = quantized.step().loss;
  CHECK(last < b);
}

TEST_CASE("fp8: frozen linear maps are in 8 bits, and are trained, merged and saved in either") {
  const test::TemporaryFolder folder;
  const TokenData data = text();
  Options options = options_of(ModeChoice::lora);
  Trainer dense(options, shape, data, 0.5);
  options.base_precision = BasePrecisionChoice::fp8;
  Trainer quantized(options, shape, data, 0.5);
  // Rows of 24 and 40 codes are filled up to 32 and 48; each has a float.
  const std::size_t linears = 3u * (2u * 24u * 24u + 2u * 24u * 12u + 3u * 24u * 40u);
  const std::size_t codes = 3u * ((2u * 24u + 2u * 12u + 2u * 40u) * 36u + 24u * 52u);
  CHECK(quantized.model().base_bytes() == dense.model().base_bytes() - 4 * linears + codes);
  const double a = dense.step().loss, b = quantized.step().loss;
  CHECK(a != b);
  CHECK(std::abs(a - b) < 0.01 * a);
  double last = b;
  while (quantized.steps_done() < 8) last = quantized.step().loss;
  CHECK(last < b);

  // The merged model has the weights as the run saw them, and no rounded inputs.
  save_weights(folder / "merged", quantized.model());
  save_adapter(folder / "adapter", quantized.model(), "");
  const double loss = quantized.validate();
  LlamaModel<float> merged(shape, 8);
  load_weights(folder / "merged", merged);
  merged.for_each_weight([&](const LlamaModel<float>::BaseWeight& weight) {
    if (weight.projection == nullptr) return;
    quantized.model().for_each_weight([&](const LlamaModel<float>::BaseWeight& other) {
      if (other.name != weight.name) return;
      ops::Matrix<float> values(weight.rows, weight.columns);
      other.projection->merged_weight(other.part, values.view());
      CHECK(std::equal(values.data(), values.data() + values.size(), weight.value));
    });
  });
  // The adapter loads over a dense base too: both are the same before they are rounded.
  options.adapter = folder / "adapter";
  CHECK(Trainer(options, shape, data, 0.5).validate() == loss);
  options.base_precision = BasePrecisionChoice::automatic;
  CHECK(std::abs(Trainer(options, shape, data, 0.5).validate() - loss) < 0.01 * loss);
}
