// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Model folders: configs, single and sharded weights, and saves that are interrupted at every
// system call.
#include "llama/formats/model_folder.hpp"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "llama/faults.hpp"
#include "llama/files.hpp"
#include "llama/formats/atomic_file.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using test::TemporaryFolder;
namespace fs = std::filesystem;

LlamaConfig config_of(std::ptrdiff_t hidden) {
  LlamaConfig config;
  config.hidden = hidden;
  config.heads = 2;
  config.kv_heads = 1;
  return config;
}

/// A minimal model: two weights whose shapes depend on the config.
struct Weights {
  explicit Weights(const LlamaConfig& config, float value = 0.0f)
      : embedding(static_cast<std::size_t>(config.hidden * 3), value),
        norm(static_cast<std::size_t>(config.hidden), value + 1) {
    tensors = {{"model.embed_tokens.weight", {3, config.hidden}, embedding},
               {"model.norm.weight", {config.hidden}, norm}};
  }
  std::vector<float> embedding, norm;
  std::vector<NamedTensor> tensors;
};

void save(const fs::path& folder, std::ptrdiff_t hidden, float value) {
  const LlamaConfig config = config_of(hidden);
  save_model_folder(folder, config, Weights(config, value).tensors);
}

/// The loaded model as "hidden/value", or the error.
std::string loaded(const fs::path& folder) {
  try {
    const LlamaConfig config = load_config(folder);
    Weights weights(config, -99);
    load_folder(folder, weights.tensors);
    for (const float value : weights.embedding) {
      if (value != weights.embedding[0]) return "mixed values";
    }
    return std::to_string(config.hidden) + "/" +
           std::to_string(static_cast<int>(weights.embedding[0]));
  } catch (const std::exception& error) {
    return error.what();
  }
}

std::string json_with(const std::string& extra) {
  return R"({"vocab_size":64,"hidden_size":16,"intermediate_size":44,"num_hidden_layers":3,
        "num_attention_heads":4)" +
         extra + "}";
}

}  // namespace

TEST_CASE("config: read with Hugging Face's defaults, written and read back") {
  const LlamaConfig defaults = parse_config(json_with(""), "'c'");
  CHECK(defaults.kv_heads == 4);
  CHECK(defaults.norm_epsilon == 1e-6);
  CHECK(defaults.rope_theta == 10000.0);
  CHECK(!defaults.tie_embeddings);
  CHECK(defaults.head_size() == 4);

  LlamaConfig config{
      .vocabulary = 77, .hidden = 24, .intermediate = 50, .layers = 5, .heads = 6, .kv_heads = 3};
  config.norm_epsilon = 1e-5;
  config.rope_theta = 123456.5;
  config.tie_embeddings = true;
  config.max_positions = 99;
  CHECK(parse_config(config_json(config), "'c'") == config);

  const LlamaConfig golden = read_config(fs::path(DROPBP_TEST_DATA) / "llama-tiny/config.json");
  CHECK(golden == LlamaConfig{64, 16, 44, 3, 4, 2, 1e-5, 10000.0, false, 64});

  // Spellings of "plain" in newer transformers.
  CHECK(parse_config(json_with(R"(,"rope_parameters":{"rope_type":"default","rope_theta":5e5})"),
                     "'c'")
            .rope_theta == 5e5);
  CHECK_NOTHROW((void)parse_config(
      json_with(R"(,"rope_scaling":null,"head_dim":4,"hidden_act":"silu","mlp_bias":false,)"
                R"("sliding_window":null)"),
      "'c'"));
  CHECK_NOTHROW((void)parse_config(
      json_with(R"(,"rope_scaling":{"rope_type":"default"},"num_key_value_heads":null)"), "'c'"));
}

TEST_CASE("config: unsupported and impossible settings are errors that name the key") {
  const struct {
    std::string text;
    std::vector<std::string_view> parts;
  } cases[] = {
      {json_with(R"(,"rope_scaling":{"type":"ntk","factor":2.0})"),
       {"'rope_scaling'", "null", "linear", "ntk"}},
      {json_with(R"(,"rope_scaling":{"type":"linear","factor":0})"), {"'factor'", "it is 0"}},
      {json_with(R"(,"rope_scaling":{"factor":2.0})"), {"'rope_scaling'"}},
      {json_with(R"(,"rope_parameters":{"rope_type":"llama3"})"), {"'factor'", "missing"}},
      {json_with(R"(,"model_type":"qwen2","attention_bias":true)"),
       {"'attention_bias'", "false", "true"}},
      {json_with(R"(,"model_type":"mistral","mlp_bias":true)"), {"'mlp_bias'"}},
      {json_with(R"(,"hidden_act":"gelu")"), {"'hidden_act'", "silu", "gelu"}},
      {json_with(R"(,"model_type":"mixtral")"),
       {"'model_type'", "llama, mistral", "mixtral", "a mixture of experts"}},
      {json_with(R"(,"model_type":"qwen3_moe")"), {"a mixture of experts"}},
      {json_with(R"(,"model_type":"gemma3")"), {"reads images", "gemma3_text"}},
      {json_with(R"(,"model_type":"gpt2")"), {"'model_type'", "it is \"gpt2\""}},
      {json_with(R"(,"head_dim":7)"), {"head_dim", "even", "it is 7"}},
      {json_with(R"(,"head_dim":9000000)"), {"head_dim", "it is 9000000"}},
      {json_with(R"(,"quantization_config":{"bits":4})"), {"'quantization_config'"}},
      {json_with(R"(,"sliding_window":4096)"), {"'sliding_window'"}},
      {json_with(R"(,"partial_rotary_factor":0.5)"), {"'partial_rotary_factor'"}},
      {json_with(R"(,"is_causal":false)"), {"'is_causal'", "true", "it is false"}},
      {json_with(R"(,"pretraining_tp":2)"), {"'pretraining_tp'", "1", "it is 2"}},
      {json_with(R"(,"attention_dropout":0.1)"), {"'attention_dropout'", "0.1"}},
      {json_with(R"(,"layer_types":["full_attention","sliding_attention","full_attention"])"),
       {"'layer_types'", "sliding_attention"}},
      {json_with(R"(,"auto_map":{"AutoModelForCausalLM":"modeling_x.X"})"),
       {"'auto_map'", "modeling_x"}},
      {json_with(R"(,"quantization":{"bits":4})"), {"'quantization' is", "bits"}},
      {json_with(R"(,"per_layer_config":{"0":{}})"), {"'per_layer_config' is", "remove it"}},
      {json_with(R"(,"logit_scale":0.5)"), {"'logit_scale' is 0.5"}},
      {json_with(R"(,"residual_multiplier":0)"), {"'residual_multiplier' is 0"}},
      {json_with(R"(,"use_bidirectional_attention":true)"), {"'use_bidirectional_attention'"}},
      {json_with(R"(,"num_key_value_heads":3)"), {"multiple of kv_heads", "4 and 3"}},
      {json_with(R"(,"num_key_value_heads":0)"), {"kv_heads must be from 1"}},
      {json_with(R"(,"num_key_value_heads":-1)"), {"'num_key_value_heads'", "-1"}},
      {json_with(R"(,"num_key_value_heads":2.5)"), {"'num_key_value_heads'", "2.5"}},
      {json_with(R"(,"num_key_value_heads":"2")"), {"'num_key_value_heads'", "whole number"}},
      {json_with(R"(,"rms_norm_eps":0)"), {"norm_epsilon", "it is 0"}},
      {json_with(R"(,"rms_norm_eps":"1e-5")"), {"'rms_norm_eps'", "a number"}},
      {json_with(R"(,"rope_theta":-1)"), {"rope_theta", "it is -1"}},
      {json_with(R"(,"tie_word_embeddings":1)"), {"'tie_word_embeddings'", "true or false"}},
      {json_with(R"(,"vocab_size":65)"), {"'vocab_size' occurs twice"}},
      {R"({"hidden_size":16})", {"'vocab_size' must be given"}},
      {R"({"vocab_size":64,"hidden_size":20,"intermediate_size":4,"num_hidden_layers":1,
        "num_attention_heads":4})",
       {"must be even", "20 / 4 = 5"}},
      {R"({"vocab_size":64,"hidden_size":18,"intermediate_size":4,"num_hidden_layers":1,
        "num_attention_heads":4})",
       {"multiple of heads", "18 and 4"}},
      {R"({"vocab_size":99999999999,"hidden_size":16,"intermediate_size":4,"num_hidden_layers":1,
        "num_attention_heads":4})",
       {"vocabulary", "99999999999"}},
      {R"({"vocab_size":18446744073709551615,"hidden_size":16,"intermediate_size":4,
        "num_hidden_layers":1,"num_attention_heads":4})",
       {"'vocab_size'"}},
      {R"({"vocab_size":64,"hidden_size":16,"intermediate_size":4,"num_hidden_layers":0,
        "num_attention_heads":4})",
       {"layers must be from 1", "it is 0"}},
      {"[]", {"JSON object"}},
      {"", {"it is empty"}},
      {"{\"vocab_size\":", {"parse error"}},
  };
  for (const auto& c : cases) {
    INFO(c.text);
    test::check_throws<std::runtime_error>(
        [&] { (void)parse_config(c.text, "'some/config.json'"); }, {"'some/config.json'", "; "});
    for (const auto part : c.parts)
      test::check_throws<std::runtime_error>(
          [&] { (void)parse_config(c.text, "'some/config.json'"); }, {part});
  }
  test::check_throws<std::invalid_argument>([] { validate({.heads = 3, .kv_heads = 2}); },
                                            {"heads must be a multiple"});
}

