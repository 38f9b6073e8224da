// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How the linear maps of a model are fine-tuned: all weights, or low-rank adapters on a frozen
// base, which may be quantised.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dropbp/kernels/matrix.hpp"
#include "dropbp/ops/dropout.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// The linear maps of a block that can have adapters, in the order of the forward pass. A block has
/// qkv_proj in the place of the first three, and gate_up_proj, where its family fuses them.
inline constexpr std::array<std::string_view, 9> adaptable_linears{
    "q_proj",  "k_proj",    "v_proj",   "o_proj",      "gate_proj",
    "up_proj", "down_proj", "qkv_proj", "gate_up_proj"};

/// How a quantised base is stored.
enum class QuantizedFormat {
  nf4,  ///< 4 bits, multiplied as T; see nf4.hpp
  fp8   ///< 8 bits, multiplied with inputs rounded to 8 bits in the forward pass; see fp8.hpp
};

/// Low-rank adapters (LoRA): y = x W^T + alpha / rank * dropout(x) A^T B^T, with W frozen, A [rank,
/// input] and B [output, rank]. Sources: Hu et al., "LoRA: Low-Rank Adaptation of Large Language
/// Models" (ICLR 2022); with a quantised W, Dettmers et al., "QLoRA: Efficient Finetuning of
/// Quantized LLMs" (NeurIPS 2023). By default there are no adapters and the weights are trained.
struct LoraConfig {
  Index rank = 0;       ///< 0: no adapters
  double alpha = 16.0;  ///< alpha / rank multiplies the adapters' outputs
  /// Fraction of the adapters' inputs that is set to 0 in training, in [0, 1). The full name of a
  /// linear map selects its masks, so branches with the same prefix (empty by default) have the
  /// same masks.
  double dropout = 0.0;
  /// Linear maps that get adapters, by their whole names or by the end of these from a dot on
  /// ("q_proj", "layers.0.self_attn.q_proj"). Empty: all of them.
  std::vector<std::string> targets = {};
  bool quantize = false;                          ///< stores frozen linear maps in `format`
  QuantizedFormat format = QuantizedFormat::nf4;  ///< of quantised linear maps
  /// The current micro-step, which the trainer updates; required with dropout.
  std::shared_ptr<const MicroStepId> micro_step = {};

  /// Multiplies by alpha / sqrt(rank) instead, so that the outputs do not shrink as ranks grow.
  /// Source: Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA" (arXiv
  /// 2312.03732).
  bool rank_stabilized = false;
  /// A linear map whose adapter has a rank and an alpha of its own.
  struct Exception {
    std::string name;  ///< as in targets
    Index rank = 0;    ///< at least 1
    double alpha = 0;  ///< as LoraConfig::alpha
  };
  std::vector<Exception> exceptions = {};  ///< the first that names a map counts

  /// Trains the magnitude of each row of W + B A too (DoRA), see dora.hpp. In float or double on
  /// the CPU, without dropout.
  bool magnitudes = false;

  /// Modules besides the linear maps that are trained whole, such as norms, by the ends of their
  /// names: "norm" is "input_layernorm" too. As modules_to_save in PEFT.
  std::vector<std::string> modules_to_save = {};

