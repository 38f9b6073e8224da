// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
// One line of JSON a step: long runs stay readable with grep and a diff.
#include "report.hpp"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "atomic_file.hpp"

namespace llama {
namespace {

using json = nlohmann::ordered_json;

json number(double value) { return std::isfinite(value) ? json(value) : json(nullptr); }

json number(const std::optional<double>& value) { return value ? number(*value) : json(nullptr); }

json text(const std::optional<std::filesystem::path>& path) { return path ? json(path->string()) : json(nullptr); }

json config_of(const Options& o, const LlamaConfig& m) {
  json config;
  config["data"] = text(o.data);
  config["tokens"] = text(o.tokens);
  config["token_type"] = name_of(o.token_type);
  config["validation_fraction"] = number(o.validation_fraction);
  config["data_limit_mib"] = o.data_limit_mib;
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
  config["steps"] = o.steps;
  config["batch"] = o.batch;
  config["sequence"] = o.sequence;
  config["micro_steps"] = o.micro_steps;
  config["learning_rate"] = number(o.learning_rate);
  config["weight_decay"] = number(o.weight_decay);
  config["warmup"] = o.warmup;
  config["grad_clip"] = number(o.grad_clip);
  config["seed"] = o.seed;
  config["threads"] = o.threads;
  config["eval_every"] = o.eval_every;
  config["eval_batches"] = o.eval_batches;
  config["drop_rate"] = number(o.drop_rate);
  config["allocation"] = name_of(o.allocation);
  config["sampling"] = name_of(o.sampling);
  config["sensitivity"] = name_of(o.sensitivity);
  config["allocate_at"] = number(o.allocate_at);
  config["baseline"] = o.baseline;
  config["out"] = text(o.out);
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

/// A path on the command line need not be UTF-8, JSON must be: odd bytes become U+FFFD.
std::string dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

/// The members "steps" and "summary", without braces.
std::string members_of(const RunReport& run) {
  std::string out = "\"steps\": [";
  const char* separator = "\n  ";
  for (const StepRecord& step : run.steps) {
    out += separator;
    out += dump(json_of(step));
    separator = ",\n  ";
  }
  out += fmt::format("],\n \"summary\": {}", dump(json_of(run.summary)));
  return out;
}

}  // namespace

std::string report_json(const Options& options, const LlamaConfig& model, const RunReport& run,
                        const std::optional<RunReport>& baseline) {
  std::string out = fmt::format("{{\"config\": {},\n {}", dump(config_of(options, model)), members_of(run));
  if (baseline) out += fmt::format(",\n \"baseline\": {{{}}}", members_of(*baseline));
  return out + "}\n";
}

void write_report(const std::filesystem::path& path, const Options& options, const LlamaConfig& model, const RunReport& run,
                  const std::optional<RunReport>& baseline) {
  write_file_atomically(path, report_json(options, model, run, baseline));
}

}  // namespace llama
