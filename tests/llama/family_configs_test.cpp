// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The config.json of published models of all families, and what their keys mean.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "llama/formats/config.hpp"
#include "llama/formats/families.hpp"
#include "llama/model/branches.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using Kind = RopeScaling::Kind;
using Rope = LayerTraits::Rope;

/// The sizes of a small model, and more keys.
std::string with(const std::string& more) {
  return R"({"vocab_size":64,"hidden_size":16,"intermediate_size":44,"num_hidden_layers":4,)"
         R"("num_attention_heads":4,"num_key_value_heads":2)" +
         (more.empty() ? "" : "," + more) + "}";
}

LlamaConfig parsed(const std::string& text) {
  LlamaConfig config = parse_config(text, "'c'");
  // Written and read again it is the same.
  CHECK(parse_config(config_json(config), "'w'") == config);
  CHECK(parse_config(config_json(config, "float32", text), "'w'") == config);
  config.traits.source.clear();
  return config;
}

std::vector<std::ptrdiff_t> windows_of(const LlamaConfig& config) {
  std::vector<std::ptrdiff_t> windows;
  for (std::ptrdiff_t i = 0; i < config.layers; ++i)
    windows.push_back(config.traits.layer(static_cast<std::size_t>(i)).window);
  return windows;
}

}  // namespace

TEST_CASE("family configs: Llama 3.1 8B") {
  const LlamaConfig config = parsed(
      R"({"architectures":["LlamaForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
      "bos_token_id":128000,"eos_token_id":128001,"hidden_act":"silu","hidden_size":4096,
      "initializer_range":0.02,"intermediate_size":14336,"max_position_embeddings":131072,
      "mlp_bias":false,"model_type":"llama","num_attention_heads":32,"num_hidden_layers":32,
      "num_key_value_heads":8,"pretraining_tp":1,"rms_norm_eps":1e-05,
      "rope_scaling":{"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
      "original_max_position_embeddings":8192,"rope_type":"llama3"},"rope_theta":500000.0,
      "tie_word_embeddings":false,"torch_dtype":"bfloat16","transformers_version":"4.43.0.dev0",
      "use_cache":true,"vocab_size":128256})");
  CHECK(config.rope_theta == 500000.0);
  CHECK(config.traits == Traits{.rope = {.kind = Kind::llama3,
                                         .factor = 8.0,
                                         .original_positions = 8192,
                                         .low_frequency = 1.0,
                                         .high_frequency = 4.0}});
  CHECK(parameter_count(config) == 8'030'261'248);
}

TEST_CASE("family configs: Mistral 7B 0.1 and Nemo") {
  const std::string text =
      R"({"architectures":["MistralForCausalLM"],"bos_token_id":1,"eos_token_id":2,
      "hidden_act":"silu","hidden_size":4096,"initializer_range":0.02,"intermediate_size":14336,
      "max_position_embeddings":32768,"model_type":"mistral","num_attention_heads":32,
      "num_hidden_layers":32,"num_key_value_heads":8,"rms_norm_eps":1e-05,"rope_theta":10000.0,
      "sliding_window":4096,"tie_word_embeddings":false,"torch_dtype":"bfloat16",
      "transformers_version":"4.34.0.dev0","use_cache":true,"vocab_size":32000})";
  const LlamaConfig config = parsed(text);
  CHECK(windows_of(config) == std::vector<std::ptrdiff_t>(32, 4096));
  CHECK(parameter_count(config) == 7'241'732'096);
  // Absent, the window has its default; null, as in versions 0.2 and 0.3, there is none.
  CHECK(windows_of(parsed(with(R"("model_type":"mistral")"))) ==
        std::vector<std::ptrdiff_t>(4, 4096));
  CHECK(windows_of(parsed(with(R"("model_type":"mistral","sliding_window":null)"))) ==
        std::vector<std::ptrdiff_t>(4, 0));
  const LlamaConfig nemo = parsed(
      R"({"architectures":["MistralForCausalLM"],"attention_dropout":0.0,"bos_token_id":1,
      "eos_token_id":2,"head_dim":128,"hidden_act":"silu","hidden_size":5120,
      "initializer_range":0.02,"intermediate_size":14336,"max_position_embeddings":1024000,
      "model_type":"mistral","num_attention_heads":32,"num_hidden_layers":40,
      "num_key_value_heads":8,"rms_norm_eps":1e-05,"rope_theta":1000000.0,"sliding_window":null,
      "tie_word_embeddings":false,"torch_dtype":"bfloat16","transformers_version":"4.43.0.dev0",
      "use_cache":true,"vocab_size":131072})");
  CHECK(nemo.head_size() == 128);
  CHECK(parameter_count(nemo) == 12'247'782'400);
}

