// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// All flags of the program, and the rules for their combinations.
#include "llama/app/options.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "llama/app/errors.hpp"
#include "llama/app/flags.hpp"
#include "llama/app/run_file.hpp"
#include "llama/model/adapter.hpp"

namespace llama {
namespace {

constexpr std::array token_types{Named{TokenType::automatic, "auto"}, Named{TokenType::u16, "u16"},
                                 Named{TokenType::i32, "i32"}};
constexpr std::array losses{Named{LossChoice::completion, "completion"},
                            Named{LossChoice::all, "all"}};
constexpr std::array long_samples{Named{LongSamples::cut, "cut"}, Named{LongSamples::skip, "skip"}};
constexpr std::array modes{Named{ModeChoice::full, "full"}, Named{ModeChoice::lora, "lora"},
                           Named{ModeChoice::qlora, "qlora"}};
constexpr std::array allocations{Named{AllocationChoice::uniform, "uniform"},
                                 Named{AllocationChoice::greedy, "greedy"},
                                 Named{AllocationChoice::optimal, "optimal"}};
constexpr std::array samplings{Named{SamplingChoice::bernoulli, "bernoulli"},
                               Named{SamplingChoice::at_least_target, "at-least-target"},
                               Named{SamplingChoice::fixed_budget, "fixed-budget"}};
constexpr std::array sensitivities{Named{SensitivityChoice::gradient_norm, "gradient-norm"},
                                   Named{SensitivityChoice::gradient, "gradient"},
                                   Named{SensitivityChoice::running, "running"}};
constexpr std::array scalings{Named{ScalingChoice::none, "none"},
                              Named{ScalingChoice::inverse_keep_rate, "inverse-keep-rate"}};
constexpr std::array progresses{Named{ProgressChoice::automatic, "auto"},
                                Named{ProgressChoice::always, "always"},
                                Named{ProgressChoice::never, "never"}};
constexpr std::array devices{Named{DeviceChoice::cpu, "cpu"}, Named{DeviceChoice::cuda, "cuda"}};
constexpr std::array precisions{Named{PrecisionChoice::automatic, "auto"},
                                Named{PrecisionChoice::float32, "float32"},
                                Named{PrecisionChoice::bfloat16, "bfloat16"}};
constexpr std::array schedules{
    Named{ScheduleChoice::cosine, "cosine"}, Named{ScheduleChoice::linear, "linear"},
    Named{ScheduleChoice::constant, "constant"}, Named{ScheduleChoice::wsd, "wsd"}};
constexpr std::array out_formats{Named{OutFormatChoice::safetensors, "safetensors"},
                                 Named{OutFormatChoice::gguf, "gguf"}};
constexpr std::array<std::string_view, 4> saved_modules{"embed_tokens", "lm_head", "norm",
                                                        "model.norm"};
constexpr std::array out_dtypes{Named{DType::f32, "f32"}, Named{DType::f16, "f16"},
                                Named{DType::bf16, "bf16"}};

constexpr std::uint64_t count_limit =
    1'000'000'000;  // steps; more than any run takes, and no product overflows

/// Flags whose combination is checked after the parse.
struct Given {
  CLI::Option* token_type;
  std::vector<CLI::Option*> of_samples;  ///< that need samples
  CLI::Option* steps;
  CLI::Option* epochs;
  CLI::Option* vocabulary;
  CLI::Option* sampling;
  std::vector<CLI::Option*> adapters;       ///< that need --mode lora or qlora
  std::vector<CLI::Option*> adapter_shape;  ///< that --adapter decides
  CLI::Option* lora_targets;
  CLI::Option* lora_targets_pattern;
  CLI::Option* decay;
  CLI::Option* final_learning_rate;
  CLI::Option* out_dtype;
  CLI::Option* out_format;
  CLI::Option* max_shard_size;
  CLI::Option* checkpoint_every;
  std::vector<CLI::Option*> shape;
};

Given declare(CLI::App& app, Flags::Conversions& conversions, Options& o) {
  Flags flags(app, conversions);
  Given given{};
  constexpr std::ptrdiff_t size_limit = 1 << 20;
  const auto shape = [&](const char* flag, std::ptrdiff_t& target, const char* help,
                         std::ptrdiff_t low = 1, const char* zero = "") {
    given.shape.push_back(
        flags.integer<std::ptrdiff_t>(flag, target, low, size_limit, "N", help, zero));
  };

  flags.group("Data");
  flags.path(
      "--data", o.data, "PATH",
      "samples in JSON lines (.jsonl), a file or a folder of them, or text, a file or a folder "
      "of documents; without a tokenizer it is bytes (256 ids) [default the C++ standard "
      "library's headers]");
  flags.path("--tokens", o.tokens, "FILE",
             "raw little-endian token ids to train on, instead of text [default none]");
  given.token_type =
      flags.choice("--token-type", o.token_type, token_types,
                   "type of the ids in --tokens; auto takes it from the extension .u16 or .i32");
  flags.path("--tokenizer", o.tokenizer, "FILE",
             "tokenizer.json (BPE) that makes ids of the text, without adding any at its ends "
             "[default that in the folder of --model or --adapter; without one, none]");
  const auto of_samples = [&](CLI::Option* option) { given.of_samples.push_back(option); };
  of_samples(flags.choice(
      "--loss-on", o.loss_on, losses,
      "what is learned of a sample: the completion or the assistant's turns, or all of it",
      "completion"));
  of_samples(
      flags.name("--chat-template", o.chat_template,
                 "how conversations are written: the name of a template, see docs/data.md [default "
                 "that in the folder of the tokenizer]"));
  of_samples(flags.choice("--long-samples", o.long_samples, long_samples,
                          "whether samples longer than --sequence are cut at the end or left out",
                          "cut"));
  of_samples(flags.toggle(
      "--no-packing", o.no_packing,
      "one sample a row, padded to the longest of its batch; else several share a row, "
      "none of which sees another"));
  flags.toggle("--show-sample", o.show_sample,
               "print the first sample, token by token with what is learned, and train nothing");
  flags.integer<std::uintmax_t>("--data-limit", o.data_limit_mib, 1, 1 << 16, "MIB",
                                "largest amount of text to read, in MiB");
  flags.real(
      "--validation-fraction", o.validation_fraction, "[0, 0.9]",
      [](double x) { return x >= 0.0 && x <= 0.9; }, "X",
      "part of the tokens, from the end, or of the samples held out for the validation loss");

  flags.group("Model");
  flags.path("--model", o.model, "DIR",
             "Hugging Face LLaMA folder to start from (config.json, safetensors), instead of the "
             "sizes below [default "
             "none, random weights]");
  shape("--layers", o.shape.layers, "transformer blocks; each has two branches, attention and MLP");
  shape("--hidden", o.shape.hidden, "width of the residual stream");
  shape("--intermediate", o.shape.intermediate, "width inside the MLP");
  shape("--heads", o.shape.heads, "query heads; hidden / heads must be even");
  o.shape.kv_heads = 0;  // until resolved
  shape("--kv-heads", o.shape.kv_heads, "key and value heads, a divisor of --heads", 0,
        "0, as many as --heads");
  given.vocabulary =
      flags.integer<std::ptrdiff_t>("--vocabulary", o.shape.vocabulary, 1, size_limit, "N",
                                    "token ids are below this; required with --tokens; with "
                                    "--tokenizer the default is the tokenizer's size");
  given.shape.push_back(given.vocabulary);
  given.shape.push_back(flags.toggle("--tie-embeddings", o.shape.tie_embeddings,
                                     "use the embedding as the output layer too"));

  flags.group("Adapters");
  flags.choice("--mode", o.mode, modes,
               "what is trained: all weights; low-rank adapters (LoRA) over frozen weights; or "
               "adapters over frozen weights in 4 bits (QLoRA, NF4)");
  const auto adapters = [&](CLI::Option* option) { given.adapters.push_back(option); };
  const auto adapter_shape = [&](CLI::Option* option) {
    adapters(option), given.adapter_shape.push_back(option);
  };
  adapters(flags.path("--adapter", o.adapter, "DIR",
                      "adapter folder in PEFT's format to start from, instead of the rank, alpha "
                      "and targets below; an adapter that this program wrote must have the same "
                      "base model [default none, a new adapter]"));
  adapter_shape(flags.integer<std::ptrdiff_t>("--lora-rank", o.lora_rank, 1, 65536, "N",
                                              "rank of the adapters"));
  adapter_shape(flags.real(
      "--lora-alpha", o.lora_alpha, "(0, infinity)",
      [](double x) { return x > 0.0 && x <= std::numeric_limits<double>::max(); }, "X",
      "the adapters' outputs are multiplied by alpha / rank"));
  given.lora_targets = flags.names(
      "--lora-targets", o.lora_targets, ops::adaptable_linears,
      "linear maps with adapters, names separated by commas, or all-linear [default all-linear, "
      "the seven of a block]",
      "all-linear");
  adapter_shape(given.lora_targets);
  given.lora_targets_pattern =
      flags.pattern("--lora-targets-pattern", o.lora_patterns.targets,
                    "the same by a regular expression for their whole names, such as "
                    "model.layers.0.self_attn.q_proj [default none]");
  adapter_shape(given.lora_targets_pattern);
  adapter_shape(flags.pairs<std::ptrdiff_t>(
      "--lora-rank-pattern", o.lora_patterns.ranks, 1, 65536, "PATTERN=RANK,...",
      "ranks of maps whose names end in what the pattern matches, as PEFT's rank_pattern: "
      "down_proj=16,layers\\.[01]\\..*=4 [default none]"));
  adapter_shape(flags.pairs<double>("--lora-alpha-pattern", o.lora_patterns.alphas,
                                    std::numeric_limits<double>::min(),
                                    std::numeric_limits<double>::max(), "PATTERN=X,...",
                                    "likewise what stands for --lora-alpha [default none]"));
  adapter_shape(flags.toggle("--rslora", o.rslora,
                             "divide --lora-alpha by the square root of the rank (rank-stabilised "
                             "LoRA)"));
  adapter_shape(flags.toggle("--dora", o.dora,
                             "train the magnitude of each row of the adapted weights too (DoRA)"));
  adapter_shape(flags.names(
      "--modules-to-save", o.modules_to_save, saved_modules,
      "what is trained whole beside the adapters and saved with them, names separated by commas: "
      "embed_tokens, lm_head, norm (all norms) or model.norm (the last one) [default none]"));
  adapters(flags.real(
      "--lora-dropout", o.lora_dropout, "[0, 1)", [](double x) { return x >= 0.0 && x < 1.0; }, "P",
      "dropout probability of the adapters' inputs in training",
      "0 or, with --adapter, the value in its adapter_config.json"));

  flags.group("Training");
  given.steps =
      flags.integer<std::uint64_t>("--steps", o.steps, 0, count_limit, "N",
                                   "optimizer steps; 0 trains nothing: the model is validated and "
                                   "written as it is, its adapter merged");
  given.epochs = flags.integer<std::uint64_t>(
      "--epochs", o.epochs, 1, count_limit, "N",
      "times that all samples are trained on, in place of --steps; of text as many tokens",
      "none, --steps decides");
  flags.integer<std::ptrdiff_t>("--batch", o.batch, 1, 1 << 16, "N", "sequences of a micro-step");
  flags.integer<std::ptrdiff_t>("--sequence", o.sequence, 1, size_limit, "N",
                                "length of a sequence, in tokens");
  flags.integer<std::ptrdiff_t>("--micro-steps", o.micro_steps, 1, 1 << 16, "N",
                                "micro-steps in an optimizer step (gradient accumulation)");
  const auto not_negative = [](double x) {
    return x >= 0.0 && x <= std::numeric_limits<double>::max();
  };
  flags.real(
      "--learning-rate", o.learning_rate, "(0, 1]", [](double x) { return x > 0.0 && x <= 1.0; },
      "X", "peak learning rate of AdamW");
  flags.choice("--schedule", o.schedule, schedules,
               "how the learning rate moves after the warm-up: down along a cosine or a line, not "
               "at all, or down along a line in the last --decay steps alone");
  given.final_learning_rate = flags.real(
      "--final-learning-rate", o.final_learning_rate, "[0, 1]",
      [](double x) { return x >= 0.0 && x <= 1.0; }, "X",
      "where the schedule ends, as a share of the peak");
  given.decay = flags.integer<std::uint64_t>("--decay", o.decay, 0, count_limit, "N",
                                             "last steps of --schedule wsd, in which it falls",
                                             "0, a tenth of the steps");
  flags.real(
      "--weight-decay", o.weight_decay, "[0, 1]", [](double x) { return x >= 0.0 && x <= 1.0; },
      "X",
      "decoupled weight decay of AdamW, multiplied by the learning rate; it applies to all "
      "matrices, including the embedding and the output layer, but not to norms, as in Hugging "
      "Face's trainer");
  flags.integer<std::uint64_t>("--warmup", o.warmup, 0, count_limit, "N",
                               "steps over which the learning rate rises to its peak");
  flags.real("--grad-clip", o.grad_clip, "[0, infinity)", not_negative, "X",
             "largest global norm of the gradients; 0 is no limit");
  flags.integer<std::uint64_t>("--seed", o.seed, 0, std::numeric_limits<std::uint64_t>::max(), "N",
                               "seed of the initial weights, the batches and the drop plans");
  flags.choice("--device", o.device, devices,
               "where to compute; cuda needs a program built with CUDA and an NVIDIA GPU");
  flags.choice("--precision", o.precision, precisions,
               "precision of weights and activations; bfloat16 keeps float32 for sums and the "
               "optimizer; auto is float32 on the CPU and bfloat16 on a GPU");
  flags.integer<int>("--threads", o.threads, 0, 4096, "N",
                     "number of threads; the results do not depend on it", "0, all cores");

  flags.group("Validation");
  flags.integer<std::uint64_t>("--eval-every", o.eval_every, 0, count_limit, "N",
                               "steps between validations; with 0 only at the end");
  flags.integer<std::ptrdiff_t>("--eval-batches", o.eval_batches, 1, 1 << 20, "N",
                                "batches in a validation");
  flags.integer<std::uint64_t>("--early-stopping", o.early_stopping, 0, count_limit, "N",
                               "end after so many validation losses in a row that are no new best",
                               "0, never");
  flags.toggle("--best", o.best,
               "write the weights of the best validation loss, not the last ones; they are kept "
               "in --checkpoint");
  flags.integer<std::uint64_t>("--sample-every", o.sample_every, 0, count_limit, "N",
                               "steps between completions of --sample-prompt that are printed",
                               "0, none");
  flags.text("--sample-prompt", o.sample_prompt, "TEXT",
             "what they begin with [default a line's end]");
  flags.integer<std::ptrdiff_t>("--sample-tokens", o.sample_tokens, 1, size_limit, "N",
                                "most tokens of a completion");

  flags.group("Dropping");
  flags.real(
      "--drop-rate", o.drop_rate, "[0, 1]", [](double x) { return x >= 0.0 && x <= 1.0; }, "P",
      "share of the branches' backward FLOPs to drop; 0 is ordinary training");
  flags.choice("--allocation", o.allocation, allocations,
               "uniform gives all branches the same rate; greedy (as published, at most 0.9 on "
               "average) and optimal (smallest sum of sensitivity times squared rate) give "
               "sensitive branches lower rates");
  given.sampling =
      flags.choice("--sampling", o.sampling, samplings,
                   "bernoulli draws independently; at-least-target is the published sampler, which "
                   "then drops more branches until the target is reached; fixed-budget stays "
                   "within one branch of the target's FLOPs");
  flags.choice("--sensitivity", o.sensitivity, sensitivities,
               "how a branch's sensitivity is measured: gradient-norm and gradient are sums over "
               "all parameters from extra passes; running is taken from the training steps, over "
               "the branch's own parameters");
  flags.integer<std::ptrdiff_t>("--sensitivity-samples", o.sensitivity_samples, 1, 1 << 16, "N",
                                "sequences of the batch that a measurement averages over");
  flags.real(
      "--allocate-at", o.allocate_at, "[0, 1]", [](double x) { return x >= 0.0 && x <= 1.0; }, "X",
      "when rates are first allocated by sensitivity, as a fraction of the steps");
  flags.integer<std::uint64_t>("--reallocate-every", o.reallocate_every, 0, count_limit, "N",
                               "steps between further allocations; 0 is a tenth of all steps for "
                               "running sensitivities and never for measured ones");
  flags.integer<std::uint64_t>("--drop-warmup", o.drop_warmup, 0, count_limit, "N",
                               "steps over which the drop rates grow from 0");
  flags.choice("--gradient-scaling", o.gradient_scaling, scalings,
               "whether gradients of kept branches are divided by 1 - rate, to compensate for the "
               "steps in which the branch is dropped");
  flags.real("--activation-budget", o.activation_budget_mib, "[0, infinity)", not_negative, "MIB",
             "largest memory, in MiB, that kept branches may save for their backward passes in a "
             "step: rates are raised until all plans fit; requires and implies --sampling "
             "fixed-budget; 0 is no limit");
  flags.toggle(
      "--recompute", o.recompute,
      "kept branches save only their input and recompute the rest in the backward pass: less "
      "memory, more time, the same losses (with --activation-budget, other branches may be kept)");
  flags.group("Output");
  flags.path("--out", o.out, "DIR",
             "folder for the trained model in the format of --model or, with --mode lora or qlora, "
             "for the adapter in the format of --adapter [default none, not saved]");
  given.adapters.push_back(flags.path(
      "--merge-out", o.merge_out, "DIR",
      "folder for the model with its adapter merged, in the format of --model [default none]"));
  given.out_dtype = flags.choice("--out-dtype", o.out_dtype, out_dtypes,
                                 "type of the numbers in --out and --merge-out",
                                 "the type of --model for a model, else f32");
  given.out_format =
      flags.choice("--out-format", o.out_format, out_formats,
                   "how a model is written to --out or --merge-out: a Hugging Face folder, or "
                   "with its tokenizer as the file model.gguf in it, which llama.cpp runs");
  given.max_shard_size = flags.integer<std::uint64_t>(
      "--max-shard-size", o.max_shard_size, 1, std::numeric_limits<std::uint64_t>::max(), "BYTES",
      "largest weight file; larger models are written as several files with an index");
  flags.path("--checkpoint", o.checkpoint, "DIR",
             "folder for training checkpoints; the two newest are kept [default none, not saved]");
  given.checkpoint_every =
      flags.integer<std::uint64_t>("--checkpoint-every", o.checkpoint_every, 0, count_limit, "N",
                                   "steps between checkpoints; one is also written at the end and "
                                   "on an interrupt; with 0 only these");
  flags.toggle("--resume", o.resume,
               "continue from the newest intact checkpoint in --checkpoint, with the same bits as "
               "an uninterrupted run; start from the beginning if there is none");
  flags.path("--report", o.report, "FILE",
             "JSON file for the settings and each step's results [default none]");
  flags.path("--plot", o.plot, "FILE",
             "file ending in .svg for a plot of the losses, drawn by gnuplot [default none]");
  flags.path("--html", o.html, "FILE",
             "file for the report as one page to look at: losses, drop rates by branch, memory, "
             "savings [default none]");
  flags.path("--metrics", o.metrics, "FILE",
             "file ending in .csv or .jsonl that gets a line after each step [default none]");
  flags.toggle("--baseline", o.baseline,
               "also train the same model on the same batches without dropping, alternating step "
               "by step, and compare");
  flags.integer<std::uint64_t>("--log-every", o.log_every, 1, count_limit, "N",
                               "steps between log lines where there is no progress bar");
  flags.choice("--progress", o.progress, progresses,
               "progress bar; auto shows it on a terminal only, never prints plain lines");
  flags.toggle("--quiet", o.quiet, "print no progress");
  return given;
}

/// The name of the first of them on the command line; empty for none.
std::string first_of(const std::vector<CLI::Option*>& options) {
  const auto found =
      std::ranges::find_if(options, [](const auto* one) { return one->count() > 0; });
  return found == options.end() ? std::string() : (*found)->get_name();
}

/// The sizes of a new model, completed from other options.
LlamaConfig shape_of(const Options& o) {
  LlamaConfig shape = o.shape;
  if (shape.kv_heads == 0) shape.kv_heads = shape.heads;
  shape.max_positions = std::max(shape.max_positions, o.sequence);
  return shape;
}

bool adapters_train(const Options& o) { return o.mode != ModeChoice::full; }

/// A combination that is refused.
struct Rule {
  bool (*broken)(const Options& o, const Given& given);
  std::string_view text;  ///< the message; "{}" stands for `detail`
  std::string (*detail)(const Options& o, const Given& given) = nullptr;
};

/// Checked in this order; the first broken rule is reported.
constexpr Rule rules[] = {
    {[](const Options& o, const Given&) { return o.data && o.tokens; },
     "training data come from --data or from --tokens, but both were given; leave one out"},
    {[](const Options& o, const Given&) { return o.tokenizer && o.tokens; },
     "--tokenizer encodes text, but --tokens, which holds ids, was given too; leave one of the two "
     "out"},
    {[](const Options&, const Given& given) {
       return given.steps->count() > 0 && given.epochs->count() > 0;
     },
     "--steps and --epochs both say how long to train, but both were given; leave one out"},
    {[](const Options& o, const Given& given) {
       return o.tokens && !first_of(given.of_samples).empty();
     },
     "{} is about samples, but --tokens with ids was given; give JSON lines with --data, or leave "
     "it "
     "out",
     [](const Options&, const Given& given) { return first_of(given.of_samples); }},
    {[](const Options& o, const Given& given) {
       return given.token_type->count() > 0 && !o.tokens;
     },
     "--token-type is the type of the ids in --tokens, but no --tokens was given; add it or leave "
     "--token-type out"},
    {[](const Options& o, const Given&) {
       return o.tokens && o.token_type == TokenType::automatic && o.tokens->extension() != ".u16" &&
              o.tokens->extension() != ".i32";
     },
     "the type of token ids must be known from the extension .u16 or .i32, but the file is '{}'; "
     "add --token-type u16 or i32",
     [](const Options& o, const Given&) { return o.tokens->string(); }},
    {[](const Options& o, const Given& given) { return o.model && !first_of(given.shape).empty(); },
     "with --model the sizes come from its config.json, but {} was given too; leave one of the two "
     "out",
     [](const Options&, const Given& given) { return first_of(given.shape); }},
    {[](const Options& o, const Given& given) {
       return !o.model && o.tokens && given.vocabulary->count() == 0;
     },
     "a model for --tokens needs the size of their vocabulary, but neither --vocabulary nor "
     "--model "
     "was given; add one of them"},
    {[](const Options& o, const Given&) {
       return !o.model && !o.tokens && !o.tokenizer && o.shape.vocabulary < 256;
     },
     "text is read as bytes, so the vocabulary must be at least 256, but --vocabulary {} was "
     "given; "
     "leave it out",
     [](const Options& o, const Given&) { return fmt::format("{}", o.shape.vocabulary); }},
    {[](const Options& o, const Given& given) {
       return !adapters_train(o) && !first_of(given.adapters).empty();
     },
     "{} applies to adapters, but --mode full trains all weights and has none; add --mode lora or "
     "qlora",
     [](const Options&, const Given& given) { return first_of(given.adapters); }},
    {[](const Options& o, const Given& given) {
       return o.adapter && !first_of(given.adapter_shape).empty();
     },
     "with --adapter its adapter_config.json decides, but {} was given too; leave one of the two "
     "out",
     [](const Options&, const Given& given) { return first_of(given.adapter_shape); }},
    {[](const Options& o, const Given& given) {
       return given.out_dtype->count() > 0 && !o.out && !o.merge_out;
     },
     "--out-dtype is the type of the numbers in --out and --merge-out, but neither --out nor "
     "--merge-out was given; add one or leave --out-dtype out"},
    {[](const Options& o, const Given& given) {
       return given.max_shard_size->count() > 0 && !o.merge_out && (!o.out || adapters_train(o));
     },
     "--max-shard-size applies to a model that is written, but neither --merge-out nor, with "
     "--mode "
     "full, --out was given; add one or leave --max-shard-size out"},
    {[](const Options& o, const Given&) { return adapters_train(o) && !o.model && o.adapter; },
     "an adapter belongs to the model that it was trained on, but --adapter '{}' was given without "
     "--model; add that model",
     [](const Options& o, const Given&) { return o.adapter->string(); }},
    {[](const Options& o, const Given&) { return adapters_train(o) && !o.model && o.out; },
     "an adapter is usable only with its base model, but --out with --mode {} was given without "
     "--model, so the base is random weights that are not saved; add --model, or write the whole "
     "model with --merge-out instead",
     [](const Options& o, const Given&) { return std::string(name_of(o.mode)); }},
    {[](const Options& o, const Given& given) {
       return (o.resume || given.checkpoint_every->count() > 0) && !o.checkpoint;
     },
     "{} needs the folder of the checkpoints, but no --checkpoint was given; add it",
     [](const Options& o, const Given&) {
       return std::string(o.resume ? "--resume" : "--checkpoint-every");
     }},
    {[](const Options& o, const Given&) { return o.checkpoint && o.baseline; },
     "a checkpoint holds one run, but --baseline, which trains a second one, was given with "
     "--checkpoint; leave one of them out"},
    {[](const Options&, const Given& given) {
       return given.lora_targets->count() > 0 && given.lora_targets_pattern->count() > 0;
     },
     "--lora-targets and --lora-targets-pattern both choose the maps with adapters, but both were "
     "given; leave one out"},
    {[](const Options& o, const Given&) { return o.dora && o.device != DeviceChoice::cpu; },
     "--dora is computed on the CPU, but --device {} was given; leave one of them out",
     [](const Options& o, const Given&) { return std::string(name_of(o.device)); }},
    {[](const Options& o, const Given&) {
       return o.dora && o.precision == PrecisionChoice::bfloat16;
     },
     "--dora is computed in float32, but --precision bfloat16 was given; leave one of them out"},
    {[](const Options& o, const Given&) { return o.dora && o.lora_dropout.value_or(0.0) > 0.0; },
     "--dora takes the adapters' inputs as they are, but --lora-dropout was given too; leave one "
     "of them out"},
    {[](const Options& o, const Given& given) {
       return given.decay->count() > 0 && o.schedule != ScheduleChoice::wsd;
     },
     "--decay is of --schedule wsd, but the schedule is {}; add --schedule wsd or leave --decay "
     "out",
     [](const Options& o, const Given&) { return std::string(name_of(o.schedule)); }},
    {[](const Options& o, const Given& given) {
       return given.final_learning_rate->count() > 0 && o.schedule == ScheduleChoice::constant;
     },
     "--final-learning-rate is where a schedule ends, but --schedule constant was given, which "
     "stays at the peak; leave one of them out"},
    {[](const Options& o, const Given&) {
       return (o.early_stopping > 0 || o.best) && o.validation_fraction == 0.0;
     },
     "{} needs a held-out part for the validation losses, but --validation-fraction is 0; raise "
     "it",
     [](const Options& o, const Given&) {
       return std::string(o.best ? "--best" : "--early-stopping");
     }},
    {[](const Options& o, const Given&) { return o.early_stopping > 0 && o.eval_every == 0; },
     "--early-stopping looks at the validation losses, but with --eval-every 0 there is one at the "
     "end alone; raise it"},
    {[](const Options& o, const Given&) { return o.best && !o.checkpoint; },
     "--best keeps the best weights in the folder of the checkpoints, but no --checkpoint was "
     "given; add it"},
    {[](const Options& o, const Given&) { return o.sample_every == 0 && !o.sample_prompt.empty(); },
     "--sample-prompt is completed after every so many steps, but --sample-every was not given; "
     "add it"},
    {[](const Options& o, const Given& given) {
       return o.out_format == OutFormatChoice::gguf && given.max_shard_size->count() > 0;
     },
     "--max-shard-size is about safetensors, but --out-format gguf was given, which is one file; "
     "leave it out"},
    {[](const Options& o, const Given& given) {
       return given.out_format->count() > 0 && !o.merge_out && (!o.out || adapters_train(o));
     },
     "--out-format is how a model is written, but neither --merge-out nor, with --mode full, --out "
     "was given; add one or leave --out-format out"},
    {[](const Options& o, const Given&) {
       return o.metrics && o.metrics->extension() != ".csv" && o.metrics->extension() != ".jsonl";
     },
     "--metrics writes CSV or JSON lines, so its file must end in .csv or .jsonl, but '{}' was "
     "given; rename it",
     [](const Options& o, const Given&) { return o.metrics->string(); }},
    {[](const Options& o, const Given&) { return (o.plot || o.html) && o.steps == 0; },
     "{} draws the losses of the steps, but --steps 0 was given; leave one of them out",
     [](const Options& o, const Given&) { return std::string(o.plot ? "--plot" : "--html"); }},
    {[](const Options& o, const Given&) { return o.plot && o.plot->extension() != ".svg"; },
     "--plot writes SVG, so its file must end in .svg, but {}",
     [](const Options& o, const Given&) {
       return fmt::format("'{}' was given; try --plot {}", o.plot->string(),
                          std::filesystem::path(*o.plot).replace_extension(".svg").string());
     }},
    {[](const Options& o, const Given&) { return problem_of(shape_of(o)).has_value(); }, "{}",
     [](const Options& o, const Given&) { return *problem_of(shape_of(o)); }},
    {[](const Options& o, const Given& given) {
       return o.activation_budget_mib > 0.0 && given.sampling->count() > 0 &&
              o.sampling != SamplingChoice::fixed_budget;
     },
     "--activation-budget needs --sampling fixed-budget, but --sampling {} was given; leave "
     "--sampling out",
     [](const Options& o, const Given&) { return std::string(name_of(o.sampling)); }},
    {[](const Options& o, const Given&) { return o.sensitivity_samples > o.batch; },
     "--sensitivity-samples are taken from one batch, so they must be at most --batch {} were "
     "given; lower them or raise --batch",
     [](const Options& o, const Given&) {
       return fmt::format("({}), but {}", o.batch, o.sensitivity_samples);
     }},
    // The published allocation limits each rate to 0.9, so the average cannot be higher.
    {[](const Options& o, const Given&) {
       return o.allocation == AllocationChoice::greedy && o.drop_rate > 0.9;
     },
     "--drop-rate must be at most 0.9 with --allocation greedy, but it is {}; lower it or use "
     "--allocation optimal",
     [](const Options& o, const Given&) { return fmt::format("{}", o.drop_rate); }},
};

constexpr bool details_have_places() {
  return std::ranges::all_of(rules, [](const Rule& rule) {
    const std::size_t first = rule.text.find("{}");
    const bool one =
        first != std::string_view::npos && rule.text.find('{', first + 1) == std::string_view::npos;
    return rule.detail != nullptr ? one : rule.text.find('{') == std::string_view::npos;
  });
}
static_assert(details_have_places());

void check_combinations(const Options& o, const Given& given) {
  for (const Rule& rule : rules) {
    if (!rule.broken(o, given)) continue;
    throw UsageError(rule.detail != nullptr
                         ? fmt::format(fmt::runtime(rule.text), rule.detail(o, given))
                         : std::string(rule.text));
  }
}

/// Sets the options that follow from others.
void complete(Options& o, const Given& given) {
  o.shape = shape_of(o);
  o.vocabulary_of_tokenizer = !o.model && o.tokenizer && given.vocabulary->count() == 0;
  if (o.precision == PrecisionChoice::automatic)
    o.precision =
        o.device == DeviceChoice::cpu ? PrecisionChoice::float32 : PrecisionChoice::bfloat16;
  if (o.activation_budget_mib > 0.0) o.sampling = SamplingChoice::fixed_budget;
}

/// "; did you mean --steps?" for the first unknown option; empty if no known option is similar.
std::string meant_option(const CLI::App& app) {
  std::vector<std::string> options;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) options.push_back(name);
  const std::vector<std::string_view> names(options.begin(), options.end());
  for (const std::string& word : app.remaining()) {
    if (!word.starts_with('-')) continue;
    const std::size_t first = std::min(word.find_first_not_of('-'), word.size());
    const std::string_view typed =
        std::string_view(word).substr(first, std::min(word.find('='), word.size()) - first);
    const std::string_view meant = nearest(typed, names);
    return meant.empty() ? "" : fmt::format("; did you mean --{}?", meant);
  }
  return "";
}

}  // namespace

