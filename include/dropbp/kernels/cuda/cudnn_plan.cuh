// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Plans for the graphs of cudnn_graph.cuh: which engine of cuDNN runs a graph, and into which parts
// a shape is divided, so that the workspace fits the free memory. Sums have a fixed order, unless
// another one was asked for.
#if !defined(__CUDACC__)
#error "dropbp: cudnn_plan.cuh is for .cu files; other files include dropbp/dropbp.hpp"
#endif
#pragma once

#include <cudnn.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/kernels/cuda/cudnn_parts.cuh"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

/// An engine of cuDNN with its knobs, and the size of its workspace.
struct AttentionConfiguration {
  Descriptor configuration;
  std::int64_t engine = 0;
  std::size_t workspace = 0;  ///< bytes
  bool deterministic = true;  ///< according to the engine's notes

  explicit AttentionConfiguration(Descriptor made) : configuration(std::move(made)) {
    const Descriptor its_engine =
        configuration.get_descriptor(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    engine = its_engine.get_one<std::int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
    workspace = static_cast<std::size_t>(
        configuration.get_one<std::int64_t>(CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE));
    for (const auto note : its_engine.get<cudnnBackendNumericalNote_t>(
             CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT))
      if (note == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) deterministic = false;
  }
};

/// For compute capability 10.0 and 10.3 (Blackwell): the engine of the backward pass that adds dq
/// in a fixed order and does not store ds, with its knobs from before cuDNN 9.23.
inline AttentionConfiguration blackwell_backward(const Descriptor& graph,
                                                 const CudnnTarget& target) {
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR), made(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  engine.set(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph.get());
  engine.set(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, std::int64_t{5});
  if (target.properties) engine.set(CUDNN_ATTR_ENGINE_DEVICEPROP, target.properties);
  engine.finish("the engine must take this shape");
  std::vector<Descriptor> knobs;
  std::vector<cudnnBackendDescriptor_t> choices;
  for (const auto& [type, value] : {std::pair{CUDNN_KNOB_TYPE_KERNEL_CFG, std::int64_t{31}},
                                    std::pair{CUDNN_KNOB_TYPE_STAGES, std::int64_t{2}}}) {
    Descriptor& knob = knobs.emplace_back(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    knob.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, type);
    knob.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, value);
    knob.finish("a knob must be possible");
    choices.push_back(knob.get());
  }
  made.set(CUDNN_ATTR_ENGINECFG_ENGINE, engine.get());
  made.set(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, choices.data(), choices.size());
  made.finish("the engine must take this shape");
  return AttentionConfiguration(std::move(made));
}

/// All configurations that run the graph and, without any_order, give the same bits each time; best
/// first, not empty. For the backward pass the notes of the engines alone do not guarantee this:
/// the graph must also have no buffer to which dq is added, as with the deterministic option of
/// NVIDIA's frontend. Throws CudnnRefusal if there is no such configuration.
inline std::vector<AttentionConfiguration> attention_configurations(const Descriptor& graph,
                                                                    const AttentionKey& key,
                                                                    const CudnnTarget& target) {
  std::vector<AttentionConfiguration> all;
  if (key.backward && !key.any_order && (target.capability == 100 || target.capability == 103) &&
      cudnnGetVersion() < 92300) {
    try {
      all.push_back(blackwell_backward(graph, target));
    } catch (const CudnnRefusal&) {
      // The engines that cuDNN proposes store ds, as on Hopper.
    }
  }
  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph.get());
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_HEUR_MODE_A);
  if (target.properties) heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, target.properties);
  heuristics.finish("cuDNN must know engines for attention");
  for (Descriptor& found : heuristics.get_descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                      CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)) {
    AttentionConfiguration configuration(std::move(found));
    if (configuration.deterministic || key.any_order) all.push_back(std::move(configuration));
  }
  if (all.empty())
    throw CudnnRefusal(key.any_order ? "cuDNN has no engine for this shape"
                                     : "cuDNN has no engine for this shape that gives the same "
                                       "bits each time");
  return all;
}

/// How a shape is computed: at once, or in parts that need less memory.
struct AttentionChoice {
  AttentionShape part;                                 ///< the shape of one call
  bool any_order;                                      ///< see AttentionKey
  Descriptor graph;                                    ///< for `part`
  std::vector<AttentionConfiguration> configurations;  ///< best first, each within the budget
  std::size_t least;  ///< bytes that the smallest configuration needs with its scratch memory