TEST_CASE("family configs: Qwen2.5 0.5B and Qwen3 0.6B") {
  const LlamaConfig config = parsed(
      R"({"architectures":["Qwen2ForCausalLM"],"attention_dropout":0.0,"bos_token_id":151643,
      "eos_token_id":151643,"hidden_act":"silu","hidden_size":896,"initializer_range":0.02,
      "intermediate_size":4864,"max_position_embeddings":32768,"max_window_layers":24,
      "model_type":"qwen2","num_attention_heads":14,"num_hidden_layers":24,
      "num_key_value_heads":2,"rms_norm_eps":1e-06,"rope_theta":1000000.0,"sliding_window":32768,
      "tie_word_embeddings":true,"torch_dtype":"bfloat16","transformers_version":"4.40.1",
      "use_cache":true,"use_mrope":false,"use_sliding_window":false,"vocab_size":151936})");
  CHECK(config.traits == Traits{.family = "qwen2", .qkv_bias = true});
  CHECK(config.tie_embeddings);
  CHECK(parameter_count(config) == 494'032'768);
  CHECK(windows_of(parsed(with(R"("model_type":"qwen2","use_sliding_window":true,)"
                               R"("sliding_window":7,"max_window_layers":2)"))) ==
        std::vector<std::ptrdiff_t>{0, 0, 7, 7});
  const LlamaConfig qwen3 = parsed(
      R"({"architectures":["Qwen3ForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
      "bos_token_id":151643,"eos_token_id":151645,"head_dim":128,"hidden_act":"silu",
      "hidden_size":1024,"initializer_range":0.02,"intermediate_size":3072,
      "max_position_embeddings":40960,"max_window_layers":28,"model_type":"qwen3",
      "num_attention_heads":16,"num_hidden_layers":28,"num_key_value_heads":8,
      "rms_norm_eps":1e-06,"rope_scaling":null,"rope_theta":1000000,"sliding_window":null,
      "tie_word_embeddings":true,"torch_dtype":"bfloat16","transformers_version":"4.51.0",
      "use_cache":true,"use_sliding_window":false,"vocab_size":151936})");
  CHECK(qwen3.traits ==
        Traits{.family = "qwen3", .head_size = 128, .head_norm = ops::HeadNorm::per_head});
  CHECK(parameter_count(qwen3) == 596'049'920);
}

TEST_CASE("family configs: SmolLM3 3B") {
  const LlamaConfig config = parsed(
      R"({"architectures":["SmolLM3ForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
      "bos_token_id":null,"eos_token_id":128012,"hidden_act":"silu","hidden_size":2048,
      "initializer_range":0.02,"intermediate_size":11008,
      "layer_types":["full_attention","full_attention","full_attention","full_attention"],
      "max_position_embeddings":65536,"max_window_layers":28,"mlp_bias":false,
      "model_type":"smollm3","no_rope_layer_interval":4,"no_rope_layers":[1,1,1,0],
      "num_attention_heads":16,"num_hidden_layers":4,"num_key_value_heads":4,
      "pad_token_id":128004,"pretraining_tp":2,"rms_norm_eps":1e-06,"rope_scaling":null,
      "rope_theta":5000000.0,"sliding_window":null,"torch_dtype":"bfloat16",
      "transformers_version":"4.54.0.dev0","use_cache":false,"use_sliding_window":false,
      "vocab_size":128256})");
  CHECK(config.tie_embeddings);  // the family's default
  REQUIRE(config.traits.layers.size() == 4);
  CHECK(config.traits.layer(2).rope == Rope::global);
  CHECK(config.traits.layer(3).rope == Rope::none);
  const LlamaConfig other = parsed(with(R"("model_type":"smollm3","no_rope_layer_interval":2)"));
  CHECK(other.rope_theta == 2e6);
  CHECK(other.traits.layer(0).rope == Rope::global);
  CHECK(other.traits.layer(1).rope == Rope::none);
}

