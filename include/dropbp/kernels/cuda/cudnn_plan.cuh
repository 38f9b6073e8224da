// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Plans for the graphs of cudnn_graph.cuh: which engine of cuDNN runs a graph, and into how many
// parts a shape is divided. Sums have a fixed order, and the workspace stays small.
#if !defined(__CUDACC__)
#error "dropbp: cudnn_plan.cuh is for .cu files; other files include dropbp/dropbp.hpp"
#endif
#pragma once

#include <cudnn.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "dropbp/kernels/cuda/cudnn_graph.cuh"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

/// The addresses of all tensors. The forward pass writes o and lse; its grad_o, grad_qkv and delta
/// are null.
struct AttentionMemory {
  const void* qkv;
  const void* o;
  const float* lse;
  const void* grad_o;
  const void* grad_qkv;
  const float* delta;
};

/// The arguments of one run of a graph. cuDNN takes non-const pointers, also to tensors that it
/// only reads.
struct AttentionCall {
  std::int64_t ids[last_id] = {};
  void* pointers[last_id] = {};
  std::size_t count = 0;

  void add(AttentionId id, const void* pointer) {
    ids[count] = id;
    pointers[count++] = const_cast<void*>(pointer);
  }
};

/// Calls `run` with the memory of each part. A part is all sequences, or some kv heads of one
/// sequence with their query heads.
template <class Run>
void for_each_part(const AttentionKey& key, const AttentionShape& part,
                   const AttentionMemory& memory, Run run) {
  const AttentionShape& shape = key.shape;
  const float scale = attention_scale(shape), masked = -std::numeric_limits<float>::infinity(),
              one = 1.0f;
  for (Index sequence = 0; sequence < shape.batch; sequence += part.batch)
    for (Index kv_head = 0; kv_head < shape.kv_heads; kv_head += part.kv_heads) {
      const Index q = kv_head * shape.group(), k = shape.heads + kv_head, v = k + shape.kv_heads;
      const auto head = [&](const void* data, Index stride, Index number) {
        return static_cast<const char*>(data) +
               2 * (sequence * shape.sequence * stride +
                    number * shape.head_size);  // a scalar has 2 bytes
      };
      const Index statistic = (sequence * shape.heads + q) * shape.sequence;
      AttentionCall call;
      call.add(q_id, head(memory.qkv, key.qkv_stride, q));
      call.add(k_id, head(memory.qkv, key.qkv_stride, k));
      call.add(v_id, head(memory.qkv, key.qkv_stride, v));
      call.add(o_id, head(memory.o, key.o_stride, q));
      call.add(lse_id, memory.lse + statistic);
      call.add(scale_id, &scale);
      call.add(masked_id, &masked);
      if (key.backward) {
        call.add(grad_o_id, head(memory.grad_o, key.grad_o_stride, q));
        call.add(grad_q_id, head(memory.grad_qkv, key.grad_qkv_stride, q));
        call.add(grad_k_id, head(memory.grad_qkv, key.grad_qkv_stride, k));
        call.add(grad_v_id, head(memory.grad_qkv, key.grad_qkv_stride, v));
        call.add(delta_id, memory.delta + statistic);
        call.add(one_id, &one);
      }
      run(call);
    }
}

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

/// All configurations that run the graph and give the same bits each time, best first; not empty.
/// For the backward pass the notes of the engines alone do not guarantee this: the graph must also
/// have no buffer to which dq is added, as with the deterministic option of NVIDIA's frontend.
/// Throws CudnnRefusal if there is no such configuration.
inline std::vector<AttentionConfiguration> attention_configurations(const Descriptor& graph,
                                                                    const AttentionKey& key,
                                                                    const CudnnTarget& target) {
  std::vector<AttentionConfiguration> all;
  if (key.backward && (target.capability == 100 || target.capability == 103) &&
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
    if (configuration.deterministic) all.push_back(std::move(configuration));
  }
  if (all.empty())
    throw CudnnRefusal("cuDNN has no engine for this shape that gives the same bits each time");
  return all;
}

/// How a shape is computed: at once, or in parts, so that the workspace stays small.
struct AttentionChoice {
  // In bytes. Except on Blackwell, the backward pass in a fixed order stores ds, the gradient of
  // the scores: 2 bytes per head and pair of tokens.
  static constexpr std::size_t most_workspace = std::size_t{1} << 30;

  AttentionShape part;  ///< the shape of one call
  Descriptor graph;     ///< for `part`
  std::vector<AttentionConfiguration>
      configurations;  ///< best first, not empty, each with a workspace of at most most_workspace

  /// Throws CudnnRefusal if no division into parts works.
  static AttentionChoice make(const AttentionKey& key, const CudnnTarget& target) {
    AttentionChoice whole(key, target);
    if (!whole.configurations.empty()) return whole;
    for (Index pieces = 1; pieces <= key.shape.kv_heads; ++pieces) {
      if (key.shape.kv_heads % pieces != 0) continue;
      AttentionKey smaller = key;
      smaller.shape.batch = 1;
      smaller.shape.kv_heads /= pieces;
      smaller.shape.heads /= pieces;
      if (smaller.shape.statistics() % 4 != 0)
        continue;  // the statistics of the next part must begin at a multiple of 16 bytes
      AttentionChoice part(smaller, target);
      if (!part.configurations.empty()) return part;
    }
    throw CudnnRefusal("cuDNN needs more than 1 GiB of workspace for a single kv head");
  }

 private:
  AttentionChoice(const AttentionKey& key, const CudnnTarget& target)
      : part(key.shape), graph(AttentionGraph(key).finish(target)) {
    for (AttentionConfiguration& configuration : attention_configurations(graph, key, target))
      if (configuration.workspace <= most_workspace)
        configurations.push_back(std::move(configuration));
  }
};

/// A plan for the first configuration of a choice for which cuDNN can make one. Throws CudnnRefusal
/// if it can make none.
struct AttentionPlan {
  AttentionChoice choice;
  std::size_t workspace = 0;  ///< bytes
  Descriptor plan;

  AttentionPlan(AttentionChoice made, const CudnnTarget& target)
      : choice(std::move(made)), plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) {
    for (std::size_t i = 0;; ++i) {
      try {
        if (target.handle) plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, target.handle);
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                 choice.configurations[i].configuration.get());
        plan.finish("a plan must be possible");
        workspace = static_cast<std::size_t>(
            plan.get_one<std::int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE));
        return;
      } catch (const CudnnRefusal&) {
        if (i + 1 == choice.configurations.size()) throw;
        plan = Descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      }
    }
  }
};

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