TEST_CASE("config: the files of published LLaMA models load") {
  const struct {
    const char* text;
    LlamaConfig config;
  } files[] = {
      // LLaMA-2 7B.
      {R"({"_name_or_path":"meta-llama/Llama-2-7b-hf","architectures":["LlamaForCausalLM"],
        "bos_token_id":1,
        "eos_token_id":2,"hidden_act":"silu","hidden_size":4096,"initializer_range":0.02,
        "intermediate_size":11008,
        "max_position_embeddings":4096,"model_type":"llama","num_attention_heads":32,
        "num_hidden_layers":32,
        "num_key_value_heads":32,"pretraining_tp":1,"rms_norm_eps":1e-05,"rope_scaling":null,
        "tie_word_embeddings":false,"torch_dtype":"float16","transformers_version":"4.31.0.dev0",
        "use_cache":true,
        "vocab_size":32000})",
       {32000, 4096, 11008, 32, 32, 32, 1e-5, 10000.0, false, 4096}},
      // LLaMA-3 8B Instruct as transformers 5 writes it.
      {R"({"architectures":["LlamaForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
        "bos_token_id":128000,
        "dtype":"bfloat16","eos_token_id":[128001,128009],"head_dim":128,"hidden_act":"silu",
        "hidden_size":4096,
        "initializer_range":0.02,"intermediate_size":14336,"max_position_embeddings":8192,
        "mlp_bias":false,
        "model_type":"llama","num_attention_heads":32,"num_hidden_layers":32,
        "num_key_value_heads":8,
        "pad_token_id":null,"pretraining_tp":1,"rms_norm_eps":1e-05,
        "rope_parameters":{"rope_theta":500000.0,"rope_type":"default"},"tie_word_embeddings":false,
        "transformers_version":"5.0.0","use_cache":true,"vocab_size":128256})",
       {128256, 4096, 14336, 32, 32, 8, 1e-5, 5e5, false, 8192}},
      // SmolLM2 135M Instruct.
      {R"({"architectures":["LlamaForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
        "bos_token_id":1,
        "eos_token_id":2,"hidden_act":"silu","hidden_size":576,
        "initializer_range":0.041666666666666664,
        "intermediate_size":1536,"is_llama_config":true,"max_position_embeddings":8192,
        "mlp_bias":false,
        "model_type":"llama","num_attention_heads":9,"num_hidden_layers":30,"num_key_value_heads":3,
        "pad_token_id":2,
        "pretraining_tp":1,"rms_norm_eps":1e-05,"rope_interleaved":false,"rope_scaling":null,
        "rope_theta":100000,
        "tie_word_embeddings":true,"torch_dtype":"bfloat16",
        "transformers.js_config":{"kv_cache_dtype":{"q4f16":"float16"}},
        "transformers_version":"4.42.3","use_cache":true,"vocab_size":49152})",
       {49152, 576, 1536, 30, 9, 3, 1e-5, 1e5, true, 8192}},
      // TinyLlama 1.1B.
      {R"({"architectures":["LlamaForCausalLM"],"attention_bias":false,"bos_token_id":1,
        "eos_token_id":2,
        "hidden_act":"silu","hidden_size":2048,"initializer_range":0.02,"intermediate_size":5632,
        "max_position_embeddings":2048,"model_type":"llama","num_attention_heads":32,
        "num_hidden_layers":22,
        "num_key_value_heads":4,"pretraining_tp":1,"rms_norm_eps":1e-05,"rope_scaling":null,
        "rope_theta":10000.0,
        "tie_word_embeddings":false,"torch_dtype":"bfloat16","transformers_version":"4.35.0",
        "use_cache":true,
        "vocab_size":32000})",
       {32000, 2048, 5632, 22, 32, 4, 1e-5, 1e4, false, 2048}},
  };
  for (const auto& file : files) {
    INFO(file.text);
    CHECK(parse_config(file.text, "'c'") == file.config);
    // Writing it twice with the same keys gives the same text.
    const std::string written = config_json(file.config, "float16", file.text);
    CHECK(parse_config(written, "'w'") == file.config);
    CHECK(config_json(file.config, "float16", written) == written);
    const auto before = nlohmann::json::parse(file.text), after = nlohmann::json::parse(written);
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id", "initializer_range",
                            "use_cache", "transformers_version", "transformers.js_config"}) {
      INFO(key);
      CHECK(after.contains(key) == before.contains(key));
      if (before.contains(key)) CHECK(after[key] == before[key]);
    }
    for (const char* key : {"torch_dtype", "dtype"}) {
      CHECK(after.contains(key) == before.contains(key));
      if (before.contains(key)) CHECK(after[key] == "float16");
    }
    CHECK_FALSE(after.contains("rope_parameters"));
  }
  // Any key may be present if its value is off.
  CHECK_NOTHROW((void)parse_config(
      json_with(
          R"(,"a":null,"b":false,"c":"","d":[],"e":{},"pretraining_tp":null,)"
          R"("auto_map":{"AutoConfig":"configuration_x.X"},"layer_types":["full_attention"])"),
      "'c'"));
}