  /// Whether the base is frozen and adapters are trained.
  bool enabled() const noexcept { return rank > 0; }
  /// Whether the linear map `name` ("model.layers.0.self_attn.q_proj" or "q_proj") has adapters.
  bool adapts(std::string_view name) const {
    if (!enabled()) return false;
    return targets.empty() || std::any_of(targets.begin(), targets.end(),
                                          [&](const auto& target) { return names(target, name); });
  }
  /// Whether the parameter `name` ("model.norm.weight"), which is in no linear map, is trained.
  bool trains(std::string_view name) const {
    if (!enabled()) return true;
    constexpr std::string_view suffix = ".weight";
    if (name.ends_with(suffix)) name.remove_suffix(suffix.size());
    return std::any_of(modules_to_save.begin(), modules_to_save.end(),
                       [&](const std::string& end) { return name.ends_with(end); });
  }
  /// The rank of that map's adapter.
  Index rank_of(std::string_view name) const {
    const Exception* const own = exception_of(name);
    return own != nullptr ? own->rank : rank;
  }
  /// The factor of that map's adapter's outputs, alpha / rank or alpha / sqrt(rank).
  double scale_of(std::string_view name) const {
    const Exception* const own = exception_of(name);
    const auto divisor = static_cast<double>(own != nullptr ? own->rank : rank);
    return (own != nullptr ? own->alpha : alpha) / (rank_stabilized ? std::sqrt(divisor) : divisor);
  }

 private:
  // Whether `end` is `name` or its end from a dot on.
  static bool names(std::string_view end, std::string_view name) noexcept {
    return name.ends_with(end) &&
           (name.size() == end.size() || name[name.size() - end.size() - 1] == '.');
  }
  const Exception* exception_of(std::string_view name) const noexcept {
    for (const Exception& one : exceptions)
      if (names(one.name, name)) return &one;
    return nullptr;
  }
};

namespace detail {

inline void require_known_targets(const std::vector<std::string>& targets) {
  for (const std::string& target : targets) {
    const std::string_view last =
        std::string_view(target).substr(target.rfind('.') + 1);  // npos + 1 is 0
    if (std::find(adaptable_linears.begin(), adaptable_linears.end(), last) !=
        adaptable_linears.end())
      continue;
    std::string known;
    for (const std::string_view name : adaptable_linears)
      known.append(known.empty() ? "" : ", ").append(name);
    throw_invalid("targets of adapters must end in some of " + known, "`" + target + "` was given",
                  "leave the others out, or all of them for adapters on every linear map");
  }
}

}  // namespace detail

/// Throws std::invalid_argument for values that are out of range or exclude each other.
inline void require_valid(const LoraConfig& lora) {
  if (lora.rank < 0 || !dropbp::detail::is_finite(lora.alpha) ||
      !dropbp::detail::is_finite(lora.dropout) || lora.dropout < 0.0 || lora.dropout >= 1.0)
    detail::throw_invalid(
        "adapters need a rank of at least 0, a finite alpha and a dropout in [0, 1)",
        "rank " + std::to_string(lora.rank) + ", alpha " + dropbp::detail::text(lora.alpha) +
            " and dropout " + dropbp::detail::text(lora.dropout) + " were given",
        "start from rank 8, alpha 16 and no dropout");
  if (lora.quantize && !lora.enabled())
    detail::throw_invalid("a quantised base is frozen and needs adapters to train",
                          "rank 0 was given", "set a rank, or do not quantise");
  if (lora.dropout > 0.0 && lora.micro_step == nullptr)
    detail::throw_invalid("dropout needs a MicroStepId, which its masks are drawn from",
                          "none was given",
                          "share one with all branches and set its step before each forward pass");
  if (lora.magnitudes && lora.dropout > 0.0)
    detail::throw_invalid("adapters with magnitudes (DoRA) need inputs without dropout",
                          "a dropout of " + dropbp::detail::text(lora.dropout) + " was given",
                          "set it to 0, or leave the magnitudes out");
  for (const LoraConfig::Exception& one : lora.exceptions)
    if (one.rank < 1 || !dropbp::detail::is_finite(one.alpha))
      detail::throw_invalid(
          "an adapter with a rank of its own needs one of at least 1, and a "
          "finite alpha",
          "rank " + std::to_string(one.rank) + " and alpha " + dropbp::detail::text(one.alpha) +
              " were given for `" + one.name + "`",
          "leave a map that is to have no adapter out of the targets");
  detail::require_known_targets(lora.targets);
}

}  // namespace ops
DROPBP_NAMESPACE_END