  /// The largest part that needs a modest amount of memory or, if there is none, the one that needs
  /// least. With any_order, an engine with that freedom if there is one. Throws CudnnRefusal if no
  /// division works.
  static AttentionChoice make(const AttentionKey& key, const CudnnTarget& target,
                              const AttentionBudget& budget) {
    std::string reason;
    std::size_t least = (std::numeric_limits<std::size_t>::max)();
    for (const bool any_order : {true, false}) {
      if (any_order && !(key.any_order && key.backward)) continue;
      AttentionKey ordered = key;
      ordered.any_order = any_order;
      std::optional<AttentionChoice> found;
      for (const AttentionShape& part : attention_parts(ordered)) {
        try {
          AttentionChoice choice(ordered, part, target, budget);
          least = (std::min)(least, choice.least);
          if (choice.configurations.empty()) continue;
          const bool is_modest = choice.bytes(ordered, 0) <= budget.modest();
          if (!found || choice.bytes(ordered, 0) < found->bytes(ordered, 0))
            found = std::move(choice);
          if (is_modest) break;
        } catch (const CudnnRefusal& refusal) {
          if (reason.empty()) reason = refusal.what();
        }
      }
      if (found) return std::move(*found);
    }
    if (least == (std::numeric_limits<std::size_t>::max)()) throw CudnnRefusal(reason);
    throw CudnnMemoryRefusal("cuDNN needs " + text_of_bytes(least) +
                                 " for the smallest part, but may take " +
                                 text_of_bytes(budget.most()) + " of the " +
                                 text_of_bytes(budget.free) + " that are free",
                             least);
  }

  /// What a call with a configuration needs.
  std::size_t bytes(const AttentionKey& key, std::size_t configuration) const {
    return bytes_with(key, configurations[configuration].workspace);
  }
  /// The same with the workspace of a plan.
  std::size_t bytes_with(const AttentionKey& key, std::size_t workspace) const {
    return scratch(key, workspace).end;
  }
  /// The division of that memory.
  AttentionScratch scratch(const AttentionKey& key, std::size_t workspace) const {
    AttentionKey ordered = key;
    ordered.any_order = any_order;
    return AttentionScratch(ordered, part, workspace);
  }

 private:
  AttentionChoice(const AttentionKey& key, const AttentionShape& of_call, const CudnnTarget& target,
                  const AttentionBudget& budget)
      : AttentionChoice(key, key_of_part(key, of_call), of_call, target, budget) {}
  AttentionChoice(const AttentionKey& key, const AttentionKey& of_part,
                  const AttentionShape& of_call, const CudnnTarget& target,
                  const AttentionBudget& budget)
      : part(of_call),
        any_order(key.any_order),
        graph(AttentionGraph(of_part).finish(target)),
        least((std::numeric_limits<std::size_t>::max)()) {
    for (AttentionConfiguration& configuration : attention_configurations(graph, of_part, target)) {
      const std::size_t needed = bytes_with(key, configuration.workspace);
      least = (std::min)(least, needed);
      if (needed <= budget.most()) configurations.push_back(std::move(configuration));
    }
  }
};

/// A plan for the first configuration of a choice for which cuDNN can make one within the budget.
/// Throws CudnnRefusal if it can make none.
struct AttentionPlan {
  AttentionKey key;  ///< of the whole shape, with the order of the choice
  AttentionChoice choice;
  Descriptor plan;
  std::int64_t engine = 0;
  std::size_t workspace = 0;  ///< bytes of cuDNN

  AttentionPlan(const AttentionKey& whole, AttentionChoice made, const CudnnTarget& target,
                const AttentionBudget& budget)
      : key(whole), choice(std::move(made)), plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) {
    key.any_order = choice.any_order;
    for (std::size_t i = 0;; ++i) {
      try {
        if (target.handle) plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, target.handle);
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                 choice.configurations[i].configuration.get());
        plan.finish("a plan must be possible");
        workspace = static_cast<std::size_t>(
            plan.get_one<std::int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE));
        engine = choice.configurations[i].engine;
        if (scratch().end > budget.most())
          throw CudnnMemoryRefusal("cuDNN's plan needs " + text_of_bytes(scratch().end),
                                   scratch().end);
        return;
      } catch (const CudnnRefusal&) {
        if (i + 1 == choice.configurations.size()) throw;
        plan = Descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      }
    }
  }

  AttentionScratch scratch() const { return choice.scratch(key, workspace); }

  /// For reports.
  std::string text(const AttentionBudget& budget) const {
    const AttentionShape &whole = key.shape, &part = choice.part;
    std::string text = cudnn_name() + ", engine " + std::to_string(engine) + ", " +
                       text_of_bytes(scratch().end) + " of workspace (" +
                       text_of_bytes(budget.free) + " were free)";
    if (calls_for_kv_head(whole, part) > 1)
      text += ", " + std::to_string(part.heads) + " of the " + std::to_string(whole.group()) +
              " query heads of a kv head at a time";
    else if (part.kv_heads < whole.kv_heads)
      text += ", " + std::to_string(part.kv_heads) + " of " + std::to_string(whole.kv_heads) +
              " kv heads at a time";
    else if (part.batch < whole.batch)
      text += ", a sequence at a time";
    return text + (key.any_order ? ", sums in any order" : "");
  }
};

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