TEST_CASE("config: RoPE's base is read from every place, and two different values are an error") {
  const std::string top = R"("rope_theta":2e4)", scaling = R"("rope_scaling":{"rope_theta":2e4})",
                    parameters = R"("rope_parameters":{"rope_type":"default","rope_theta":20000})";
  for (
      const std::string& places : std::vector<std::string>{
          top, scaling, parameters, top + "," + scaling, top + "," + parameters,
          scaling + "," + parameters, top + "," + scaling + "," + parameters,
          R"("rope_theta":null,)" + parameters, R"("rope_scaling":null,)" + parameters,
          R"("rope_scaling":{"type":"default","rope_type":"default","factor":1.0,"rope_theta":2e4,)"
          R"("attention_factor":null,"original_max_position_embeddings":64,)"
          R"("partial_rotary_factor":1.0})"}) {
    INFO(places);
    CHECK(parse_config(json_with("," + places), "'c'").rope_theta == 2e4);
  }
  const struct {
    const char* text;
    std::vector<std::string_view> parts;
  } cases[] = {
      {R"("rope_theta":1e4,"rope_parameters":{"rope_theta":5e5})",
       {"'rope_theta' is 10000", "'rope_parameters.rope_theta' is 500000"}},
      {R"("rope_theta":1e4,"rope_scaling":{"rope_theta":5e5})",
       {"'rope_theta' is 10000", "'rope_scaling.rope_theta' is 500000"}},
      {R"("rope_scaling":{"rope_theta":5e5},"rope_parameters":{"rope_theta":1e4})",
       {"'rope_scaling.rope_theta' is 500000", "'rope_parameters.rope_theta' is 10000"}},
      {R"("partial_rotary_factor":1,"rope_parameters":{"partial_rotary_factor":0.5})",
       {"'partial_rotary_factor' is 1", "'rope_parameters.partial_rotary_factor' is 0.5"}},
      {R"("rope_scaling":{"partial_rotary_factor":0.5})", {"'partial_rotary_factor'", "0.5"}},
      {R"("rope_scaling":{"rope_theta":"5e5"})", {"'rope_theta' must be a number"}},
      {R"("rope_parameters":{"rope_type":"default","type":"yarn"})",
       {"'rope_parameters'", "'type'", "yarn"}},
      {R"("rope_parameters":{"rope_type":"default","factor":2.0})", {"'factor' is 2"}},
      {R"("rope_parameters":{"attention_factor":0.5})", {"'attention_factor' is 0.5"}},
      {R"("rope_scaling":{"rope_type":"default","attention_scaling":1.5})",
       {"'attention_scaling' is 1.5"}},
      {R"("rope_parameters":{"full_attention":{"rope_type":"default","rope_theta":1e4}})",
       {"'rope_parameters'", "'full_attention'"}},
      {R"("rope_scaling":"linear")", {"'rope_scaling'", "linear"}},
  };
  for (const auto& c : cases) {
    INFO(c.text);
    for (const auto part : c.parts)
      test::check_throws<std::runtime_error>(
          [&] { (void)parse_config(json_with("," + std::string(c.text)), "'c'"); }, {"'c'", part});
  }
}

TEST_CASE("checkpoint: saved, loaded, saved over") {
  const TemporaryFolder folder;
  const fs::path out = folder / "a/b";
  save(out, 8, 1);
  CHECK(loaded(out) == "8/1");
  CHECK(SafetensorsFile(out / "model.safetensors").metadata().at("format") == "pt");
  save(out, 8, 2);
  CHECK(loaded(out) == "8/2");
  save(out, 12, 3);
  CHECK(loaded(out) == "12/3");
  CHECK(std::distance(fs::directory_iterator(out), {}) == 2);

  // A config.json edited by hand is used: nothing is pending.
  LlamaConfig edited = config_of(12);
  edited.rope_theta = 777;
  test::write_bytes(out / "config.json", config_json(edited));
  CHECK(load_config(out) == edited);
}

TEST_CASE("checkpoint: missing, wrong and extra tensors are named") {
  const TemporaryFolder folder;
  const fs::path dir = folder / "m";
  const LlamaConfig config = config_of(8);
  Weights weights(config);
  const auto load = [&] { load_folder(dir, weights.tensors); };
  const auto write = [&](std::vector<TensorToWrite> tensors) {
    write_safetensors(dir / "model.safetensors", tensors);
  };
  const std::vector<float> embedding(24, 5.0f), norm(8, 6.0f), extra(4);
  const TensorToWrite e{"model.embed_tokens.weight", {3, 8}, embedding},
      n{"model.norm.weight", {8}, norm};

  test::check_throws<std::runtime_error>([&] { (void)load_config(dir); },
                                         {"'" + dir.string() + "'", "not there"});
  test::write_bytes(folder / "file", "x");
  test::check_throws<std::runtime_error>([&] { (void)load_config(folder / "file"); },
                                         {"not a folder"});
  fs::create_directories(dir);
  test::check_throws<std::runtime_error>([&] { (void)load_config(dir); },
                                         {"config.json", "No such file"});
  test::check_throws<std::runtime_error>(load, {"model.safetensors", "neither"});

  write({e});
  test::check_throws<std::runtime_error>(load, {"'model.norm.weight'", "[8]", "they do not"});
  write({e, {"model.norm.weight", {2, 4}, norm}});
  test::check_throws<std::runtime_error>(load, {"model.safetensors'", "'model.norm.weight'",
                                                "must have the shape [8]", "it has [2, 4]"});
  CHECK(weights.embedding[0] == 0.0f);  // all shapes are checked before values are read
  write({e, n, {"q.lora_A", {4}, extra}, {"q.lora_B", {4}, extra}});
  test::check_throws<std::runtime_error>(load, {"2 tensors and no others", "q.lora_A, q.lora_B"});
  std::vector<TensorToWrite> many{e, n};
  for (int i = 0; i < 9; ++i) many.push_back({"x" + std::to_string(i), {4}, extra});
  write(many);
  test::check_throws<std::runtime_error>(load, {"x0, x1, x2, x3, x4 and 4 more"});

  write({e,
         n,
         {"model.layers.0.self_attn.rotary_emb.inv_freq", {4}, extra},
         {"lm_head.weight", {4}, extra}});
  CHECK_NOTHROW(load());
  CHECK(weights.embedding[23] == 5.0f);
  CHECK(weights.norm[7] == 6.0f);

  std::vector<float> head(4);
  auto with_head = weights.tensors;
  with_head.push_back({"lm_head.weight", {2, 2}, head});
  test::check_throws<std::runtime_error>([&] { load_folder(dir, with_head); },
                                         {"'lm_head.weight'", "[2, 2]", "[4]"});
  auto wrong_room = weights.tensors;
  wrong_room[1].values = wrong_room[1].values.first(7);
  test::check_throws<std::invalid_argument>([&] { load_folder(dir, wrong_room); },
                                            {"'model.norm.weight'", "8 values", "it is 7"});
}