TEST_CASE("family configs: OLMo 2 7B") {
  const LlamaConfig config = parsed(
      R"({"architectures":["Olmo2ForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
      "eos_token_id":100257,"hidden_act":"silu","hidden_size":4096,"initializer_range":0.02,
      "intermediate_size":11008,"max_position_embeddings":4096,"model_type":"olmo2",
      "num_attention_heads":32,"num_hidden_layers":32,"num_key_value_heads":32,
      "pad_token_id":100277,"rms_norm_eps":1e-06,"rope_scaling":null,"rope_theta":500000,
      "tie_word_embeddings":false,"torch_dtype":"float32","transformers_version":"4.47.0.dev0",
      "use_cache":true,"vocab_size":100352})");
  CHECK(config.traits == Traits{.family = "olmo2",
                                .head_norm = ops::HeadNorm::whole_row,
                                .norms = NormPlaces::outputs});
  CHECK(parameter_count(config) == 7'298'617'344);
}

TEST_CASE("family configs: Phi-3 mini and Phi-4 mini") {
  const LlamaConfig config = parsed(
      R"({"_name_or_path":"Phi-3-mini-4k-instruct","architectures":["Phi3ForCausalLM"],
      "attention_dropout":0.0,"auto_map":{"AutoConfig":"configuration_phi3.Phi3Config",
      "AutoModelForCausalLM":"modeling_phi3.Phi3ForCausalLM"},"bos_token_id":1,"embd_pdrop":0.0,
      "eos_token_id":32000,"hidden_act":"silu","hidden_size":3072,"initializer_range":0.02,
      "intermediate_size":8192,"max_position_embeddings":4096,"model_type":"phi3",
      "num_attention_heads":32,"num_hidden_layers":32,"num_key_value_heads":32,
      "original_max_position_embeddings":4096,"pad_token_id":32000,"resid_pdrop":0.0,
      "rms_norm_eps":1e-05,"rope_scaling":null,"rope_theta":10000.0,"sliding_window":2047,
      "tie_word_embeddings":false,"torch_dtype":"bfloat16","transformers_version":"4.40.2",
      "use_cache":true,"attention_bias":false,"vocab_size":32064})");
  CHECK(config.traits.fused);
  CHECK(windows_of(config) == std::vector<std::ptrdiff_t>(32, 2047));
  CHECK(parameter_count(config) == 3'821'079'552);
  // Phi-4 mini turns 96 of 128 elements, with a factor for each of 48 frequencies.
  const std::string ones = nlohmann::json(std::vector<double>(48, 1.0)).dump(),
                    twos = nlohmann::json(std::vector<double>(48, 2.0)).dump();
  const LlamaConfig mini = parsed(fmt::format(
      R"({{"architectures":["Phi3ForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
      "embd_pdrop":0.0,"hidden_act":"silu","hidden_size":3072,"intermediate_size":8192,
      "interpolate_factor":1,"lm_head_bias":false,"max_position_embeddings":131072,
      "mlp_bias":false,"model_type":"phi3","num_attention_heads":24,"num_hidden_layers":32,
      "num_key_value_heads":8,"original_max_position_embeddings":4096,"pad_token_id":199999,
      "partial_rotary_factor":0.75,"resid_pdrop":0.0,"rms_norm_eps":1e-05,"full_attn_mod":1,
      "rope_scaling":{{"type":"longrope","long_factor":{},"short_factor":{}}},
      "rope_theta":10000.0,"sliding_window":262144,"tie_word_embeddings":true,
      "torch_dtype":"bfloat16","use_cache":true,"vocab_size":200064}})",
      twos, ones));
  CHECK(mini.rotary() == 96);
  CHECK(mini.traits.rope.kind == Kind::longrope);
  CHECK(mini.traits.rope.attention == Approx(std::sqrt(1.0 + std::log(32.0) / std::log(4096.0))));
  CHECK(rope_frequencies(mini.traits.rope, 1e4, 96, 4096).front() == 1.0);
  CHECK(rope_frequencies(mini.traits.rope, 1e4, 96, 4097).front() == 0.5);
  CHECK(parameter_count(mini) == 3'836'021'760);
}

