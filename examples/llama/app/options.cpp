// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// CLI11 splits the line and lays out the help; values are converted here, so that every message has
// the same three parts.
#include "llama/app/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <limits>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "llama/app/errors.hpp"
#include "llama/formats/adapter.hpp"

namespace llama {
namespace {

template <typename Choice>
struct Named {
  Choice choice;
  std::string_view name;
};
template <typename Choice>  // clang++ 14 deduces no aggregates by itself
Named(Choice, std::string_view) -> Named<Choice>;

constexpr std::array token_types{Named{TokenType::automatic, "auto"}, Named{TokenType::u16, "u16"},
                                 Named{TokenType::i32, "i32"}};
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
constexpr std::array out_dtypes{Named{DType::f32, "f32"}, Named{DType::f16, "f16"},
                                Named{DType::bf16, "bf16"}};

template <typename Table, typename Choice>
std::string_view find_name(const Table& table, Choice choice) noexcept {
  for (const auto& row : table) {
    if (row.choice == choice) return row.name;
  }
  return "?";
}

constexpr std::uint64_t count_limit =
    1'000'000'000;  // steps; far beyond any run, far from overflow

// Letters that differ, are missing, too many or swapped with their neighbour; case does not count.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  std::vector<std::size_t> before, last, now(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) now[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before = std::exchange(last, now);
    now[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const auto same = [&](std::size_t k, std::size_t l) { return lower(a[k]) == lower(b[l]); };
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + !same(i - 1, j - 1)});
      if (i > 1 && j > 1 && same(i - 1, j - 2) && same(i - 2, j - 1))
        now[j] = std::min(now[j], before[j - 2] + 1);
    }
  }
  return now.back();
}

/// The name that `text` may have meant; empty where none is near.
std::string_view nearest(std::string_view text, std::span<const std::string_view> names) {
  std::size_t best = 2 + text.size() / 4;  // not near any more
  std::string_view found;
  for (const std::string_view name : names) {
    const std::size_t distance = edit_distance(text, name);
    if (distance < std::min(best, name.size())) best = distance, found = name;
  }
  return found;
}