TEST_CASE("checkpoint: NaN and infinity are refused on loading, naming tensor and position") {
  const TemporaryFolder folder;
  const fs::path dir = folder / "m";
  fs::create_directories(dir);
  Weights weights(config_of(8));
  constexpr float infinity = std::numeric_limits<float>::infinity(),
                  nan = std::numeric_limits<float>::quiet_NaN();
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const auto& [value, word] :
         {std::pair{nan, "NaN"}, std::pair{infinity, "infinite"}, std::pair{-infinity, "infinite"}})
      for (const bool taken : {false, true}) {
        std::vector<float> embedding(24, 5.0f), norm(8, 6.0f);
        embedding[21] = value, embedding[22] = nan;
        const auto load = [&] {
          write_safetensors(
              dir / "model.safetensors",
              std::vector<TensorToWrite>{{"model.embed_tokens.weight", {3, 8}, embedding},
                                         {"model.norm.weight", {8}, norm}},
              dtype);
          auto tensors = weights.tensors;
          if (taken)
            for (NamedTensor& tensor : tensors) tensor.take = [](std::span<const float>) {};
          load_folder(dir, tensors);
        };
        test::check_throws<std::runtime_error>(
            load, {"model.safetensors'", "must be finite", "'model.embed_tokens.weight' is ", word,
                   " at [2, 5];"});
        embedding[21] = embedding[22] = 5.0f, norm[7] = value;
        test::check_throws<std::runtime_error>(load, {"'model.norm.weight' is ", word, " at [7];"});
        norm[7] = 6.0f;
        CHECK_NOTHROW(load());
      }
  }
  // The largest finite value is accepted; infinity as a double is not.
  std::vector<float> embedding(24, std::numeric_limits<float>::max()), norm(8, -1e-45f);
  write_safetensors(dir / "model.safetensors",
                    std::vector<TensorToWrite>{{"model.embed_tokens.weight", {3, 8}, embedding},
                                               {"model.norm.weight", {8}, norm}});
  CHECK_NOTHROW(load_folder(dir, weights.tensors));
  std::vector<double> wide(8, 1.0);
  wide[0] = -std::numeric_limits<double>::infinity();
  {
    AtomicFile file(dir / "model.safetensors");
    write_safetensors(
        file,
        std::vector<RawTensor>{
            {"model.embed_tokens.weight", DType::f32, {3, 8}, std::as_bytes(std::span(embedding))},
            {"model.norm.weight", DType::f64, {8}, std::as_bytes(std::span(wide))}},
        {});
    file.publish();
  }
  test::check_throws<std::runtime_error>([&] { load_folder(dir, weights.tensors); },
                                         {"'model.norm.weight' is infinite at [0];"});
}

TEST_CASE("checkpoint: NaN and infinity are refused on saving, and the folder is unchanged") {
  const TemporaryFolder folder;
  const fs::path dir = folder / "m";
  const LlamaConfig config = config_of(8);
  save(dir, 8, 3);
  const auto files = [&] {
    std::map<std::string, std::string> bytes;
    for (const auto& entry : fs::directory_iterator(dir))
      bytes[entry.path().filename().string()] = test::read_bytes(entry.path());
    return bytes;
  };
  const auto before = files();
  for (const float value :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
      for (const std::uint64_t shard_bytes : {default_shard_bytes, std::uint64_t{20}})
        for (const bool made : {false, true}) {
          Weights weights(config, 4);
          weights.norm[5] = value;
          auto tensors = weights.tensors;
          if (made) {
            const std::span<const float> norm(weights.norm);
            tensors[1].values = {};
            tensors[1].make = [norm](std::span<float> to) { std::ranges::copy(norm, to.begin()); };
          }
          test::check_throws<std::runtime_error>(
              [&] { save_model_folder(dir, config, tensors, dtype, shard_bytes); },
              {dir.string() + "' must be finite", "'model.norm.weight' is ",
               std::isnan(value) ? "NaN" : "infinite", " at [5];"});
          CHECK((files() == before));
        }
  CHECK(loaded(dir) == "8/3");
}

TEST_CASE("checkpoint: an output layer that differs from its tied embedding is used") {
  const TemporaryFolder folder;
  LlamaConfig config = config_of(8);
  config.tie_embeddings = true;
  test::write_bytes(folder / "config.json", config_json(config));
  std::vector<float> embedding(24), norm(8, 6.0f);
  for (std::size_t i = 0; i < embedding.size(); ++i)
    embedding[i] = 1.0f + 0.37f * static_cast<float>(i);
  const auto write = [&](const std::vector<float>& head, DType dtype, DType head_dtype,
                         std::vector<std::ptrdiff_t> shape) {
    // In two files as the types may differ.
    write_safetensors(folder / "s1",
                      std::vector<TensorToWrite>{{"model.embed_tokens.weight", {3, 8}, embedding},
                                                 {"model.norm.weight", {8}, norm}},
                      dtype);
    write_safetensors(folder / "s2",
                      std::vector<TensorToWrite>{{"lm_head.weight", std::move(shape), head}},
                      head_dtype);
    test::write_bytes(folder / "model.safetensors.index.json",
                      R"({"weight_map":{"model.embed_tokens.weight":"s1","model.norm.weight":"s1",)"
                      R"("lm_head.weight":"s2"}})");
  };
  std::string said;
  const auto is_tied = [&] {
    said.clear();
    return load_config(folder.path(), [&](std::string_view text) { said += text; }).tie_embeddings;
  };
  const std::vector<std::ptrdiff_t> shape{3, 8};
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    CAPTURE(dtype_name(dtype));
    for (const DType head : {DType::f32, dtype}) {
      write(embedding, DType::f32, dtype, shape);
      CHECK(is_tied());
      CHECK(said == "");
      // The other one may be the narrow one.
      write(embedding, dtype, head, shape);
      CHECK(is_tied());
    }
    for (const std::size_t changed : {0u, 23u}) {
      std::vector<float> other = embedding;
      other[changed] += 0.5f;
      write(other, dtype, dtype, shape);
      CHECK_FALSE(is_tied());
      CHECK(said.find("'" + folder.path().string() + "'") != std::string::npos);
      CHECK(said.find("lm_head.weight") != std::string::npos);
      CHECK(said.find('\n') == std::string::npos);
      CHECK_FALSE(load_config(folder.path()).tie_embeddings);
    }
  }
  write(std::vector<float>(16), DType::f32, DType::f32, {2, 8});
  CHECK_FALSE(is_tied());
  // One file, and the smallest change of a float.
  std::vector<float> other = embedding;
  other[11] = std::nextafter(other[11], 99.0f);
  for (const bool copy : {true, false}) {
    write_safetensors(
        folder / "model.safetensors",
        std::vector<TensorToWrite>{{"lm_head.weight", shape, copy ? embedding : other},
                                   {"model.embed_tokens.weight", {3, 8}, embedding},
                                   {"model.norm.weight", {8}, norm}});
    CHECK(is_tied() == copy);
  }
  // Not tied: no comparison and no note.
  config.tie_embeddings = false;
  test::write_bytes(folder / "config.json", config_json(config));
  CHECK_FALSE(is_tied());
  CHECK(said == "");
}

