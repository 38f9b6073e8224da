// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Each step is one line of JSON, so that grep and diff work on long runs.
#include "llama/app/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "llama/formats/atomic_file.hpp"

namespace llama {
namespace {

using json = nlohmann::ordered_json;

json number(double value) { return std::isfinite(value) ? json(value) : json(nullptr); }

json number(const std::optional<double>& value) { return value ? number(*value) : json(nullptr); }

json text(const std::optional<std::filesystem::path>& path) {
  return path ? json(path->string()) : json(nullptr);
}

json config_of(const Options& o, const LlamaConfig& m, const ops::LoraConfig& lora) {
  json config;
  config["data"] = text(o.data);
  config["tokens"] = text(o.tokens);
  config["token_type"] = name_of(o.token_type);
  config["validation_fraction"] = number(o.validation_fraction);
  config["tokenizer"] = text(o.tokenizer);
  config["data_limit_mib"] = o.data_limit_mib;
  const SampleOptions samples = o.sample_options(m.vocabulary);
  config["samples"] = {{"loss_on", name_of(samples.loss_on)},
                       {"long_samples", name_of(samples.long_samples)},
                       {"packed", samples.pack},
                       {"chat_template", o.chat_template.value_or("")}};
  config["epochs"] = o.epochs;
  config["model_folder"] = text(o.model);
  config["model"] = {{"vocabulary", m.vocabulary},
                     {"hidden", m.hidden},
                     {"intermediate", m.intermediate},
                     {"layers", m.layers},
                     {"heads", m.heads},
                     {"kv_heads", m.kv_heads},
                     {"norm_epsilon", number(m.norm_epsilon)},
                     {"rope_theta", number(m.rope_theta)},
                     {"tie_embeddings", m.tie_embeddings}};
  config["mode"] = name_of(o.mode);
  if (o.mode != ModeChoice::full) {
    config["adapter"] = text(o.adapter);
    config["lora_rank"] = lora.rank;
    config["lora_alpha"] = number(lora.alpha);
    config["lora_dropout"] = number(lora.dropout);
    config["lora_targets"] = lora.targets;
    config["rslora"] = lora.rank_stabilized;
    config["base_precision"] = name_of(o.base_precision);
    config["dora"] = lora.magnitudes;
    config["modules_to_save"] = lora.modules_to_save;
  }
  config["steps"] = o.steps;
  config["batch"] = o.batch;
  config["sequence"] = o.sequence;
  config["micro_steps"] = o.micro_steps;
  config["learning_rate"] = number(o.learning_rate);
  config["schedule"] = name_of(o.schedule);
  config["final_learning_rate"] = number(o.final_learning_rate);
  config["weight_decay"] = number(o.weight_decay);
  config["warmup"] = o.warmup;
  config["grad_clip"] = number(o.grad_clip);
  config["seed"] = o.seed;
  config["device"] = name_of(o.device);
  config["precision"] = name_of(o.precision);
  if (o.device != DeviceChoice::cpu)
    config["nondeterministic_attention"] = o.nondeterministic_attention;
  config["threads"] = o.threads;
  config["eval_every"] = o.eval_every;
  config["eval_batches"] = o.eval_batches;
  config["drop_rate"] = number(o.drop_rate);
  config["allocation"] = name_of(o.allocation);
  config["sampling"] = name_of(o.sampling);
  config["sensitivity"] = name_of(o.sensitivity);
  config["sensitivity_samples"] = o.sensitivity_samples;
  config["allocate_at"] = number(o.allocate_at);
  config["reallocate_every"] = o.reallocate_every;
  config["drop_warmup"] = o.drop_warmup;
  config["gradient_scaling"] = name_of(o.gradient_scaling);
  config["activation_budget_mib"] = number(o.activation_budget_mib);
  config["recompute"] = o.recompute;
  config["baseline"] = o.baseline;
  config["out"] = text(o.out);
  config["merge_out"] = text(o.merge_out);
  return config;
}

json json_of(const StepRecord& record) {
  json step;
  step["step"] = record.step;
  step["loss"] = number(record.loss);
  if (record.validation_loss) step["validation_loss"] = number(*record.validation_loss);
  step["dropped"] = record.dropped;
  step["forward_ms"] = number(record.forward_ms);
  step["backward_ms"] = number(record.backward_ms);
  step["optimizer_ms"] = number(record.optimizer_ms);
  step["activation_bytes"] = record.activation_bytes;
  return step;
}

json json_of(const Trial& trial) {
  return {{"drop_rate", number(trial.drop_rate)},
          {"allocation", name_of(trial.allocation)},
          {"steps", trial.steps},
          {"validation_loss", number(trial.validation_loss)}};
}

json json_of(const Summary& s) {
  json summary;
  summary["tokens_per_second"] = number(s.tokens_per_second);
  summary["final_loss"] = number(s.final_loss);
  summary["validation_loss"] = number(s.validation_loss);
  summary["mean_drop_rate"] = number(s.mean_drop_rate);
  summary["backward_flops_fraction"] = number(s.backward_flops_fraction);
  summary["peak_activation_bytes"] = s.peak_activation_bytes;
  return summary;
}

double mean_of(std::span<const StepRecord> records, std::size_t first,
               double StepRecord::* figure) {
  double sum = 0.0;
  for (std::size_t i = first; i < records.size(); ++i) sum += records[i].*figure;
  return sum / static_cast<double>(records.size() - first);
}

json json_of(const Comparison& c) {
  json comparison;
  comparison["backward_ratio"] = number(c.backward_ratio);
  comparison["backward_limit"] = number(c.backward_limit);
  comparison["step_ratio"] = number(c.step_ratio);
  comparison["step_limit"] = number(c.step_limit);
  comparison["activation_ratio"] = number(c.activation_ratio);
  comparison["activation_limit"] = number(c.activation_limit);
  comparison["first_loss_difference"] = number(c.loss_difference);
  if (c.equal_time)
    comparison["equal_time"] = {{"seconds", number(c.equal_time->seconds)},
                                {"validation_loss", number(c.equal_time->loss)},
                                {"baseline_validation_loss", number(c.equal_time->baseline_loss)}};
  return comparison;
}

/// JSON must be UTF-8, but a path need not be: invalid bytes become U+FFFD.
std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

/// The members "attention", if there are any notes, "steps" and "summary", without braces.
std::string members_of(const RunReport& run) {
  std::string out;
  if (!run.attention.empty())
    out += fmt::format("\"attention\": {},\n ", dump(json(run.attention)));
  out += "\"steps\": [";
  const char* separator = "\n  ";
  for (const StepRecord& step : run.steps) {
    out += separator;
    out += dump(json_of(step));
    separator = ",\n  ";
  }
  out += fmt::format("],\n \"summary\": {}", dump(json_of(run.summary)));
  return out;
}

/// Adds the run's losses to the panels: over the steps and over the training time.
void add_losses(std::vector<Plot>& panels, double drop_rate, std::span<const StepRecord> records,
                std::size_t color) {
  constexpr std::size_t window = 10;
  const std::string name = fmt::format("drop rate {:g}", drop_rate);
  const Series training{.name = name, .points = {}, .color = color};
  const Series validation{
      .name = name + ", validation", .points = {}, .color = color, .line = Line::dashed};
  std::vector<Series> loss(panels.size(), training), validated(panels.size(), validation);
  double seconds = 0.0, sum = 0.0;
  std::size_t count = 0;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const StepRecord& record = records[i];
    seconds += 1e-3 * record.step_ms;
    sum += record.loss;
    ++count;
    const double x[] = {static_cast<double>(record.step + 1), seconds};
    const bool is_end = count == window || i + 1 == records.size();
    for (std::size_t panel = 0; panel < panels.size(); ++panel) {
      if (is_end) loss[panel].points.emplace_back(x[panel], sum / static_cast<double>(count));
      if (record.validation_loss)
        validated[panel].points.emplace_back(x[panel], *record.validation_loss);
    }
    if (is_end) sum = 0.0, count = 0;
  }
  for (std::size_t panel = 0; panel < panels.size(); ++panel) {
    panels[panel].series.push_back(std::move(loss[panel]));
    panels[panel].series.push_back(std::move(validated[panel]));
  }
}

std::string optional_number(const std::optional<double>& value) {
  return value ? fmt::format("{:.4f}", *value) : "-";
}

std::string table_row(const std::string& name, const RunReport& run) {
  const Summary& summary = run.summary;
  if (run.steps.empty())
    return fmt::format("{:<16} {:>8} {:>10} {:>9} {:>10} {:>11} {:>12} {:>15}\n", name, "-",
                       optional_number(summary.validation_loss), "-", "-", "-", "-", "-");
  const auto mean = [&](double StepRecord::* figure) {
    double sum = 0.0;
    for (const StepRecord& record : run.steps) sum += record.*figure;
    return sum / static_cast<double>(run.steps.size());
  };
  return fmt::format("{:<16} {:>8.4f} {:>10} {:>9.0f} {:>10.1f} {:>11.1f} {:>12.1f} {:>15.1f}\n",
                     name, summary.final_loss, optional_number(summary.validation_loss),
                     summary.tokens_per_second, mean(&StepRecord::forward_ms),
                     mean(&StepRecord::backward_ms), mean(&StepRecord::optimizer_ms),
                     static_cast<double>(summary.peak_activation_bytes) / (1 << 20));
}

double seconds_of(std::span<const StepRecord> records) {
  double seconds = 0.0;
  for (const StepRecord& record : records) seconds += 1e-3 * record.step_ms;
  return seconds;
}

/// On the line between the two measurements around `seconds`; the last one behind all.
std::optional<double> validation_at(std::span<const StepRecord> records, double seconds) {
  double now = 0.0, before_seconds = 0.0;
  std::optional<double> before;
  for (const StepRecord& record : records) {
    now += 1e-3 * record.step_ms;
    if (!record.validation_loss) continue;
    const double loss = *record.validation_loss;
    if (now >= seconds) {
      if (now == seconds) return loss;
      if (!before) return std::nullopt;
      return *before + (loss - *before) * (seconds - before_seconds) / (now - before_seconds);
    }
    before = loss, before_seconds = now;
  }
  return before;
}

std::optional<EqualTime> at_equal_time(std::span<const StepRecord> run,
                                       std::span<const StepRecord> baseline) {
  const double seconds = std::min(seconds_of(run), seconds_of(baseline));
  const auto loss = validation_at(run, seconds), other = validation_at(baseline, seconds);
  if (!loss || !other) return std::nullopt;
  return EqualTime{.seconds = seconds, .loss = *loss, .baseline_loss = *other};
}

}  // namespace