TEST_CASE("family configs: Gemma 2 2B and Gemma 3 1B") {
  const LlamaConfig config = parsed(
      R"({"architectures":["Gemma2ForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
      "attn_logit_softcapping":50.0,"bos_token_id":2,"cache_implementation":"hybrid",
      "eos_token_id":1,"final_logit_softcapping":30.0,"head_dim":256,
      "hidden_act":"gelu_pytorch_tanh","hidden_activation":"gelu_pytorch_tanh",
      "hidden_size":2304,"initializer_range":0.02,"intermediate_size":9216,
      "max_position_embeddings":8192,"model_type":"gemma2","num_attention_heads":8,
      "num_hidden_layers":26,"num_key_value_heads":4,"pad_token_id":0,
      "query_pre_attn_scalar":256,"rms_norm_eps":1e-06,"rope_theta":10000.0,
      "sliding_window":4096,"torch_dtype":"float32","transformers_version":"4.42.4",
      "use_cache":true,"vocab_size":256000})");
  CHECK(config.tie_embeddings);
  CHECK(config.traits.attention_softcap == 50.0);
  CHECK(config.traits.logit_softcap == 30.0);
  CHECK(config.traits.query_scale == 1.0 / 16.0);
  CHECK(config.traits.layer(0).window == 4096);
  CHECK(config.traits.layer(1).window == 0);
  CHECK(parameter_count(config) == 2'614'341'888);
  // null: no cap. Absent: the family's.
  const LlamaConfig off = parsed(with(R"("model_type":"gemma2","attn_logit_softcapping":null)"));
  CHECK(off.traits.attention_softcap == 0.0);
  CHECK(off.traits.logit_softcap == 30.0);
  const LlamaConfig gemma3 = parsed(
      R"({"architectures":["Gemma3ForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
      "attn_logit_softcapping":null,"bos_token_id":2,"cache_implementation":"hybrid",
      "eos_token_id":[1,106],"final_logit_softcapping":null,"head_dim":256,
      "hidden_activation":"gelu_pytorch_tanh","hidden_size":1152,"initializer_range":0.02,
      "intermediate_size":6912,"max_position_embeddings":32768,"model_type":"gemma3_text",
      "num_attention_heads":4,"num_hidden_layers":26,"num_key_value_heads":1,"pad_token_id":0,
      "query_pre_attn_scalar":256,"rms_norm_eps":1e-06,"rope_local_base_freq":10000,
      "rope_scaling":null,"rope_theta":1000000,"sliding_window":512,"sliding_window_pattern":6,
      "torch_dtype":"bfloat16","transformers_version":"4.50.0.dev0","use_cache":true,
      "vocab_size":262144})");
  CHECK(gemma3.rope_theta == 1e6);
  CHECK(gemma3.traits.local_rope_theta == 1e4);
  CHECK(gemma3.traits.layer(4).rope == Rope::local);
  CHECK(gemma3.traits.layer(4).window == 512);
  CHECK(gemma3.traits.layer(5).rope == Rope::global);
  CHECK(gemma3.traits.layer(5).window == 0);
  CHECK(parameter_count(gemma3) == 999'885'952);
}