namespace {

const char* const every_companion[] = {"generation_config.json",
                                       "tokenizer.json",
                                       "tokenizer_config.json",
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "vocab.json",
                                       "merges.txt",
                                       "tokenizer.model",
                                       "chat_template.json",
                                       "chat_template.jinja"};

}  // namespace

TEST_CASE("checkpoint: the companions of a model are copied, and nothing else") {
  const TemporaryFolder folder;
  const fs::path base = folder / "base", out = folder / "out";
  save(base, 8, 1);
  auto config = nlohmann::json::parse(test::read_bytes(base / "config.json"));
  config["eos_token_id"] = {7, 9};
  config["pad_token_id"] = 5;
  test::write_bytes(base / "config.json", config.dump());
  std::map<std::string, std::string> bytes;
  for (const char* name : every_companion) {
    bytes[name] = std::string("of ") + name + std::string(3, '\0');
    test::write_bytes(base / name, bytes[name]);
  }
  test::write_bytes(base / "README.md", "not mine");
  test::write_bytes(base / "pytorch_model.bin", "not mine");
  const Companions companions = load_companions(base);
  CHECK(companions.files == bytes);
  CHECK(companions.text().starts_with("eos_token_id, pad_token_id of config.json, "));
  CHECK(companions.text().find("chat_template.jinja") != std::string::npos);
  for (const std::uint64_t limit : {default_shard_bytes, std::uint64_t{40}}) {
    CAPTURE(limit);
    save_model_folder(out, config_of(8), Weights(config_of(8), 2).tensors, DType::f32, limit,
                      companions);
    CHECK(loaded(out) == "8/2");
    for (const auto& [name, content] : bytes) CHECK((test::read_bytes(out / name) == content));
    const auto written = nlohmann::json::parse(test::read_bytes(out / "config.json"));
    CHECK(written["eos_token_id"] == config["eos_token_id"]);
    CHECK(written["pad_token_id"] == 5);
    CHECK_FALSE(fs::exists(out / "README.md"));
    CHECK_FALSE(fs::exists(out / "pytorch_model.bin"));
    const Companions again = load_companions(out);
    CHECK(again.files == bytes);
    CHECK(again.text() == companions.text());
  }
  // Into the folder itself.
  save_model_folder(base, config_of(8), Weights(config_of(8), 3).tensors, DType::f32,
                    default_shard_bytes, companions);
  CHECK(loaded(base) == "8/3");
  CHECK(load_companions(base).files == bytes);
  // A folder without any.
  save(folder / "plain", 8, 1);
  CHECK(load_companions(folder / "plain").files.empty());
  CHECK(load_companions(folder / "plain").text() == "");
  // A companion that cannot be read is an error.
  fs::create_directories(folder / "plain/tokenizer.json");
  test::check_throws<std::runtime_error>([&] { (void)load_companions(folder / "plain"); },
                                         {"tokenizer.json"});
}

TEST_CASE("checkpoint: saving an adapter keeps pending files of a model in its folder") {
  const TemporaryFolder folder;
  const fs::path dir = folder / "m";
  Companions companions;
  companions.files = {{"tokenizer.json", "new"}};
  save_model_folder(dir, config_of(8), Weights(config_of(8), 1).tensors, DType::f32,
                    default_shard_bytes, companions);
  // The state after a kill before the last rename.
  fs::rename(dir / "tokenizer.json", dir / "tokenizer.json.1-00000000.tmp");
  REQUIRE(load_companions(dir).files == companions.files);
  test::write_bytes(dir / "adapter_config.json.1-00000000.tmp", "half");
  save_folder(dir, adapter_format, "{}", Weights(config_of(8), 2).tensors, DType::f32);
  CHECK(load_companions(dir).files == companions.files);
  CHECK(loaded(dir) == "8/1");
  CHECK_FALSE(fs::exists(dir / "adapter_config.json.1-00000000.tmp"));
}

TEST_CASE("checkpoint: the type of a model is that of most of its numbers") {
  const TemporaryFolder folder;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::uint64_t limit : {default_shard_bytes, std::uint64_t{20}}) {
      save_model_folder(folder.path(), config_of(8), Weights(config_of(8), 1).tensors, dtype,
                        limit);
      CHECK(stored_dtype(folder.path()) == dtype);
    }
  }
  const std::vector<std::byte> large(64), small(8);
  const auto write = [&](DType most, DType least) {
    AtomicFile file(folder / "model.safetensors");
    write_safetensors(
        file,
        std::vector<RawTensor>{
            {"b", least, {8 / static_cast<std::ptrdiff_t>(dtype_bits(least) / 8)}, small},
            {"a", most, {64 / static_cast<std::ptrdiff_t>(dtype_bits(most) / 8)}, large}},
        {});
    file.publish();
    return stored_dtype(folder.path());
  };
  CHECK(write(DType::bf16, DType::f32) == DType::bf16);
  CHECK(write(DType::f32, DType::bf16) == DType::f32);
  CHECK(write(DType::f64, DType::f16) == DType::f32);
}

