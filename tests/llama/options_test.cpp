// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The command line: every option, every way to get it wrong, and the help.
#include "llama/app/options.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"

namespace {

using namespace llama;

CommandLine parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "llama-finetune");
  return parse_options(static_cast<int>(arguments.size()), arguments.data(), "1.2.3");
}

Options options_of(std::vector<const char*> arguments) {
  const CommandLine line = parse(std::move(arguments));
  INFO(line.text);
  REQUIRE(line.options);
  CHECK(line.exit_code == 0);
  CHECK(line.text.empty());
  return *line.options;
}

}  // namespace

TEST_CASE("options: none gives the defaults") {
  const Options o = options_of({});
  CHECK(!o.data);
  CHECK(!o.tokens);
  CHECK(!o.model);
  CHECK(!o.out);
  CHECK(!o.report);
  CHECK(!o.plot);
  CHECK(!o.baseline);
  CHECK(!o.out_dtype);
  CHECK(!o.checkpoint);
  CHECK(o.checkpoint_every == 100);
  CHECK(!o.resume);
  CHECK(o.shape.vocabulary == 256);
  CHECK(o.shape.kv_heads == o.shape.heads);
  CHECK(o.drop_rate == 0.5);
  CHECK(o.allocate_at == 0.1);
  CHECK(o.allocation == AllocationChoice::optimal);
  CHECK(o.sampling == SamplingChoice::bernoulli);
  CHECK(o.sensitivity == SensitivityChoice::running);
  CHECK(o.progress == ProgressChoice::automatic);
  CHECK(o.steps == 200);
  CHECK(!o.quiet);
  CHECK(!problem_of(o.shape));
  CHECK(o.data_options(256).max_bytes == std::uintmax_t{32} << 20);
}