Comparison compare(std::span<const StepRecord> run, std::span<const StepRecord> baseline) {
  const std::size_t steps = std::min(run.size(), baseline.size());
  if (steps == 0) return {};
  run = run.first(steps);
  baseline = baseline.first(steps);
  // The first steps are left out, because they allocate memory from the system.
  const std::size_t first = steps > 4 ? 2 : 0;
  double backward_limit = 0.0, optimizer_limit = 0.0, kept_bytes = 0.0, all_bytes = 0.0;
  for (std::size_t i = first; i < steps; ++i) {
    const StepRecord& base = baseline[i];
    // With frozen weights, the baseline does not compute the input gradient of its lowest branch
    // either.
    const double kept = base.kept_flops_fraction > 0.0
                            ? run[i].kept_flops_fraction / base.kept_flops_fraction
                            : 1.0;
    backward_limit += base.backward_ms - (1.0 - kept) * base.branches_backward_ms;
    optimizer_limit += run[i].updated_parameter_fraction * base.optimizer_ms;
    kept_bytes += static_cast<double>(run[i].kept_activation_bytes);
    all_bytes += static_cast<double>(base.kept_activation_bytes);
  }
  const double counted = static_cast<double>(steps - first);
  backward_limit /= counted;
  optimizer_limit /= counted;
  const double backward = mean_of(baseline, first, &StepRecord::backward_ms);
  const double step = mean_of(baseline, first, &StepRecord::step_ms);
  const double optimizer = mean_of(baseline, first, &StepRecord::optimizer_ms);
  double activations = 0.0, all_activations = 0.0;
  for (std::size_t i = first; i < steps; ++i) {
    activations += static_cast<double>(run[i].activation_bytes);
    all_activations += static_cast<double>(baseline[i].activation_bytes);
  }
  return {.backward_ratio = mean_of(run, first, &StepRecord::backward_ms) / backward,
          .backward_limit = backward_limit / backward,
          .step_ratio = mean_of(run, first, &StepRecord::step_ms) / step,
          .step_limit = (step - (backward - backward_limit) - (optimizer - optimizer_limit)) / step,
          .activation_ratio = activations / all_activations,
          .activation_limit = kept_bytes / all_bytes,
          .loss_difference = run[0].loss - baseline[0].loss,
          .equal_time = at_equal_time(run, baseline)};
}