TEST_CASE("checkpoint: a folder that cannot be written is an error before the training") {
  const TemporaryFolder folder;
  prepare_folder(folder / "a/b");
  CHECK(fs::is_empty(folder / "a/b"));
  test::write_bytes(folder / "file", "x");
  test::check_throws<std::runtime_error>([&] { prepare_folder(folder / "file"); },
                                         {"file", "folder"});
  test::check_throws<std::runtime_error>([&] { prepare_folder(folder / "file/below"); },
                                         {"file/below"});
  fs::create_directories(folder / "c/model.safetensors");
  test::check_throws<std::runtime_error>([&] { prepare_folder(folder / "c"); },
                                         {"model.safetensors", "a folder"});
}

TEST_CASE("checkpoint: shards") {
  const TemporaryFolder folder;
  Weights weights(config_of(8));
  const auto load = [&] { load_folder(folder.path(), weights.tensors); };
  const std::vector<float> embedding(24, 5.0f), norm(8, 6.0f);
  write_safetensors(folder / "s1",
                    std::vector<TensorToWrite>{{"model.embed_tokens.weight", {3, 8}, embedding}},
                    DType::bf16);
  write_safetensors(folder / "s2", std::vector<TensorToWrite>{{"model.norm.weight", {8}, norm}},
                    DType::f16);
  const auto index = [&](const std::string& map) {
    test::write_bytes(folder / "model.safetensors.index.json", map);
  };

  index(
      R"({"metadata":{"total_size":64},"weight_map":{"model.embed_tokens.weight":"s1",
        "model.norm.weight":"s2"}})");
  load();
  CHECK(weights.embedding[23] == 5.0f);
  CHECK(weights.norm[7] == 6.0f);

  const struct {
    const char* index;
    std::vector<std::string_view> parts;
  } cases[] = {
      {"{}", {"'weight_map'"}},
      {R"({"weight_map":[]})", {"'weight_map'"}},
      {R"({"weight_map":{"model.embed_tokens.weight":"s1","model.norm.weight":"s3"}})",
       {"s3", "No such file"}},
      {R"({"weight_map":{"model.embed_tokens.weight":"s1","model.norm.weight":"s1"}})",
       {"'model.norm.weight'", "'s1'"}},
      {R"({"weight_map":{"model.embed_tokens.weight":"s1"}})",
       {"'model.norm.weight'", "they do not"}},
      {R"({"weight_map":{"model.embed_tokens.weight":"s1","model.norm.weight":"../s2"}})",
       {"same folder", "../s2"}},
      {R"({"weight_map":{"model.embed_tokens.weight":"s1","model.norm.weight":"/etc/passwd"}})",
       {"same folder"}},
      {R"({"weight_map":{"model.embed_tokens.weight":"s1","model.norm.weight":".."}})",
       {"same folder"}},
      {R"({"weight_map":{"model.embed_tokens.weight":"s1","model.norm.weight":7}})",
       {"same folder", "7"}},
      {R"({"weight_map":{"a":"s1","a":"s2"}})", {"'a' occurs twice"}},
  };
  for (const auto& c : cases) {
    INFO(c.index);
    index(c.index);
    for (const auto part : c.parts) test::check_throws<std::runtime_error>(load, {part});
  }
  // Tensors that a shard has and the index does not list are extra too.
  const std::vector<float> extra(2);
  write_safetensors(folder / "s2", std::vector<TensorToWrite>{{"model.norm.weight", {8}, norm},
                                                              {"unlisted", {2}, extra}});
  index(R"({"weight_map":{"model.embed_tokens.weight":"s1","model.norm.weight":"s2"}})");
  test::check_throws<std::runtime_error>(load, {"no others", "unlisted"});
  // A saved model takes precedence over shards that were there before.
  save(folder.path(), 8, 3);
  CHECK(loaded(folder.path()) == "8/3");
}

