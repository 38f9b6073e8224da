// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/option_flags.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

#include "llama/app/choices.hpp"

namespace llama {
namespace {

constexpr std::array<std::string_view, 4> saved_modules{"embed_tokens", "lm_head", "norm",
                                                        "model.norm"};
constexpr std::ptrdiff_t size_limit = 1 << 20;
constexpr std::uint64_t count_limit =
    1'000'000'000;  // steps; more than any run takes, and no product overflows

bool not_negative(double x) { return x >= 0.0 && x <= std::numeric_limits<double>::max(); }

void declare_data(Flags& flags, Given& given, Options& o) {
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
}

void declare_model(Flags& flags, Given& given, Options& o) {
  flags.group("Model");
  const auto shape = [&](const char* flag, std::ptrdiff_t& target, const char* help,
                         std::ptrdiff_t low = 1, const char* zero = "") {
    given.shape.push_back(
        flags.integer<std::ptrdiff_t>(flag, target, low, size_limit, "N", help, zero));
  };
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
}

void declare_adapters(Flags& flags, Given& given, Options& o) {
  flags.group("Adapters");
  flags.choice("--mode", o.mode, modes,
               "what is trained: all weights; low-rank adapters (LoRA) over frozen weights; or "
               "adapters over frozen weights in 4 bits (QLoRA, NF4)");
  flags.choice("--base-precision", o.base_precision, base_precisions,
               "how --mode lora keeps and multiplies the frozen weights of the blocks: fp8 takes 8 "
               "bits for weights and, in the forward pass, for what they are multiplied with, "
               "which is faster on GPUs of compute capability 8.9 and newer; auto is --precision "
               "or, with --mode qlora, 4 bits");
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
}

void declare_training(Flags& flags, Given& given, Options& o) {
  flags.group("Training");
  given.steps =
      flags.integer<std::uint64_t>("--steps", o.steps, 0, count_limit, "N",
                                   "optimizer steps; 0 trains nothing: the model is validated and "
                                   "written as it is, its adapter merged");
  given.epochs = flags.integer<std::uint64_t>(
      "--epochs", o.epochs, 1, count_limit, "N",
      "times that all samples are trained on, in place of --steps; of text as many tokens",
      "none, --steps decides");
  flags.integer<std::ptrdiff_t>("--batch", o.batch, 1, 1 << 16, "N",
                                "sequences of a micro-step; with mpirun, of each process");
  flags.integer<std::ptrdiff_t>("--sequence", o.sequence, 1, size_limit, "N",
                                "length of a sequence, in tokens");
  flags.integer<std::ptrdiff_t>("--micro-steps", o.micro_steps, 1, 1 << 16, "N",
                                "micro-steps in an optimizer step (gradient accumulation)");
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
  flags.toggle("--nondeterministic-attention", o.nondeterministic_attention,
               "with --device cuda, cuDNN may add the gradients of attention in any order: less "
               "memory, and two runs differ in their last bits");
  flags.integer<int>("--threads", o.threads, 0, 4096, "N",
                     "number of threads; the results do not depend on it",
                     "0, all cores, shared by the processes of mpirun");
  flags.real("--step-deadline", o.step_deadline, "[0, infinity)", not_negative, "SECONDS",
             "with mpirun: a step that takes longer, with the validation and the checkpoint after "
             "it, ends the job; 0 is no limit");
}

void declare_validation(Flags& flags, Options& o) {
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
}

void declare_dropping(Flags& flags, Given& given, Options& o) {
  flags.group("Dropping");
  flags.real_or_auto(
      "--drop-rate", o.drop_rate, o.drop_rate_auto, "[0, 1]",
      [](double x) { return x >= 0.0 && x <= 1.0; }, "P|auto",
      "share of the branches' backward FLOPs to drop; 0 is ordinary training; auto first tries "
      "which of 0, and 0.75 with --allocation depth, reaches the lower validation loss in the same "
      "time");
  given.allocation = flags.choice(
      "--allocation", o.allocation, allocations,
      "uniform gives all branches the same rate; greedy (as published, at most 0.9 on "
      "average), optimal (smallest sum of sensitivity times squared rate) and sharp (the same "
      "with the 4th power of the sensitivity, so that rates are close to 0 or 1) give "
      "sensitive branches lower rates; depth keeps the highest branches and never trains the "
      "lowest");
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
}

void declare_output(Flags& flags, Given& given, Options& o) {
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
}

}  // namespace

Given declare(CLI::App& app, Flags::Conversions& conversions, Options& o) {
  Flags flags(app, conversions);
  Given given{};
  declare_data(flags, given, o);
  declare_model(flags, given, o);
  declare_adapters(flags, given, o);
  declare_training(flags, given, o);
  declare_validation(flags, o);
  declare_dropping(flags, given, o);
  declare_output(flags, given, o);
  return given;
}

}  // namespace llama
