// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/option_rules.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>

#include "llama/app/errors.hpp"

namespace llama {

LlamaConfig shape_of(const Options& o) {
  LlamaConfig shape = o.shape;
  if (shape.kv_heads == 0) shape.kv_heads = shape.heads;
  shape.max_positions = std::max(shape.max_positions, o.sequence);
  return shape;
}

namespace {

/// The name of the first of them on the command line; empty for none.
std::string first_of(const std::vector<CLI::Option*>& options) {
  const auto found =
      std::ranges::find_if(options, [](const auto* one) { return one->count() > 0; });
  return found == options.end() ? std::string() : (*found)->get_name();
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
    {[](const Options& o, const Given&) {
       return o.nondeterministic_attention && o.device == DeviceChoice::cpu;
     },
     "--nondeterministic-attention lets cuDNN add in any order, but --device {} was given, where "
     "the order is fixed; leave it out or add --device cuda",
     [](const Options& o, const Given&) { return std::string(name_of(o.device)); }},
    {[](const Options& o, const Given&) {
       return o.base_precision == BasePrecisionChoice::fp8 && o.mode != ModeChoice::lora;
     },
     "--base-precision fp8 is of weights that --mode lora freezes, but --mode {}; use --mode lora "
     "or leave --base-precision out",
     [](const Options& o, const Given&) {
       return std::string(o.mode == ModeChoice::full ? "full was given, which trains them"
                                                     : "qlora was given, which keeps 4 bits");
     }},
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
       return o.drop_rate_auto && given.allocation->count() > 0;
     },
     "--drop-rate auto chooses the allocation too, but --allocation {} was given; leave one of "
     "them out",
     [](const Options& o, const Given&) { return std::string(name_of(o.allocation)); }},
    {[](const Options& o, const Given&) { return o.drop_rate_auto && !o.model; },
     "--drop-rate auto needs --model, because the first steps of a new model do not tell what pays "
     "later, but none was given; give a number, such as --drop-rate 0",
     nullptr},
    {[](const Options& o, const Given&) {
       return o.drop_rate_auto && o.activation_budget_mib > 0.0;
     },
     "--drop-rate auto first trains without drops, but an --activation-budget was given; give a "
     "number, such as --drop-rate 0.5",
     nullptr},
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

}  // namespace

void check_combinations(const Options& o, const Given& given) {
  for (const Rule& rule : rules) {
    if (!rule.broken(o, given)) continue;
    throw UsageError(rule.detail != nullptr
                         ? fmt::format(fmt::runtime(rule.text), rule.detail(o, given))
                         : std::string(rule.text));
  }
}

}  // namespace llama