namespace {

/// Weights of 32 bytes each, four of them.
struct Four {
  explicit Four(float first) {
    const char* const names[] = {"t0.weight", "t1.weight", "t2.weight", "t3.weight"};
    for (std::size_t i = 0; i < 4; ++i) values[i].assign(8, first + static_cast<float>(i));
    for (std::size_t i = 0; i < 4; ++i) tensors.push_back({names[i], {2, 4}, values[i]});
  }
  std::vector<float> values[4];
  std::vector<NamedTensor> tensors;
};

// In this many files; the hidden size tells the config.
void save_four(const fs::path& folder, std::ptrdiff_t hidden, float first, std::uint64_t files) {
  save_model_folder(folder, config_of(hidden), Four(first).tensors, DType::f32, 128 / files);
}

/// "hidden/first value", or the error.
std::string loaded_four(const fs::path& folder) {
  try {
    const LlamaConfig config = load_config(folder);
    Four four(-99);
    load_folder(folder, four.tensors);
    for (std::size_t i = 0; i < 4; ++i)
      for (const float value : four.values[i])
        if (value != four.values[0][0] + static_cast<float>(i)) return "mixed values";
    return std::to_string(config.hidden) + "/" +
           std::to_string(static_cast<int>(four.values[0][0]));
  } catch (const std::exception& error) {
    return error.what();
  }
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

std::vector<std::string> names_of(std::uint64_t files) {
  if (files == 1) return {"config.json", "model.safetensors"};
  std::vector<std::string> names{"config.json"};
  for (std::uint64_t i = 1; i <= files; ++i)
    names.push_back(fmt::format("model-{:05}-of-{:05}.safetensors", i, files));
  names.push_back("model.safetensors.index.json");
  return names;
}

}  // namespace

TEST_CASE(
    "checkpoint: weights beyond a limit are saved as shards with an index in Hugging Face's "
    "format") {
  const TemporaryFolder folder;
  const fs::path dir = folder / "m";
  save_four(dir, 8, 1, 2);
  CHECK(names_in(dir) == names_of(2));
  const auto index = nlohmann::json::parse(test::read_bytes(dir / "model.safetensors.index.json"));
  CHECK(index["metadata"]["total_size"] == 128);
  CHECK(index["weight_map"] ==
        nlohmann::json::parse(R"({"t0.weight":"model-00001-of-00002.safetensors",
      "t1.weight":"model-00001-of-00002.safetensors","t2.weight":"model-00002-of-00002.safetensors",
      "t3.weight":"model-00002-of-00002.safetensors"})"));
  const SafetensorsFile second(dir / "model-00002-of-00002.safetensors");
  CHECK(second.metadata().at("format") == "pt");
  CHECK(second.tensors().size() == 2);
  CHECK_NOTHROW(second.verify());
  CHECK(loaded_four(dir) == "8/1");

  // The limit counts the bytes of a file's data in their type; a larger tensor has its own file.
  const auto files = [&](std::uint64_t limit, DType dtype) {
    save_model_folder(dir, config_of(8), Four(3).tensors, dtype, limit);
    CHECK(loaded_four(dir) == "8/3");
    return names_in(dir);
  };
  CHECK(files(128, DType::f32) == names_of(1));
  CHECK(files(127, DType::f32) == names_of(2));
  CHECK(files(96, DType::f32) == names_of(2));
  CHECK(files(63, DType::f32) == names_of(4));
  CHECK(files(64, DType::bf16) == names_of(1));
  CHECK(files(1, DType::f16) == names_of(4));
  CHECK(files(~std::uint64_t{0}, DType::f32) == names_of(1));
}

TEST_CASE(
    "checkpoint: one file and shards of any number follow each other in a folder, and leave "
    "nothing behind") {
  const TemporaryFolder folder;
  const fs::path dir = folder / "m";
  int value = 0;
  for (const std::uint64_t before : {1u, 2u, 4u})
    for (const std::uint64_t after : {1u, 2u, 4u})
      for (const std::ptrdiff_t hidden : {8, 12}) {
        CAPTURE(before, after, hidden);
        save_four(dir, 8, static_cast<float>(++value), before);
        CHECK(loaded_four(dir) == "8/" + std::to_string(value));
        save_four(dir, hidden, static_cast<float>(++value), after);
        CHECK(loaded_four(dir) == std::to_string(hidden) + "/" + std::to_string(value));
        CHECK(names_in(dir) == names_of(after));
      }
  // Other files are not shards.
  save_four(dir, 8, 1, 2);
  for (const char* const name : {"model-1-of-2.safetensors", "model-00001-of-00004.bin",
                                 "xmodel-00001-of-00004.safetensors"})
    test::write_bytes(dir / name, "mine");
  save_four(dir, 8, 1, 1);
  CHECK(names_in(dir).size() == 5);
}

TEST_CASE("checkpoint: a shard of another save is detected") {
  const TemporaryFolder folder;
  save_four(folder / "a", 8, 1, 2);
  save_four(folder / "b", 8, 2, 2);
  const char* const name = "model-00002-of-00002.safetensors";
  fs::copy_file(folder / "b" / name, folder / "a" / name, fs::copy_options::overwrite_existing);
  CHECK(loaded_four(folder / "a").find("must be the shard that its index was saved with") !=
        std::string::npos);
  fs::remove(folder / "a" / name);
  CHECK(loaded_four(folder / "a").find("No such file") != std::string::npos);
}

TEST_CASE("atomic file: only regular files are replaced, links and permissions survive") {
  const TemporaryFolder folder;
  test::check_throws<std::runtime_error>([] { check_writable("/dev/null"); },
                                         {"/dev/null", "regular file"});
  CHECK(fs::is_character_file("/dev/null"));
  test::check_throws<std::runtime_error>([&] { check_writable(folder.path()); }, {"a folder"});
  test::check_throws<std::runtime_error>([&] { check_writable(folder / "no/such/file"); },
                                         {"no/such/file", "No such file"});
  check_writable(folder / "new");
  CHECK(fs::is_empty(folder.path()));

  test::write_bytes(folder / "real", "old");
  fs::permissions(folder / "real", fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("real", folder / "link");
  write_file_atomically(folder / "link", "new");
  CHECK(test::read_bytes(folder / "real") == "new");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(fs::status(folder / "real").permissions() ==
        (fs::perms::owner_read | fs::perms::owner_write));

  // A leftover that links elsewhere is not followed.
  test::write_bytes(folder / "victim", "mine");
  fs::create_symlink("victim", folder / "real.tmp");
  write_file_atomically(folder / "real", "newer");
  CHECK(test::read_bytes(folder / "victim") == "mine");
  fs::remove(folder / "real.tmp");
  CHECK(test::read_bytes(folder / "real") == "newer");

  {
    AtomicFile file(folder / "real");
    file.write("abandoned");
  }
  CHECK(test::read_bytes(folder / "real") == "newer");
  CHECK(temporaries_in(folder.path()).empty());
}

TEST_CASE("checkpoint: a full disk leaves the old checkpoint, for every amount of free space") {
  const TemporaryFolder folder;
  const fs::path dir = folder / "m";
  save(dir, 8, 1);
  save(folder / "reference", 12, 2);
  const auto full = std::max(fs::file_size(folder / "reference/model.safetensors"),
                             fs::file_size(folder / "reference/config.json"));
  const std::string old_config = test::read_bytes(dir / "config.json"),
                    old_weights = test::read_bytes(dir / "model.safetensors");
  std::size_t wrong = 0;
  for (rlim_t limit = 0; limit < full; limit += limit < 16 || limit + 16 > full ? 1 : 7) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      // SIGXFSZ keeps its default action, which is to kill: the writer must hold it back.
      const rlimit file_size{limit, limit};
      setrlimit(RLIMIT_FSIZE, &file_size);
      test::run_and_exit([&] { save(dir, 12, 2); }, "File too large");
    }
    int status = 0;
    waitpid(child, &status, 0);
    wrong += !WIFEXITED(status) || WEXITSTATUS(status) != test::refused;
    wrong += test::read_bytes(dir / "config.json") != old_config ||
             test::read_bytes(dir / "model.safetensors") != old_weights;
    wrong += std::distance(fs::directory_iterator(dir), {}) != 2;
  }
  CHECK(wrong == 0);
  CHECK(loaded(dir) == "8/1");
}

#if defined(__x86_64__) && defined(__linux__)
TEST_CASE("checkpoint: weights, config and tokenizer are the old or the new ones after any kill") {
  using test::Fault;
  const Fault fault = GENERATE(Fault::kill, Fault::io_error);
  const std::uint64_t before = GENERATE(1u, 2u), after = GENERATE(1u, 2u);
  CAPTURE(static_cast<int>(fault), before, after);
  const TemporaryFolder folder;
  const fs::path dir = folder / "m";
  const auto save_with = [&](std::ptrdiff_t hidden, float value, std::uint64_t files,
                             const std::string& tokenizer) {
    Companions companions;
    companions.files = {{"tokenizer.json", tokenizer}, {"tokenizer_config.json", "same"}};
    companions.config = fmt::format(R"({{"eos_token_id":{}}})", hidden);
    save_model_folder(dir, config_of(hidden), Four(value).tensors, DType::f32, 128 / files,
                      companions);
  };
  const auto now_loaded = [&]() -> std::string {
    try {
      const Companions companions = load_companions(dir);
      return fmt::format("{} {} {} {}", loaded_four(dir), companions.files.at("tokenizer.json"),
                         companions.files.at("tokenizer_config.json"),
                         nlohmann::json::parse(companions.config)["eos_token_id"].dump());
    } catch (const std::exception& error) {
      return error.what();
    }
  };
  const std::string old = "8/1 of old same 8", fresh = "12/20 of new same 12";
  std::size_t struck = 0, wrong = 0, old_left = 0, new_left = 0, pending = 0;
  std::string first_wrong;
  for (std::size_t n = 0;; ++n) {
    fs::remove_all(dir);
    save_with(8, 1, before, "of old");
    REQUIRE(now_loaded() == old);
    const test::Outcome outcome =
        test::run_with_fault([&] { save_with(12, 20, after, "of new"); }, fault, n);
    const std::string now = now_loaded();
    pending += find_companion(dir, "tokenizer.json") != dir / "tokenizer.json";
    if (now != old && now != fresh) {
      ++wrong;
      if (first_wrong.empty()) first_wrong = fmt::format("call {}: {}", n, now);
    }
    old_left += now == old;
    new_left += now == fresh;
    if (!outcome.reached) break;
    ++struck;
    // In any state, the next save must succeed and clean up.
    save_with(20, 5, after, "of next");
    wrong += now_loaded() != "20/5 of next same 20" ||
             names_in(dir).size() != names_of(after).size() + 2;
  }
  CHECK(first_wrong == "");
  CHECK(wrong == 0);
  CHECK(struck >= 30);
  CHECK(old_left >= 1);
  CHECK(new_left >= 1);
  CHECK(pending >= 1);
}