std::string_view name_of(TokenType choice) noexcept { return find_name(token_types, choice); }
std::string_view name_of(LossChoice choice) noexcept { return find_name(losses, choice); }
std::string_view name_of(LongSamples choice) noexcept { return find_name(long_samples, choice); }
std::string_view name_of(ModeChoice choice) noexcept { return find_name(modes, choice); }
std::string_view name_of(AllocationChoice choice) noexcept {
  return find_name(allocations, choice);
}
std::string_view name_of(SamplingChoice choice) noexcept { return find_name(samplings, choice); }
std::string_view name_of(SensitivityChoice choice) noexcept {
  return find_name(sensitivities, choice);
}
std::string_view name_of(ScalingChoice choice) noexcept { return find_name(scalings, choice); }
std::string_view name_of(ProgressChoice choice) noexcept { return find_name(progresses, choice); }
std::string_view name_of(DeviceChoice choice) noexcept { return find_name(devices, choice); }
std::string_view name_of(PrecisionChoice choice) noexcept { return find_name(precisions, choice); }
std::string_view name_of(ScheduleChoice choice) noexcept { return find_name(schedules, choice); }
std::string_view name_of(OutFormatChoice choice) noexcept { return find_name(out_formats, choice); }

std::vector<std::string> warnings_of(const Options& o, std::ptrdiff_t processors) {
  std::vector<std::string> warnings;
  if (o.drop_rate == 1.0 && o.steps > 0)
    warnings.push_back(fmt::format(
        "--drop-rate 1 drops the backward pass of every branch{}, so {}; lower it to train the "
        "blocks",
        o.drop_warmup > 0 ? " after the --drop-warmup" : "",
        o.mode == ModeChoice::full
            ? "only the embedding, the final norm and the output layer are trained"
        : o.modules_to_save.empty()
            ? "nothing is trained, because all adapters are in branches"
            : "only what --modules-to-save names outside of them is trained"));
  if (o.threads > processors)
    warnings.push_back(
        fmt::format("--threads {} is more than the machine's {} processors: threads then wait for "
                    "each other and steps take longer; leave it out for one thread per processor",
                    o.threads, processors));
  return warnings;
}

