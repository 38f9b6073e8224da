// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/run_identity.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace llama {

RunIdentity identity_of(const Options& o, const LlamaConfig& c, const TrainingData& data,
                        const ops::LoraConfig& lora, std::uint32_t base_checksum) {
  RunIdentity identity;
  const auto add = [&](const char* flag, const auto& value) {
    identity.emplace_back(flag, fmt::format("{}", value));
  };
  add("--layers", c.layers);
  add("--hidden", c.hidden);
  add("--intermediate", c.intermediate);
  add("--heads", c.heads);
  add("--kv-heads", c.kv_heads);
  add("--vocabulary", c.vocabulary);
  add("--tie-embeddings", c.tie_embeddings);
  add("rms_norm_eps (--model)", c.norm_epsilon);
  add("rope_theta (--model)", c.rope_theta);
  if (!c.traits.source.empty())
    add("config.json (--model)", fmt::format("{} {}", c.traits.family, c.traits.source));
  add("--mode", name_of(o.mode));
  add("--device", name_of(o.device));
  add("--precision", name_of(o.precision));
  add("--lora-rank", lora.rank);
  add("--lora-alpha", lora.alpha);
  add("--lora-dropout", lora.dropout);
  add("--lora-targets",
      lora.targets.empty() ? std::string("all") : fmt::format("{}", fmt::join(lora.targets, ",")));
  // What earlier checkpoints do not have is there only where it is no default.
  if (lora.rank_stabilized) add("--rslora", true);
  if (lora.magnitudes) add("--dora", true);
  if (o.nondeterministic_attention) add("--nondeterministic-attention", true);
  if (o.base_precision != BasePrecisionChoice::automatic)
    add("--base-precision", name_of(o.base_precision));
  if (!lora.modules_to_save.empty())
    add("--modules-to-save", fmt::format("{}", fmt::join(lora.modules_to_save, ",")));
  if (!lora.exceptions.empty()) {
    std::string own;
    for (const ops::LoraConfig::Exception& one : lora.exceptions)
      own += fmt::format("{}{}={}:{}", own.empty() ? "" : ",", one.name, one.rank, one.alpha);
    add("--lora-rank-pattern and --lora-alpha-pattern", own);
  }
  if (o.schedule != ScheduleChoice::cosine) add("--schedule", name_of(o.schedule));
  if (o.decay != 0) add("--decay", o.decay);
  if (o.final_learning_rate != 0.1) add("--final-learning-rate", o.final_learning_rate);
  add("--validation-fraction", o.validation_fraction);
  add("--steps", o.steps);
  add("--batch", o.batch * o.ranks);  // other processes may share it
  add("--sequence", o.sequence);
  add("--micro-steps", o.micro_steps);
  add("--learning-rate", o.learning_rate);
  // Distinguishes earlier checkpoints, of runs with weight decay on norms.
  const bool spares_norms = o.weight_decay > 0.0 && !lora.enabled();
  add("--weight-decay", fmt::format("{}{}", o.weight_decay, spares_norms ? " without norms" : ""));
  add("--warmup", o.warmup);
  add("--grad-clip", o.grad_clip);
  add("--seed", o.seed);
  add("--eval-batches", o.eval_batches);
  add("--drop-rate", o.drop_rate);
  add("--allocation", name_of(o.allocation));
  add("--sampling", name_of(o.sampling));
  add("--sensitivity", name_of(o.sensitivity));
  add("--sensitivity-samples", o.sensitivity_samples * o.ranks);
  add("--allocate-at", o.allocate_at);
  add("--reallocate-every", o.reallocate_every);
  add("--drop-warmup", o.drop_warmup);
  add("--gradient-scaling", name_of(o.gradient_scaling));
  // With a budget, plans depend on the bytes that branches save, which recomputing changes. Without
  // one, recomputing changes no bit.
  const bool recompute_decides = o.activation_budget_mib > 0.0 && o.recompute;
  add("--activation-budget",
      fmt::format("{}{}", o.activation_budget_mib, recompute_decides ? " with --recompute" : ""));

  add("what --data or --tokens holds", data.identity());
  add("what does not train of --model", fmt::format("CRC-32C {:08x}", base_checksum));
  return identity;
}
}  // namespace llama