TEST_CASE(
    "checkpoint: a save that is killed or fails at any system call leaves the old or the new "
    "checkpoint") {
  // State of the folder before: a complete checkpoint, or one whose save was killed between its two
  // renames.
  const bool interrupted = GENERATE(false, true);
  using test::Fault;
  const Fault fault = GENERATE(Fault::kill, Fault::io_error, Fault::no_space, Fault::short_write);
  // The same sizes as what is there (config.json stays) or others.
  const std::ptrdiff_t hidden = GENERATE(8, 12, 16);
  CAPTURE(interrupted, static_cast<int>(fault), hidden);
  const TemporaryFolder folder;
  const fs::path dir = folder / "m";
  std::size_t struck = 0, wrong = 0, old_left = 0, new_left = 0;
  std::string first_wrong;
  for (std::size_t n = 0;; ++n) {
    fs::remove_all(dir);
    save(dir, 8, 1);
    if (interrupted) {
      save(folder / "next", 12, 1);
      fs::rename(folder / "next/model.safetensors", dir / "model.safetensors");
      fs::rename(folder / "next/config.json", dir / "config.json.tmp");
    }
    const std::string before = loaded(dir);
    REQUIRE(before == (interrupted ? "12/1" : "8/1"));
    const std::string after = std::to_string(hidden) + "/2";
    const test::Outcome outcome = test::run_with_fault([&] { save(dir, hidden, 2); }, fault, n);
    const std::string now = loaded(dir);
    bool good = now == before || now == after;
    old_left += now == before;
    new_left += now == after;
    if (outcome.reached && fault == Fault::kill) {
      good &= WIFSIGNALED(outcome.status);
    } else {
      good &= WIFEXITED(outcome.status) &&
              (WEXITSTATUS(outcome.status) == test::refused ||
               (WEXITSTATUS(outcome.status) == test::done && now == after));
      // A failed unlink or close of the temporary file leaves it; any other failure cleans up.
      for (const fs::path& left : temporaries_in(dir))
        good &= final_name(left.filename().string()) != "model.safetensors" ||
                outcome.number == SYS_unlink;
    }
    if (!good && first_wrong.empty())
      first_wrong =
          "call " + std::to_string(n) + " (number " + std::to_string(outcome.number) + "): " + now;
    wrong += !good;
    if (!outcome.reached) break;
    ++struck;
    // Whatever was left, the next save must succeed.
    save(dir, 20, 5);
    wrong += loaded(dir) != "20/5";
  }
  CHECK(first_wrong == "");
  CHECK(wrong == 0);
  CHECK(struck >= 20);
  CHECK(new_left >= 1);
  CHECK((old_left >= 1 || fault == Fault::short_write));
}

TEST_CASE(
    "checkpoint: a save of shards that is killed or fails at any system call leaves the old or the "
    "new checkpoint") {
  using test::Fault;
  // `interrupted`: the folder's own save was killed behind the first of its renames, the index's.
  const auto [fault, before, after, interrupted] = GENERATE(
      table<Fault, std::uint64_t, std::uint64_t, bool>({{Fault::kill, 2, 2, false},
                                                        {Fault::kill, 1, 2, false},
                                                        {Fault::kill, 2, 1, false},
                                                        {Fault::kill, 2, 2, true},
                                                        {Fault::io_error, 1, 2, false},
                                                        {Fault::io_error, 2, 2, true},
                                                        {Fault::short_write, 2, 2, false}}));
  CAPTURE(static_cast<int>(fault), before, after, interrupted);
  const TemporaryFolder folder;
  const fs::path dir = folder / "m";
  const std::string old = interrupted ? "12/7" : "8/1", fresh = "16/20";
  std::size_t struck = 0, wrong = 0, old_left = 0, new_left = 0;
  std::string first_wrong;
  for (std::size_t n = 0;; ++n) {
    fs::remove_all(dir);
    save_four(dir, 8, 1, before);
    if (interrupted) {
      save_four(folder / "next", 12, 7, 2);
      for (const std::string& name : names_of(2))
        fs::rename(folder / "next" / name,
                   dir / (name.ends_with(".index.json") ? name : name + ".tmp"));
    }
    REQUIRE(loaded_four(dir) == old);
    const auto save_new = [&, files = after] { save_four(dir, 16, 20, files); };
    const test::Outcome outcome = test::run_with_fault(save_new, fault, n);
    const std::string now = loaded_four(dir);
    bool good = now == old || now == fresh;
    old_left += now == old;
    new_left += now == fresh;
    if (outcome.reached && fault == Fault::kill)
      good &= WIFSIGNALED(outcome.status);
    else
      good &= WIFEXITED(outcome.status) &&
              (WEXITSTATUS(outcome.status) == test::refused ||
               (WEXITSTATUS(outcome.status) == test::done && now == fresh));
    if (!good && first_wrong.empty())
      first_wrong =
          "call " + std::to_string(n) + " (number " + std::to_string(outcome.number) + "): " + now;
    wrong += !good;
    if (!outcome.reached) break;
    ++struck;
    // Whatever was left, the next saves must succeed, and clean up.
    save_four(dir, 20, 5, 4);
    wrong += loaded_four(dir) != "20/5" || names_in(dir) != names_of(4);
  }
  CHECK(first_wrong == "");
  CHECK(wrong == 0);
  CHECK(struck >= 30);
  CHECK(new_left >= 1);
  CHECK((old_left >= 1 || fault == Fault::short_write));
}
#endif