TEST_CASE("options: each option sets its member") {
  const Options o = options_of({"--data",
                                "d",
                                "--data-limit",
                                "5",
                                "--validation-fraction",
                                "0.2",
                                "--layers",
                                "3",
                                "--hidden",
                                "96",
                                "--intermediate",
                                "100",
                                "--heads",
                                "6",
                                "--kv-heads",
                                "2",
                                "--vocabulary",
                                "300",
                                "--tie-embeddings",
                                "--steps",
                                "11",
                                "--batch",
                                "12",
                                "--sequence",
                                "13",
                                "--micro-steps",
                                "14",
                                "--learning-rate",
                                "0.015",
                                "--weight-decay",
                                "0.16",
                                "--warmup",
                                "17",
                                "--grad-clip",
                                "1.8",
                                "--seed",
                                "18446744073709551615",
                                "--threads",
                                "20",
                                "--eval-every",
                                "21",
                                "--eval-batches",
                                "22",
                                "--drop-rate",
                                "0.23",
                                "--allocation",
                                "uniform",
                                "--sampling",
                                "at-least-target",
                                "--sensitivity",
                                "gradient",
                                "--sensitivity-samples",
                                "7",
                                "--allocate-at",
                                "0.24",
                                "--reallocate-every",
                                "26",
                                "--drop-warmup",
                                "27",
                                "--gradient-scaling",
                                "inverse-keep-rate",
                                "--out",
                                "o",
                                "--report",
                                "r.json",
                                "--log-every",
                                "25",
                                "--progress",
                                "never",
                                "--quiet",
                                "--plot",
                                "p.svg",
                                "--baseline"});
  CHECK(o.plot == "p.svg");
  CHECK(o.baseline);
  CHECK(o.data == "d");
  CHECK(o.data_limit_mib == 5);
  CHECK(o.validation_fraction == 0.2);
  CHECK(o.shape == LlamaConfig{.vocabulary = 300,
                               .hidden = 96,
                               .intermediate = 100,
                               .layers = 3,
                               .heads = 6,
                               .kv_heads = 2,
                               .tie_embeddings = true});
  CHECK(o.steps == 11);
  CHECK(o.batch == 12);
  CHECK(o.sequence == 13);
  CHECK(o.micro_steps == 14);
  CHECK(o.learning_rate == 0.015);
  CHECK(o.weight_decay == 0.16);
  CHECK(o.warmup == 17);
  CHECK(o.grad_clip == 1.8);
  CHECK(o.seed == std::numeric_limits<std::uint64_t>::max());
  CHECK(o.threads == 20);
  CHECK(o.eval_every == 21);
  CHECK(o.eval_batches == 22);
  CHECK(o.drop_rate == 0.23);
  CHECK(o.allocation == AllocationChoice::uniform);
  CHECK(o.sampling == SamplingChoice::at_least_target);
  CHECK(o.sensitivity == SensitivityChoice::gradient);
  CHECK(o.sensitivity_samples == 7);
  CHECK(o.allocate_at == 0.24);
  CHECK(o.reallocate_every == 26);
  CHECK(o.drop_warmup == 27);
  CHECK(o.gradient_scaling == ScalingChoice::inverse_keep_rate);
  CHECK(o.out == "o");
  CHECK(o.report == "r.json");
  CHECK(o.log_every == 25);
  CHECK(o.progress == ProgressChoice::never);
  CHECK(o.quiet);

  CHECK(options_of({"--activation-budget", "1.5"}).activation_budget_mib == 1.5);
  CHECK(options_of({"--activation-budget", "1.5"}).sampling == SamplingChoice::fixed_budget);
  const Options lora = options_of({"--mode", "lora", "--lora-rank", "4", "--lora-alpha", "2.5",
                                   "--lora-dropout", "0.1", "--lora-targets", "q_proj,down_proj",
                                   "--merge-out", "m", "--out-dtype", "bf16"});
  CHECK(lora.mode == ModeChoice::lora);
  CHECK(lora.lora_rank == 4);
  CHECK(lora.lora_alpha == 2.5);
  CHECK(lora.lora_dropout == 0.1);
  CHECK(lora.lora_targets == std::vector<std::string>{"q_proj", "down_proj"});
  CHECK(lora.merge_out == "m");
  const Options qlora =
      options_of({"--mode", "qlora", "--model", "m", "--adapter", "a", "--lora-dropout", "0.1"});
  CHECK(qlora.mode == ModeChoice::qlora);
  CHECK(qlora.adapter == "a");
  CHECK(qlora.lora_dropout == 0.1);
  CHECK_FALSE(
      options_of({"--mode", "qlora", "--model", "m", "--adapter", "a"}).lora_dropout.has_value());
  CHECK(options_of({}).mode == ModeChoice::full);
  CHECK(options_of({}).base_precision == BasePrecisionChoice::automatic);
  CHECK(options_of({"--mode", "lora", "--base-precision", "fp8"}).base_precision ==
        BasePrecisionChoice::fp8);
  CHECK_FALSE(options_of({}).recompute);
  CHECK(options_of({"--recompute"}).recompute);
  CHECK_FALSE(options_of({"--device", "cuda"}).nondeterministic_attention);
  CHECK(
      options_of({"--device", "cuda", "--nondeterministic-attention"}).nondeterministic_attention);
  CHECK(options_of({"--allocation", "optimal", "--sensitivity", "running", "--drop-rate", "0.95"})
            .allocation == AllocationChoice::optimal);
  CHECK(options_of({"--allocation", "sharp"}).allocation == AllocationChoice::sharp);
  const Options c = options_of({"--checkpoint", "c", "--checkpoint-every", "28", "--resume",
                                "--out", "o", "--out-dtype", "bf16"});
  CHECK(c.checkpoint == "c");
  CHECK(c.checkpoint_every == 28);
  CHECK(c.resume);
  CHECK(c.out_dtype == DType::bf16);
  CHECK(options_of({"--out", "o", "--out-dtype", "f16"}).out_dtype == DType::f16);
  CHECK(options_of({}).max_shard_size == 5'000'000'000);
  CHECK(options_of({"--out", "o", "--max-shard-size", "77"}).max_shard_size == 77);
  CHECK(
      options_of({"--mode", "lora", "--merge-out", "o", "--max-shard-size", "77"}).max_shard_size ==
      77);
  CHECK(options_of({"--checkpoint", "c", "--checkpoint-every", "0"}).checkpoint_every == 0);
  const Options t = options_of({"--tokens=x.bin", "--token-type=i32", "--vocabulary=5"});
  CHECK(t.tokens == "x.bin");
  CHECK(t.token_type == TokenType::i32);
  CHECK(t.shape.vocabulary == 5);
  CHECK(options_of({"--tokens", "x.u16", "--model", "m"}).model == "m");
  CHECK(options_of({"--tokenizer", "t.json"}).tokenizer == "t.json");
  CHECK(options_of({"--tokenizer", "t.json"}).vocabulary_of_tokenizer);
  const Options v = options_of({"--tokenizer", "t.json", "--vocabulary", "20", "--data", "x"});
  CHECK(!v.vocabulary_of_tokenizer);
  CHECK(v.shape.vocabulary == 20);
  CHECK(!options_of({"--tokenizer", "t.json", "--model", "m"}).vocabulary_of_tokenizer);
  const Options s = options_of({"--loss-on", "all", "--long-samples", "skip", "--chat-template",
                                "phi3", "--no-packing", "--show-sample", "--epochs", "3"});
  CHECK(s.loss_on == LossChoice::all);
  CHECK(s.long_samples == LongSamples::skip);
  CHECK(s.chat_template == "phi3");
  CHECK(s.no_packing);
  CHECK(s.show_sample);
  CHECK(s.epochs == 3);
  CHECK_FALSE(s.sample_options(256).pack);
  CHECK(s.sample_options(256).loss_on == LossChoice::all);
  CHECK(options_of({}).sample_options(256).pack);
  CHECK(options_of({}).sample_options(256).loss_on == LossChoice::completion);
  CHECK(options_of({}).epochs == 0);
  // A card has no packed attention.
  CHECK_FALSE(options_of({"--device", "cuda"}).sample_options(256).pack);
}

TEST_CASE("options: the ends of the ranges are inside") {
  CHECK(options_of({"--drop-rate", "0"}).drop_rate == 0.0);
  CHECK(options_of({"--drop-rate", "1", "--allocation", "uniform"}).drop_rate == 1.0);
  CHECK(options_of({"--drop-rate", "0.9"}).drop_rate == 0.9);
  CHECK_FALSE(options_of({"--drop-rate", "0.9"}).drop_rate_auto);
  CHECK(options_of({"--drop-rate", "auto", "--model", "m"}).drop_rate_auto);
  CHECK(options_of({"--allocate-at", "1e0"}).allocate_at == 1.0);
  CHECK(options_of({"--grad-clip", "0"}).grad_clip == 0.0);
  CHECK(options_of({"--eval-every", "0"}).eval_every == 0);
  CHECK(options_of({"--steps", "0", "--batch", "1", "--sequence", "1"}).steps == 0);
  CHECK(options_of({"--hidden", "2", "--heads", "1"}).shape.kv_heads == 1);
}

TEST_CASE(
    "options: wrong usage is exit code 2 and one sentence with the option, the rule and what was "
    "given") {
  const struct {
    std::vector<const char*> arguments;
    std::vector<const char*> parts;
  } cases[] = {
      {{"--epochs", "0"}, {"--epochs", "'0'"}},
      {{"--epochs", "2", "--steps", "5"}, {"--steps and --epochs", "leave one out"}},
      {{"--loss-on", "prompt"}, {"--loss-on", "completion|all", "'prompt'"}},
      {{"--long-samples", "cat"}, {"--long-samples", "did you mean --long-samples cut"}},
      {{"--chat-template", ""}, {"--chat-template must be a name"}},
      {{"--tokens", "x.u16", "--vocabulary", "9", "--loss-on", "all"},
       {"--loss-on is about samples", "--tokens"}},
      {{"--tokens", "x.u16", "--vocabulary", "9", "--no-packing"},
       {"--no-packing is about samples", "--tokens"}},
      {{"--base-precision", "fp8"}, {"--mode full was given, which trains them", "--mode lora"}},
      {{"--base-precision", "fp8", "--mode", "qlora"}, {"--mode qlora", "4 bits"}},
      {{"--base-precision", "fp16"}, {"--base-precision", "auto|fp8", "'fp16'"}},
      {{"--dora"}, {"--dora applies to adapters", "add --mode lora"}},
      {{"--mode", "lora", "--dora", "--precision", "bfloat16"}, {"--dora", "float32"}},
      {{"--mode", "lora", "--dora", "--device", "cuda"}, {"--dora", "--device cuda"}},
      {{"--nondeterministic-attention"}, {"--nondeterministic-attention", "--device cpu"}},
      {{"--mode", "lora", "--dora", "--lora-dropout", "0.1"}, {"--dora", "--lora-dropout"}},
      {{"--modules-to-save", "norm"}, {"--modules-to-save applies to adapters"}},
      {{"--mode", "lora", "--modules-to-save", "norm,q_proj"},
       {"--modules-to-save", "embed_tokens, lm_head, norm, model.norm", "'norm,q_proj'"}},
      {{"--mode", "lora", "--model", "m", "--adapter", "a", "--modules-to-save", "norm"},
       {"its adapter_config.json decides", "--modules-to-save"}},
      {{"--drop-rate", "1.5"}, {"--drop-rate", "[0, 1]", "'1.5'"}},
      {{"--drop-rate", "-0.1"}, {"--drop-rate", "[0, 1]", "'-0.1'"}},
      {{"--drop-rate", "nan"}, {"--drop-rate", "[0, 1]", "'nan'"}},
      {{"--drop-rate=-nan"}, {"--drop-rate", "[0, 1]", "'-nan'"}},
      {{"--drop-rate", "inf"}, {"--drop-rate", "'inf'"}},
      {{"--drop-rate", "half"}, {"--drop-rate", "'half'"}},
      {{"--drop-rate", "0.5x"}, {"--drop-rate", "'0.5x'"}},
      {{"--drop-rate", "0,5"}, {"--drop-rate", "'0,5'"}},
      {{"--drop-rate", "50%"}, {"--drop-rate", "'50%'"}},
      {{"--drop-rate", ""}, {"--drop-rate"}},
      {{"--drop-rate", "1e999"}, {"--drop-rate", "'1e999'"}},
      {{"--drop-rate", "Auto"}, {"--drop-rate", "or auto", "'Auto'"}},
      {{"--model", "m", "--drop-rate", "auto", "--allocation", "sharp"},
       {"--drop-rate auto chooses the allocation", "--allocation sharp"}},
      {{"--drop-rate", "auto"}, {"--drop-rate auto needs --model"}},
      {{"--model", "m", "--drop-rate", "auto", "--activation-budget", "3"},
       {"--drop-rate auto first trains without drops", "--activation-budget"}},
      {{"--drop-rate", "0.95", "--allocation", "greedy"},
       {"at most 0.9", "greedy", "0.95", "optimal"}},
      {{"--activation-budget", "1", "--sampling", "bernoulli"},
       {"--activation-budget", "--sampling bernoulli"}},
      {{"--activation-budget", "-1"}, {"--activation-budget", "[0, infinity)", "'-1'"}},
      {{"--batch", "2", "--sensitivity-samples", "3"},
       {"--sensitivity-samples", "--batch (2)", "3"}},
      {{"--allocate-at", "1.01"}, {"--allocate-at", "[0, 1]", "'1.01'"}},
      {{"--allocate-at", "nan"}, {"--allocate-at"}},
      {{"--learning-rate", "0"}, {"--learning-rate", "(0, 1]", "'0'"}},
      {{"--learning-rate", "nan"}, {"--learning-rate"}},
      {{"--weight-decay", "-1"}, {"--weight-decay", "'-1'"}},
      {{"--grad-clip", "-1"}, {"--grad-clip", "'-1'"}},
      {{"--grad-clip", "inf"}, {"--grad-clip", "'inf'"}},
      {{"--validation-fraction", "0.95"}, {"--validation-fraction", "[0, 0.9]"}},
      {{"--steps", "-5"}, {"--steps", "from 0 to", "'-5'"}},
      {{"--steps", "0", "--plot", "p.svg"}, {"--plot", "--steps 0", "leave one"}},
      {{"--plot", "a/p.png"}, {"--plot", "end in .svg", "'a/p.png'", "try --plot a/p.svg"}},
      {{"--plot", "p"}, {"--plot", "end in .svg", "'p'", "try --plot p.svg"}},
      {{"--steps", "1e3"}, {"--steps", "'1e3'"}},
      {{"--steps", "2.5"}, {"--steps", "'2.5'"}},
      {{"--steps", "99999999999999999999999"}, {"--steps", "'99999999999999999999999'"}},
      {{"--steps", "1000000001"}, {"--steps", "1000000000"}},
      {{"--steps", " 5"}, {"--steps", "' 5'"}},
      {{"--batch", "0"}, {"--batch", "'0'"}},
      {{"--sequence", "0"}, {"--sequence", "'0'"}},
      {{"--micro-steps", "0"}, {"--micro-steps", "'0'"}},
      {{"--layers", "0"}, {"--layers", "'0'"}},
      {{"--hidden", "-8"}, {"--hidden", "'-8'"}},
      {{"--intermediate", "0"}, {"--intermediate", "'0'"}},
      {{"--heads", "0"}, {"--heads", "'0'"}},
      {{"--kv-heads", "-1"}, {"--kv-heads", "'-1'"}},
      {{"--warmup", "-1"}, {"--warmup", "'-1'"}},
      {{"--seed", "-1"}, {"--seed", "'-1'"}},
      {{"--seed", "18446744073709551616"}, {"--seed", "18446744073709551615"}},
      {{"--threads", "-1"}, {"--threads", "'-1'"}},
      {{"--log-every", "0"}, {"--log-every", "'0'"}},
      {{"--eval-batches", "0"}, {"--eval-batches", "'0'"}},
      {{"--data-limit", "0"}, {"--data-limit", "'0'"}},
      {{"--allocation", "best"}, {"--allocation", "uniform|greedy", "'best'"}},
      {{"--sampling", "Bernoulli"}, {"--sampling", "bernoulli|at-least-target", "'Bernoulli'"}},
      {{"--sensitivity", "x"}, {"--sensitivity", "gradient-norm|gradient", "'x'"}},
      {{"--progress", "x"}, {"--progress", "auto|always|never", "'x'"}},
      {{"--tokens", "t", "--vocabulary", "9", "--token-type", "u8"},
       {"--token-type", "auto|u16|i32", "'u8'"}},
      {{"--heads", "6"}, {"hidden must be a multiple of heads", "256 and 6"}},
      {{"--kv-heads", "3"}, {"heads must be a multiple of kv_heads", "4 and 3"}},
      {{"--hidden", "36", "--heads", "4"}, {"must be even", "36 / 4 = 9"}},
      {{"--data", "a", "--tokens", "b.u16", "--vocabulary", "9"},
       {"--data or from --tokens", "leave one out"}},
      {{"--tokens", "b.u16"}, {"--vocabulary", "--model"}},
      {{"--tokens", "b.u16", "--vocabulary", "9", "--tokenizer", "t"},
       {"--tokenizer", "--tokens", "leave one of the two out"}},
      {{"--tokens", "b.bin", "--vocabulary", "9"}, {"'b.bin'", "--token-type"}},
      {{"--token-type", "u16"}, {"--token-type", "--tokens"}},
      {{"--vocabulary", "255"}, {"at least 256", "255"}},
      {{"--model", "m", "--layers", "4"}, {"--model", "--layers"}},
      {{"--model", "m", "--tie-embeddings"}, {"--model", "--tie-embeddings"}},
      {{"--model", "m", "--vocabulary", "300"}, {"--model", "--vocabulary"}},
      {{"--mode", "dora"}, {"--mode", "full|lora|qlora", "'dora'"}},
      {{"--lora-rank", "4"}, {"--lora-rank", "--mode full", "add --mode lora or qlora"}},
      {{"--adapter", "a"}, {"--adapter", "--mode full"}},
      {{"--merge-out", "m", "--mode", "full"}, {"--merge-out", "--mode full"}},
      {{"--mode", "lora", "--lora-rank", "0"}, {"--lora-rank", "from 1 to", "'0'"}},
      {{"--mode", "lora", "--lora-alpha", "0"}, {"--lora-alpha", "(0, infinity)", "'0'"}},
      {{"--mode", "lora", "--lora-alpha", "inf"}, {"--lora-alpha", "'inf'"}},
      {{"--mode", "qlora", "--lora-dropout", "1"}, {"--lora-dropout", "[0, 1)", "'1'"}},
      {{"--mode", "lora", "--lora-targets", "q_proj,c_attn"},
       {"--lora-targets", "gate_proj, up_proj, down_proj", "'q_proj,c_attn'"}},
      {{"--mode", "lora", "--lora-targets", "q_proj,"}, {"--lora-targets", "'q_proj,'"}},
      {{"--mode", "lora", "--adapter", "a", "--lora-rank", "4"},
       {"--adapter", "--lora-rank", "leave one"}},
      {{"--mode", "lora", "--out", "o"},
       {"--out", "--mode lora", "without --model", "--merge-out instead"}},
      {{"--mode", "qlora", "--out", "o", "--merge-out", "m"}, {"--mode qlora", "add --model"}},
      {{"--mode", "lora", "--adapter", "a"}, {"--adapter 'a'", "add that model"}},
      {{"--resume"}, {"--resume", "--checkpoint", "add it"}},
      {{"--checkpoint-every", "5"}, {"--checkpoint-every", "--checkpoint", "add it"}},
      {{"--checkpoint", "c", "--checkpoint-every", "-1"}, {"--checkpoint-every", "'-1'"}},
      {{"--checkpoint", ""}, {"--checkpoint", "empty"}},
      {{"--checkpoint", "c", "--baseline"}, {"--baseline, which trains a second one", "leave one"}},
      {{"--out-dtype", "f16"}, {"--out-dtype", "--out"}},
      {{"--max-shard-size", "77"}, {"--max-shard-size", "--merge-out"}},
      {{"--mode", "lora", "--out", "o", "--max-shard-size", "77"},
       {"--max-shard-size", "--merge-out"}},
      {{"--out", "o", "--max-shard-size", "0"}, {"--max-shard-size", "from 1 to", "'0'"}},
      {{"--out", "o", "--out-dtype", "f64"}, {"--out-dtype", "f32|f16|bf16", "'f64'"}},
      {{"--data", ""}, {"--data", "empty"}},
      {{"--data"}, {"--data"}},
      {{"--steps"}, {"--steps"}},
      {{"--steps", "--batch", "3"}, {"--help"}},
      {{"--steps", "5", "--steps", "6"}, {"--steps"}},
      {{"--no-such-option"}, {"--no-such-option", "--help"}},
      {{"--step", "5"}, {"--step"}},
      {{"stray"}, {"stray", "--help"}},
      {{"--quiet", "yes"}, {"yes"}},
  };
  for (const auto& c : cases) {
    std::string shown;
    for (const char* argument : c.arguments) shown += std::string(argument) + " ";
    const CommandLine line = parse(c.arguments);
    INFO(shown << "-> " << line.text);
    CHECK(!line.options);
    CHECK(line.exit_code == 2);
    CHECK(line.text.starts_with("llama-finetune: "));
    CHECK(std::ranges::count(line.text, '\n') == 1);
    CHECK(line.text.ends_with("\n"));
    CHECK(
        (line.text.find("but") != std::string::npos && line.text.find("; ") != std::string::npos));
    for (const char* part : c.parts) CHECK(line.text.find(part) != std::string::npos);
  }
}

TEST_CASE("options: an error for a misspelt word suggests the similar one") {
  const struct {
    std::vector<const char*> arguments;
    const char* meant;
  } near[] = {
      {{"--step", "5"}, "did you mean --steps?"},
      {{"--stpes", "5"}, "did you mean --steps?"},
      {{"--steps", "5", "--drop_rate=0.5"}, "did you mean --drop-rate?"},
      {{"--Drop-Rate", "0.5"}, "did you mean --drop-rate?"},
      {{"-steps", "5"}, "did you mean --steps?"},
      {{"--droprate", "0.5", "--bach", "2"}, "did you mean --drop-rate?"},
      {{"--lora-target", "q_proj"}, "did you mean --lora-targets?"},
      {{"--mergeout", "m"}, "did you mean --merge-out?"},
      {{"--quite"}, "did you mean --quiet?"},
      {{"--versoin"}, "did you mean --version?"},
      {{"--mode", "qlor"}, "did you mean --mode qlora?"},
      {{"--mode", "LoRA"}, "did you mean --mode lora?"},
      {{"--allocation", "optimla"}, "did you mean --allocation optimal?"},
      {{"--sampling", "fixed_budget"}, "did you mean --sampling fixed-budget?"},
      {{"--sensitivity", "gradientnorm"}, "did you mean --sensitivity gradient-norm?"},
      {{"--precision", "bfloat"}, "did you mean --precision bfloat16?"},
      {{"--out", "o", "--out-dtype", "fp16"}, "did you mean --out-dtype f16?"},
      {{"--mode", "lora", "--lora-targets", "q_proj,k_porj"}, "did you mean k_proj?"},
  };
  for (const auto& c : near) {
    const CommandLine line = parse(c.arguments);
    INFO(line.text);
    CHECK(line.exit_code == 2);
    CHECK(line.text.find(c.meant) != std::string::npos);
  }
  for (const std::vector<const char*>& far : {std::vector<const char*>{"--no-such-option"},
                                              {"--lr", "1"},
                                              {"-x"},
                                              {"--"},
                                              {"---"},
                                              {"stray"},
                                              {"--mode", "everything"},
                                              {"--token-type", ""},
                                              {"--steps", "stesp"}}) {
    const CommandLine line = parse(far);
    INFO(line.text);
    CHECK(line.text.find("did you mean") == std::string::npos);
  }
}

TEST_CASE("options: an option is not taken as the path of another option") {
  for (const char* flag : {"--data", "--tokens", "--tokenizer", "--model", "--adapter", "--out",
                           "--merge-out", "--checkpoint", "--report", "--plot"}) {
    // As a shell leaves --out=$UNSET.
    const std::string empty = std::string(flag) + "=";
    for (const std::vector<const char*>& words :
         {std::vector<const char*>{empty.c_str(), "--quiet"}, {flag, "--quiet"}}) {
      const CommandLine line = parse(words);
      CAPTURE(line.text, words);
      CHECK(line.exit_code == 2);
      CHECK(line.text.find(flag) != std::string::npos);
    }
  }
  CHECK(*options_of({"--out", "./--quiet"}).out == "./--quiet");
}

TEST_CASE("options: each probable mistake gives one line of warning, and nothing else does") {
  const auto said = [](std::vector<const char*> arguments) {
    std::string lines;
    for (const std::string& line : warnings_of(options_of(std::move(arguments)), 4))
      lines += line + "\n";
    return lines;
  };
  CHECK(said({}).empty());
  CHECK(said({"--drop-rate", "0.99", "--threads", "4"}).empty());
  CHECK(said({"--drop-rate", "1", "--steps", "0"}).empty());
  CHECK(said({"--threads", "5"}) ==
        "--threads 5 is more than the machine's 4 processors: threads then wait for each other and "
        "steps take longer; leave it out for one thread per processor\n");
  CHECK(said({"--drop-rate", "1"}) ==
        "--drop-rate 1 drops the backward pass of every branch, so only the embedding, the final "
        "norm and the output layer are trained; lower it to train the blocks\n");
  CHECK(said({"--drop-rate", "1", "--drop-warmup", "5"}).find("branch after the --drop-warmup,") !=
        std::string::npos);
  CHECK(said({"--drop-rate", "1", "--mode", "qlora"})
            .find("so nothing is trained, because all adapters") != std::string::npos);
  const std::string both = said({"--drop-rate", "1.0", "--threads", "5"});
  CHECK(std::ranges::count(both, '\n') == 2);
}

TEST_CASE(
    "options: help names every option with its default, version is one line; both are exit code "
    "0") {
  for (const char* flag : {"--help", "-h"}) {
    const CommandLine line = parse({flag});
    CHECK(!line.options);
    CHECK(line.exit_code == 0);
    for (const char* option : {"--data ",
                               "--data-limit ",
                               "--tokens ",
                               "--token-type ",
                               "--validation-fraction ",
                               "--model ",
                               "--layers ",
                               "--hidden ",
                               "--intermediate ",
                               "--heads ",
                               "--kv-heads ",
                               "--vocabulary ",
                               "--tie-embeddings ",
                               "--steps ",
                               "--batch ",
                               "--sequence ",
                               "--micro-steps ",
                               "--learning-rate ",
                               "--weight-decay ",
                               "--warmup ",
                               "--grad-clip ",
                               "--seed ",
                               "--threads ",
                               "--eval-every ",
                               "--eval-batches ",
                               "--drop-rate ",
                               "--allocation ",
                               "--sampling ",
                               "--sensitivity ",
                               "--allocate-at ",
                               "--out ",
                               "--report ",
                               "--log-every ",
                               "--progress ",
                               "--quiet ",
                               "--mode ",
                               "--adapter ",
                               "--lora-rank ",
                               "--lora-alpha ",
                               "--lora-dropout ",
                               "--lora-targets ",
                               "--merge-out ",
                               "--plot ",
                               "--baseline ",
                               "--out-dtype ",
                               "--max-shard-size ",
                               "--checkpoint ",
                               "--checkpoint-every ",
                               "--resume ",
                               "--tokenizer "}) {
      INFO(option);
      const auto begin = line.text.find("\n  " + std::string(option));
      REQUIRE(begin != std::string::npos);
      // The text of each option must contain its default.
      const auto next =
          std::min(line.text.find("\n  --", begin + 3), line.text.find("\n\n", begin + 3));
      CHECK(line.text.substr(begin, next - begin).find("[default ") != std::string::npos);
    }
    for (const char* group : {"\nData:", "\nModel:", "\nTraining:", "\nDropping:", "\nOutput:"})
      CHECK(line.text.find(group) != std::string::npos);
    CHECK(line.text.find("Exit code: 0") != std::string::npos);
    CHECK(line.text.find("but not to norms") != std::string::npos);
    CHECK(line.text.find("ending in .svg") != std::string::npos);
  }
  const CommandLine version = parse({"--version"});
  CHECK(!version.options);
  CHECK(version.exit_code == 0);
  CHECK(version.text == "llama-finetune 1.2.3\n");
  CHECK(parse({"--steps", "-1", "--help"}).exit_code == 0);
}