std::string report_config(const Options& options, const LlamaConfig& model,
                          const ops::LoraConfig& lora) {
  return dump(config_of(options, model, lora));
}

std::string report_json(const Options& options, const LlamaConfig& model,
                        const ops::LoraConfig& lora, const RunReport& run,
                        const std::optional<RunReport>& baseline) {
  std::string out =
      fmt::format("{{\"config\": {},\n {}", report_config(options, model, lora), members_of(run));
  if (run.trials)
    out += fmt::format(",\n \"trials\": [{}, {}]", dump(json_of(run.trials->ordinary)),
                       dump(json_of(run.trials->depth)));
  if (baseline)
    out += fmt::format(",\n \"baseline\": {{{}}},\n \"comparison\": {}", members_of(*baseline),
                       dump(json_of(compare(run.steps, baseline->steps))));
  return out + "}\n";
}

std::string result_table(double drop_rate, const RunReport& run,
                         const std::optional<RunReport>& baseline) {
  std::string text =
      "                     loss validation  tokens/s forward ms backward ms optimizer ms "
      "activations MiB\n";
  if (baseline) text += table_row("drop rate 0", *baseline);
  text += table_row(fmt::format("drop rate {:g}", drop_rate), run);
  if (run.steps.empty()) return text;
  text += fmt::format(
      "dropped: {:.1f} % of the branches' backward passes, {:.1f} % of their FLOPs\n",
      100.0 * run.summary.mean_drop_rate, 100.0 * (1.0 - run.summary.backward_flops_fraction));
  if (!baseline) return text;
  const Comparison c = compare(run.steps, baseline->steps);
  const auto saved = [](double ratio) { return 100.0 * (1.0 - ratio); };
  text += fmt::format(
      "saved:   backward time {:.1f} % (limit {:.1f} %), whole step {:.1f} % (limit {:.1f} %),\n"
      "         activations {:.1f} % (limit {:.1f} %)\n",
      saved(c.backward_ratio), saved(c.backward_limit), saved(c.step_ratio), saved(c.step_limit),
      saved(c.activation_ratio), saved(c.activation_limit));
  if (c.equal_time)
    text +=
        fmt::format("after {:.1f} s of training each: validation {:.4f}, without dropping {:.4f}\n",
                    c.equal_time->seconds, c.equal_time->loss, c.equal_time->baseline_loss);
  return text + fmt::format("loss of the first step: difference {:g}\n", c.loss_difference);
}