template <typename Number>
std::optional<Number> convert(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Adds options to the app; each conversion throws UsageError with the flag, the range and the
/// value. Conversions are only collected during the parse and run after it, so that --help is
/// obeyed behind a wrong value too.
class Flags {
 public:
  using Conversions = std::vector<std::function<void()>>;

  Flags(CLI::App& app, Conversions& conversions) : app_(app), conversions_(conversions) {}

  void group(std::string name) { group_ = std::move(name); }

  CLI::Option* path(const std::string& flag, std::optional<std::filesystem::path>& target,
                    const char* type, const std::string& help) {
    return add(flag, type, help, [flag, &target](const std::string& text) {
      if (text.empty())
        throw UsageError(fmt::format(
            "{} must be a path, but it is empty; give the name of a file or folder", flag));
      // An empty value, as of --out=$UNSET, takes the next word.
      if (text.starts_with("--"))
        throw UsageError(
            fmt::format("{} must be a path, but '{}' was given, which reads as an option; give a "
                        "path after {}, ./{} for a file of that name",
                        flag, text, flag, text));
      target = text;
    });
  }

  template <typename Integer>
  CLI::Option* integer(const std::string& flag, Integer& target, Integer low, Integer high,
                       const char* unit, const std::string& help, const std::string& zero = {}) {
    const std::string shown = target == 0 && !zero.empty() ? zero : fmt::format("{}", target);
    return add(flag, unit, fmt::format("{} [default {}]", help, shown),
               [=, &target](const std::string& text) {
                 const auto value = convert<Integer>(text);
                 if (!value || *value < low || *value > high) {
                   throw UsageError(fmt::format(
                       "{} must be a whole number from {} to {}, but '{}' was given; try {} {}",
                       flag, low, high, text, flag, std::max(target, low)));
                 }
                 target = *value;
               });
  }

  /// Interval as written in the message, "[0, 1]"; `inside` decides and is false for NaN. `none`
  /// says what an empty optional stands for.
  template <typename Inside, typename Target>
  CLI::Option* real(const std::string& flag, Target& target, const char* interval, Inside inside,
                    const char* unit, const std::string& help, const std::string& none = {}) {
    const double shown = std::optional<double>(target).value_or(0.0);
    return add(
        flag, unit,
        fmt::format("{} [default {}]", help, none.empty() ? fmt::format("{}", shown) : none),
        [=, &target](const std::string& text) {
          const auto value = convert<double>(text);
          if (!value || !inside(*value))
            throw UsageError(fmt::format("{} must be a number in {}, but '{}' was given; try {} {}",
                                         flag, interval, text, flag, shown));
          target = *value;
        });
  }

  /// `none` says what an empty optional stands for.
  template <typename Choice, std::size_t Size, typename Target>
  CLI::Option* choice(const std::string& flag, Target& target,
                      const std::array<Named<Choice>, Size>& table, const std::string& help,
                      const std::string& none = {}) {
    std::vector<std::string_view> names;
    for (const auto& row : table) names.push_back(row.name);
    const std::string all = fmt::format("{}", fmt::join(names, "|"));
    const std::string_view shown =
        none.empty() ? find_name(table, std::optional<Choice>(target).value_or(table[0].choice))
                     : std::string_view(none);
    return add(flag, all.c_str(), fmt::format("{} [default {}]", help, shown),
               [=, &target](const std::string& text) {
                 for (const auto& row : table) {
                   if (row.name == text) {
                     target = row.choice;
                     return;
                   }
                 }
                 const std::string_view meant = nearest(text, names);
                 throw UsageError(
                     fmt::format("{} must be one of {}, but '{}' was given; {}", flag, all, text,
                                 meant.empty() ? fmt::format("try {} {}", flag, table[0].name)
                                               : fmt::format("did you mean {} {}?", flag, meant)));
               });
  }

  /// Names out of `known`, separated by commas.
  CLI::Option* names(const std::string& flag, std::vector<std::string>& target,
                     std::span<const std::string_view> known, const std::string& help) {
    return add(flag, "NAMES", help, [=, &target](const std::string& text) {
      target.clear();
      for (std::size_t begin = 0; begin <= text.size();) {
        const std::size_t end = std::min(text.find(',', begin), text.size());
        const std::string name = text.substr(begin, end - begin);
        if (std::ranges::find(known, name) == known.end()) {
          const std::string_view meant = nearest(name, known);
          throw UsageError(
              fmt::format("{} must be some of {}, separated by commas, but '{}' was given; {}",
                          flag, fmt::join(known, ", "), text,
                          meant.empty() ? fmt::format("try {} {}", flag, fmt::join(known, ","))
                                        : fmt::format("did you mean {}?", meant)));
        }
        target.push_back(name);
        begin = end + 1;
      }
    });
  }

  CLI::Option* toggle(const std::string& flag, bool& target, const std::string& help) {
    return app_.add_flag(flag, target, help + " [default off]")->group(group_);
  }

 private:
  template <typename Function>
  CLI::Option* add(const std::string& flag, const char* type, const std::string& help,
                   Function function) {
    const auto collect = [&conversions = conversions_, function](const std::string& text) {
      conversions.push_back([=] { function(text); });
    };
    return app_.add_option_function<std::string>(flag, collect, help)
        ->type_name(type)
        ->group(group_);
  }

  CLI::App& app_;
  Conversions& conversions_;
  std::string group_;
};

/// Flags whose combination is checked after the parse.
struct Special {
  CLI::Option* token_type;
  CLI::Option* vocabulary;
  CLI::Option* sampling;
  std::vector<CLI::Option*> adapters;       ///< that need --mode lora or qlora
  std::vector<CLI::Option*> adapter_shape;  ///< that --adapter decides
  CLI::Option* out_dtype;
  CLI::Option* max_shard_size;
  CLI::Option* checkpoint_every;
  std::vector<CLI::Option*> shape;
};

Special declare(CLI::App& app, Flags::Conversions& conversions, Options& o) {
  Flags flags(app, conversions);
  Special special{};
  constexpr std::ptrdiff_t size_limit = 1 << 20;
  const auto shape = [&](const char* flag, std::ptrdiff_t& target, const char* help,
                         std::ptrdiff_t low = 1, const char* zero = "") {
    special.shape.push_back(
        flags.integer<std::ptrdiff_t>(flag, target, low, size_limit, "N", help, zero));
  };

  flags.group("Data");
  flags.path("--data", o.data, "PATH",
             "text to train on, a file or a folder of documents; without a tokenizer it is bytes "
             "(256 ids) [default the C++ standard library's headers]");
  flags.path("--tokens", o.tokens, "FILE",
             "raw little-endian token ids to train on, instead of text [default none]");
  special.token_type =
      flags.choice("--token-type", o.token_type, token_types,
                   "type of the ids in --tokens, auto by the extension .u16 or .i32");
  flags.path("--tokenizer", o.tokenizer, "FILE",
             "tokenizer.json (byte-level BPE) that makes ids of the text, without adding any at "
             "its ends [default that in the folder of --model or --adapter; without one, none]");
  flags.integer<std::uintmax_t>("--data-limit", o.data_limit_mib, 1, 1 << 16, "MIB",
                                "largest amount of text to read, in MiB");
  flags.real(
      "--validation-fraction", o.validation_fraction, "[0, 0.9]",
      [](double x) { return x >= 0.0 && x <= 0.9; }, "X",
      "part of the tokens, from the end, held out for the validation loss");

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
  special.vocabulary = flags.integer<std::ptrdiff_t>(
      "--vocabulary", o.shape.vocabulary, 1, size_limit, "N",
      "token ids are below this; needed with --tokens, and with --tokenizer its own by itself");
  special.shape.push_back(special.vocabulary);
  special.shape.push_back(flags.toggle("--tie-embeddings", o.shape.tie_embeddings,
                                       "use the embedding as output layer too"));

  flags.group("Adapters");
  flags.choice("--mode", o.mode, modes,
               "what trains: all weights; low-rank adapters (LoRA) over frozen weights; the same "
               "over weights in 4 bits (QLoRA, NF4)");
  const auto adapters = [&](CLI::Option* option) { special.adapters.push_back(option); };
  const auto adapter_shape = [&](CLI::Option* option) {
    adapters(option), special.adapter_shape.push_back(option);
  };
  adapters(flags.path("--adapter", o.adapter, "DIR",
                      "adapter folder in PEFT's format to start from, instead of the three below; "
                      "one that was written here must be of "
                      "the same base [default none, a fresh one]"));
  adapter_shape(flags.integer<std::ptrdiff_t>("--lora-rank", o.lora_rank, 1, 65536, "N",
                                              "rank of the adapters"));
  adapter_shape(flags.real(
      "--lora-alpha", o.lora_alpha, "(0, infinity)",
      [](double x) { return x > 0.0 && x <= std::numeric_limits<double>::max(); }, "X",
      "the adapters' outputs are multiplied by this over the rank"));
  adapter_shape(flags.names(
      "--lora-targets", o.lora_targets, ops::adaptable_linears,
      "linear maps with adapters, names separated by commas [default all seven of a block]"));
  adapters(flags.real(
      "--lora-dropout", o.lora_dropout, "[0, 1)", [](double x) { return x >= 0.0 && x < 1.0; }, "P",
      "share of the adapters' inputs that is dropped out in training",
      "0 or, with --adapter, that of its adapter_config.json"));

  flags.group("Training");
  flags.integer<std::uint64_t>("--steps", o.steps, 0, count_limit, "N",
                               "optimizer steps; 0 trains nothing: the model is validated and "
                               "written as it is, its adapter merged");
  flags.integer<std::ptrdiff_t>("--batch", o.batch, 1, 1 << 16, "N", "sequences of a micro-step");
  flags.integer<std::ptrdiff_t>("--sequence", o.sequence, 1, size_limit, "N",
                                "length of a sequence, in tokens");
  flags.integer<std::ptrdiff_t>("--micro-steps", o.micro_steps, 1, 1 << 16, "N",
                                "batches whose gradients make one optimizer step");
  const auto not_negative = [](double x) {
    return x >= 0.0 && x <= std::numeric_limits<double>::max();
  };
  flags.real(
      "--learning-rate", o.learning_rate, "(0, 1]", [](double x) { return x > 0.0 && x <= 1.0; },
      "X", "peak learning rate of AdamW; after the warm-up it falls to a tenth along a cosine");
  flags.real(
      "--weight-decay", o.weight_decay, "[0, 1]", [](double x) { return x >= 0.0 && x <= 1.0; },
      "X",
      "decoupled weight decay of AdamW, times the learning rate; of all matrices, embedding and "
      "output layer too, but not of norms, as Hugging Face's trainer");
  flags.integer<std::uint64_t>("--warmup", o.warmup, 0, count_limit, "N",
                               "steps over which the learning rate rises to its peak");
  flags.real("--grad-clip", o.grad_clip, "[0, infinity)", not_negative, "X",
             "largest global norm of the gradients; 0 is no limit");
  flags.integer<std::uint64_t>("--seed", o.seed, 0, std::numeric_limits<std::uint64_t>::max(), "N",
                               "random number that fixes weights, batches and drops");
  flags.choice("--device", o.device, devices,
               "where to compute; cuda needs a program built with it and a card");
  flags.choice("--precision", o.precision, precisions,
               "of weights and activations; auto is float32 on the CPU and bfloat16, with float32 "
               "for the optimizer, on a card");
  flags.integer<int>("--threads", o.threads, 0, 4096, "N",
                     "threads; the results do not depend on it", "0, all cores");
  flags.integer<std::uint64_t>("--eval-every", o.eval_every, 0, count_limit, "N",
                               "steps between validation losses; 0 is only at the end");
  flags.integer<std::ptrdiff_t>("--eval-batches", o.eval_batches, 1, 1 << 20, "N",
                                "batches of a validation loss");

  flags.group("Dropping");
  flags.real(
      "--drop-rate", o.drop_rate, "[0, 1]", [](double x) { return x >= 0.0 && x <= 1.0; }, "P",
      "share of the branches' backward FLOPs to drop; 0 is ordinary training");
  flags.choice("--allocation", o.allocation, allocations,
               "the same rate everywhere, or lower rates for sensitive branches: greedy as "
               "published (at most 0.9 on average), "
               "optimal at the smallest sum of sensitivity times rate squared");
  special.sampling = flags.choice("--sampling", o.sampling, samplings,
                                  "independent draws; the published sampler, which tops up to the "
                                  "target; or draws that stay within one branch "
                                  "of the target's FLOPs");
  flags.choice("--sensitivity", o.sensitivity, sensitivities,
               "what is measured on each branch, as the sum over all parameters; running takes it "
               "from the training steps "
               "themselves, for the branch's own ones");
  flags.integer<std::ptrdiff_t>("--sensitivity-samples", o.sensitivity_samples, 1, 1 << 16, "N",
                                "sequences of the batch that a measurement averages over");
  flags.real(
      "--allocate-at", o.allocate_at, "[0, 1]", [](double x) { return x >= 0.0 && x <= 1.0; }, "X",
      "when rates are allocated by sensitivity, as a fraction of the steps");
  flags.integer<std::uint64_t>("--reallocate-every", o.reallocate_every, 0, count_limit, "N",
                               "steps after which rates are allocated again; 0 is a tenth of all "
                               "for running sensitivities, never for "
                               "measured ones");
  flags.integer<std::uint64_t>("--drop-warmup", o.drop_warmup, 0, count_limit, "N",
                               "steps over which the drop rates grow from 0");
  flags.choice(
      "--gradient-scaling", o.gradient_scaling, scalings,
      "whether kept branches make up for dropped ones: their gradients are divided by 1 - rate");
  flags.real("--activation-budget", o.activation_budget_mib, "[0, infinity)", not_negative, "MIB",
             "largest memory, in MiB, that kept branches save for their backward passes in any "
             "step: rates are raised until "
             "all plans fit; needs --sampling fixed-budget and implies it; 0 is no limit");
  flags.toggle("--recompute", o.recompute,
               "kept branches save their input alone and compute the rest again in the backward "
               "pass: less memory, more time, the "
               "same losses (with --activation-budget other branches may be kept)");
  flags.group("Output");
  flags.path("--out", o.out, "DIR",
             "folder for the trained model, in the format of --model, or, with --mode lora and "
             "qlora, for the adapter, in that "
             "of --adapter [default none, not saved]");
  special.adapters.push_back(flags.path(
      "--merge-out", o.merge_out, "DIR",
      "folder for the model with its adapter merged, in the format of --model [default none]"));
  special.out_dtype = flags.choice("--out-dtype", o.out_dtype, out_dtypes,
                                   "type of the numbers in --out and --merge-out",
                                   "for a model that of --model, else f32");
  special.max_shard_size = flags.integer<std::uint64_t>(
      "--max-shard-size", o.max_shard_size, 1, std::numeric_limits<std::uint64_t>::max(), "BYTES",
      "models of more bytes of weights are written as several files with an index, of at most so "
      "many each");
  flags.path("--checkpoint", o.checkpoint, "DIR",
             "folder for checkpoints of the training itself, the two newest are kept [default "
             "none, not saved]");
  special.checkpoint_every =
      flags.integer<std::uint64_t>("--checkpoint-every", o.checkpoint_every, 0, count_limit, "N",
                                   "steps between checkpoints; one is also written at the end and "
                                   "when interrupted, with 0 only then");
  flags.toggle("--resume", o.resume,
               "go on from the newest intact checkpoint in --checkpoint, to the same bits as "
               "without the interruption; from "
               "the beginning if there is none");
  flags.path("--report", o.report, "FILE", "JSON file for every step's figures [default none]");
  flags.path("--plot", o.plot, "FILE",
             "file ending in .svg for a plot of the losses, drawn by gnuplot [default none]");
  flags.toggle("--baseline", o.baseline,
               "train the same model on the same batches without dropping too, step by step in "
               "turn, and compare");
  flags.integer<std::uint64_t>("--log-every", o.log_every, 1, count_limit, "N",
                               "steps between lines when there is no progress bar");
  flags.choice("--progress", o.progress, progresses,
               "progress bar; auto is on a terminal only, never is plain lines");
  flags.toggle("--quiet", o.quiet, "no progress at all");
  return special;
}

void check_combinations(Options& o, const Special& given) {
  if (o.data && o.tokens)
    throw UsageError(
        "--data and --tokens are two sources of the same thing, but both were given; leave one "
        "out");
  if (o.tokenizer && o.tokens)
    throw UsageError(
        "--tokenizer makes ids of text, but --tokens with ids was given too; leave one of the two "
        "out");
  if (given.token_type->count() > 0 && !o.tokens)
    throw UsageError(
        "--token-type is the type of the ids in --tokens, but no --tokens was given; add it or "
        "leave --token-type out");
  if (o.tokens && o.token_type == TokenType::automatic && o.tokens->extension() != ".u16" &&
      o.tokens->extension() != ".i32") {
    throw UsageError(
        fmt::format("the type of token ids must be known from the extension .u16 or .i32, but the "
                    "file is '{}'; add "
                    "--token-type u16 or i32",
                    o.tokens->string()));
  }
  if (o.model) {
    for (const CLI::Option* option : given.shape) {
      if (option->count() > 0)
        throw UsageError(
            fmt::format("with --model the sizes come from its config.json, but {} was given too; "
                        "leave one of the two out",
                        option->get_name()));
    }
  } else {
    if (o.tokens && given.vocabulary->count() == 0) {
      throw UsageError(
          "a model for --tokens needs the size of their vocabulary, but neither --vocabulary nor "
          "--model was given; "
          "add one of them");
    }
    o.vocabulary_of_tokenizer = o.tokenizer && given.vocabulary->count() == 0;
    if (!o.tokens && !o.tokenizer && o.shape.vocabulary < 256) {
      throw UsageError(
          fmt::format("text is read as bytes, so the vocabulary must be at least 256, but "
                      "--vocabulary {} was given; leave it out",
                      o.shape.vocabulary));
    }
  }
  if (o.precision == PrecisionChoice::automatic)
    o.precision =
        o.device == DeviceChoice::cpu ? PrecisionChoice::float32 : PrecisionChoice::bfloat16;
  if (o.device == DeviceChoice::cpu && o.precision == PrecisionChoice::bfloat16)
    throw UsageError(
        "the CPU computes in float32, but --precision bfloat16 was given; leave it out or add "
        "--device cuda");
  if (o.mode == ModeChoice::full) {
    for (const CLI::Option* option : given.adapters)
      if (option->count() > 0)
        throw UsageError(
            fmt::format("{} is about adapters, but --mode is full, where all weights train; add "
                        "--mode lora or qlora",
                        option->get_name()));
  }
  if (o.adapter) {
    for (const CLI::Option* option : given.adapter_shape)
      if (option->count() > 0)
        throw UsageError(
            fmt::format("with --adapter its adapter_config.json decides, but {} was given too; "
                        "leave one of the two out",
                        option->get_name()));
  }
  if (given.out_dtype->count() > 0 && !o.out && !o.merge_out)
    throw UsageError(
        "--out-dtype is the type of the numbers in --out and --merge-out, but neither --out nor "
        "--merge-out was given; add one or leave --out-dtype out");
  if (given.max_shard_size->count() > 0 && !o.merge_out && (!o.out || o.mode != ModeChoice::full))
    throw UsageError(
        "--max-shard-size is about the model that is written, but neither --merge-out nor, with "
        "--mode full, --out was given; add one or "
        "leave --max-shard-size out");
  if (o.mode != ModeChoice::full && !o.model) {
    if (o.adapter)
      throw UsageError(
          fmt::format("an adapter belongs to the model that it was trained on, but --adapter '{}' "
                      "was given without --model; add that model",
                      o.adapter->string()));
    if (o.out)
      throw UsageError(fmt::format(
          "an adapter is of use only with its base, but --out with --mode {} was given without "
          "--model, so that the base would be random weights that nobody saves; add --model, or "
          "write the whole model with --merge-out instead",
          name_of(o.mode)));
  }
  if ((o.resume || given.checkpoint_every->count() > 0) && !o.checkpoint)
    throw UsageError(
        fmt::format("{} needs the folder of the checkpoints, but no --checkpoint was given; add it",
                    o.resume ? "--resume" : "--checkpoint-every"));
  if (o.checkpoint && o.baseline)
    throw UsageError(
        "checkpoints are of one run, but --checkpoint and --baseline were given, which trains a "
        "second one; leave one of them out");
  if (o.plot && o.steps == 0)
    throw UsageError(
        "--plot draws the losses of the steps, but --steps 0 was given; leave one of them out");
  if (o.plot && o.plot->extension() != ".svg")
    throw UsageError(fmt::format(
        "--plot writes SVG, so its file must end in .svg, but '{}' was given; try "
        "--plot {}",
        o.plot->string(), std::filesystem::path(*o.plot).replace_extension(".svg").string()));
  if (o.shape.kv_heads == 0) o.shape.kv_heads = o.shape.heads;
  o.shape.max_positions = std::max(o.shape.max_positions, o.sequence);
  if (const auto problem = problem_of(o.shape)) throw UsageError(*problem);
  if (o.activation_budget_mib > 0.0) {
    if (given.sampling->count() > 0 && o.sampling != SamplingChoice::fixed_budget)
      throw UsageError(
          fmt::format("--activation-budget needs draws with a bound, but --sampling {} was given; "
                      "leave that out",
                      name_of(o.sampling)));
    o.sampling = SamplingChoice::fixed_budget;
  }
  if (o.sensitivity_samples > o.batch)
    throw UsageError(
        fmt::format("--sensitivity-samples are taken from one batch, so they must be at most "
                    "--batch ({}), but {} "
                    "were given; lower them or raise --batch",
                    o.batch, o.sensitivity_samples));
  // The published allocation raises no rate above 0.9, so no average above it can be reached.
  if (o.allocation == AllocationChoice::greedy && o.drop_rate > 0.9) {
    throw UsageError(
        fmt::format("--drop-rate must be at most 0.9 with --allocation greedy, but it is {}; lower "
                    "it or use --allocation optimal",
                    o.drop_rate));
  }
}

/// "; did you mean --steps?" for the first word that nothing took, where an option is near.
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

std::vector<std::string> warnings_of(const Options& o, std::ptrdiff_t processors) {
  std::vector<std::string> warnings;
  if (o.drop_rate == 1.0 && o.steps > 0)
    warnings.push_back(fmt::format(
        "--drop-rate 1 drops the backward pass of every branch{}, so {}; lower it to train the "
        "blocks",
        o.drop_warmup > 0 ? " after the --drop-warmup" : "",
        o.mode == ModeChoice::full ? "embedding, final norm and output layer alone train"
                                   : "nothing trains: adapters are in branches"));
  if (o.threads > processors)
    warnings.push_back(
        fmt::format("--threads {} is more than the machine's processors, {}: threads wait for "
                    "each other and steps take longer; leave it out for one on each",
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
      "Exit code: 0 done, 1 a file or the machine failed, 2 wrong usage; 130 after Ctrl-C, 143 "
      "after "
      "SIGTERM, 129 after SIGHUP: the step, the checkpoint and the outputs were completed first; a "
      "second Ctrl-C ends at once. A terminal or pipe that is closed ends the printing, not the "
      "training, and changes no exit code; a result that cannot be printed for another reason (no "
      "room) is 1, after all files were written.\n"
      "Example: llama-finetune --steps 300 --drop-rate 0 --out base && llama-finetune --model base "
      "--drop-rate 0.5 "
      "--report run.json");
  Options options;
  Flags::Conversions conversions;
  const Special special = declare(app, conversions, options);
  try {
    app.parse(argc, argv);
    for (const auto& convert_one : conversions) convert_one();
    check_combinations(options, special);
  } catch (const CLI::CallForHelp&) {
    return {std::nullopt, 0, app.help()};
  } catch (const CLI::CallForVersion& version_line) {
    return {std::nullopt, 0, fmt::format("{}\n", version_line.what())};
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