TEST_CASE("family configs: what contradicts itself or is beyond the family is an error") {
  const struct {
    std::string text;
    std::vector<std::string_view> parts;
  } cases[] = {
      {with(R"("rope_scaling":{"rope_type":"llama3","factor":8.0})"),
       {"'low_freq_factor'", "missing"}},
      {with(R"("rope_scaling":{"rope_type":"yarn","factor":-1})"), {"'factor'", "it is -1"}},
      {with(R"("rope_scaling":{"rope_type":"yarn","factor":2.0,"truncate":1})"),
       {"'truncate'", "true or false"}},
      {with(R"("rope_scaling":{"rope_type":"linear","factor":2.0,"beta_fast":3})"),
       {"'beta_fast' is 3"}},
      {with(R"("model_type":"phi3","rope_scaling":{"rope_type":"longrope","short_factor":[1],)"
            R"("long_factor":[1,2]})"),
       {"'short_factor'", "2 pairs", "it has 1"}},
      {with(R"("model_type":"phi3","partial_rotary_factor":0.25)"), {"even number", "it is 1"}},
      {with(R"("model_type":"phi3","partial_rotary_factor":2)"), {"at most 1", "it is 2"}},
      {with(R"("model_type":"smollm3","no_rope_layers":[1,0])"), {"'no_rope_layers'", "4 layers"}},
      {with(R"("model_type":"qwen3","layer_types":["sliding_attention"])"),
       {"'layer_types'", "4 layers"}},
      {with(R"("model_type":"gemma2","query_pre_attn_scalar":0)"), {"'query_pre_attn_scalar'"}},
      {with(R"("model_type":"gemma2","attn_logit_softcapping":-3)"),
       {"'attn_logit_softcapping'", "it is -3"}},
      {with(R"("model_type":"gemma2","use_bidirectional_attention":true)"),
       {"'use_bidirectional_attention'"}},
      {with(R"("model_type":"gemma3_text","sliding_window_pattern":0)"),
       {"'sliding_window_pattern'"}},
      {with(R"("model_type":"gemma3_text","rope_parameters":{"sliding_attention":)"
            R"({"rope_type":"linear","factor":2.0}})"),
       {"sliding layers", "default"}},
      {with(R"("model_type":"olmo2","num_experts":8)"), {"'num_experts' is 8", "olmo2"}},
      {with(R"("model_type":"phi3","auto_map":{"AutoModelForCausalLM":"modeling_x.Other"})"),
       {"'auto_map'"}},
  };
  for (const auto& c : cases) {
    INFO(c.text);
    for (const auto part : c.parts)
      test::check_throws<std::runtime_error>([&] { (void)parse_config(c.text, "'c'"); },
                                             {"'c'", part});
  }
}

TEST_CASE(
    "family configs: a trait without a kernel on a device or in bfloat16 is refused by name") {
  const struct {
    std::string text;
    std::string_view trait;  // empty: none
  } cases[] = {
      {with(R"("head_dim":8,"rope_scaling":{"rope_type":"linear","factor":2.0})"), ""},
      {with(R"("model_type":"qwen3")"), ""},
      {with(R"("model_type":"olmo2")"), ""},
      {with(R"("model_type":"mistral","sliding_window":32)"), ""},
      {with(R"("model_type":"mistral","sliding_window":31)"), "a sliding window of 31 tokens"},
      {with(R"("model_type":"qwen2")"), "biases"},
      {with(R"("mlp_bias":true)"), "biases"},
      {with(R"("hidden_act":"gelu_pytorch_tanh")"), "gelu_pytorch_tanh"},
      {with(R"("model_type":"gemma2","sliding_window":null)"), "soft caps"},
      {with(R"("model_type":"gemma3_text","sliding_window":null)"), "gelu_pytorch_tanh"},
  };
  for (const auto& c : cases) {
    INFO(c.text);
    const LlamaConfig config = parse_config(c.text, "'c'");
    // On the CPU, bfloat16 has windows.
    const bool window = c.trait.find("window") != std::string_view::npos;
    for (const bool on_device : {true, false})
      if (c.trait.empty() || (window && !on_device))
        CHECK_NOTHROW(refuse_without_kernel(config, 32, on_device));
      else
        test::check_throws<std::invalid_argument>(
            [&] { refuse_without_kernel(config, 32, on_device); },
            {on_device ? "on a device" : "in bfloat16", c.trait, config.traits.family,
             "--device cpu"});
  }
}