CommandLine parse_options(int argc, const char* const* argv, std::string_view version) {
  CLI::App app(
      "Trains a LLaMA-style model, dropping the backward pass of random branches (DropBP).",
      "llama-finetune");
  app.set_version_flag("--version", fmt::format("llama-finetune {}", version),
                       "print the version and exit")
      ->group("Help");
  app.set_help_flag("-h,--help", "print this and exit")->group("Help");
  app.footer(
      "Exit code: 0 success, 1 a file or the machine failed, 2 wrong usage; 130 after Ctrl-C, 143 "
      "after SIGTERM, 129 after SIGHUP. These signals stop the run after the current step, and the "
      "checkpoint and the outputs are still written; a second Ctrl-C ends it at once. If the "
      "terminal or pipe is closed, printing stops, but training goes on and the exit code does not "
      "change. If a result cannot be printed for another reason (such as a full disk), the exit "
      "code is 1, and all files are written first.\n"
      "Example: llama-finetune --steps 300 --drop-rate 0 --out base && llama-finetune --model base "
      "--drop-rate 0.5 "
      "--report run.json");
  Options options;
  Flags::Conversions conversions;
  const Given given = declare(app, conversions, options);
  const RunFile run_file(app);
  try {
    app.parse(argc, argv);
    if (const auto shell = run_file.completion()) return {std::nullopt, 0, *shell};
    for (const auto& convert_one : conversions) convert_one();
    check_combinations(options, given);
    complete(options, given);
    if (run_file.asked()) return {std::nullopt, 0, run_file.text()};
  } catch (const CLI::CallForHelp&) {
    return {std::nullopt, 0, app.help()};
  } catch (const CLI::CallForVersion& version_line) {
    return {std::nullopt, 0, fmt::format("{}\n", version_line.what())};
  } catch (const CLI::FileError& error) {
    return {std::nullopt, 2, run_file.missing(error.what())};
  } catch (const CLI::Error& error) {
    return {std::nullopt, 2,
            fmt::format("llama-finetune: the command line must consist of known options with one "
                        "value each, but: {}{}; "
                        "see llama-finetune --help\n",
                        error.what(), meant_option(app))};
  } catch (const UsageError& error) {
    return {std::nullopt, 2, fmt::format("llama-finetune: {}\n", error.what())};
  }
  return {std::move(options), 0, {}};
}

}  // namespace llama