std::vector<Plot> loss_plots(double drop_rate, std::span<const StepRecord> run,
                             std::span<const StepRecord> baseline) {
  std::vector<Plot> panels = {{.title = "Loss by step (training: mean of 10 steps)",
                               .x_label = "steps",
                               .y_label = "loss (nats per token)",
                               .series = {}},
                              {.title = "Loss by training time",
                               .x_label = "training time (s)",
                               .y_label = "loss (nats per token)",
                               .series = {}}};
  if (!baseline.empty()) add_losses(panels, 0.0, baseline, 0);
  add_losses(panels, drop_rate, run, 1);
  return panels;
}

Plot memory_plot(double drop_rate, std::span<const StepRecord> run,
                 std::span<const StepRecord> baseline) {
  Plot plot{.title = "Activations by step",
            .x_label = "steps",
            .y_label = "saved for the backward pass (MiB)",
            .series = {},
            .y_from_zero = true};
  const auto add = [&](double rate, std::span<const StepRecord> records, std::size_t color) {
    Series series{.name = fmt::format("drop rate {:g}", rate), .points = {}, .color = color};
    for (const StepRecord& record : records)
      series.points.emplace_back(static_cast<double>(record.step + 1),
                                 static_cast<double>(record.activation_bytes) / 0x1p20);
    plot.series.push_back(std::move(series));
  };
  if (!baseline.empty()) add(0.0, baseline, 0);
  add(drop_rate, run, 1);
  return plot;
}

void write_report(const std::filesystem::path& path, const Options& options,
                  const LlamaConfig& model, const ops::LoraConfig& lora, const RunReport& run,
                  const std::optional<RunReport>& baseline) {
  write_file_atomically(path, report_json(options, model, lora, run, baseline));
}

}  // namespace llama
