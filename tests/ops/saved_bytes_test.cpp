// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A kept branch saves exactly the tensors of the table in docs/memory.md, by the pool's counter and
// by saved_bytes().
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/ops/attention_branch.hpp"
#include "dropbp/ops/swiglu_branch.hpp"
#include "ops/ops_test.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;

namespace {

// One tensor of the table: its elements per token.
struct Row {
  std::size_t elements;
  Index per_token;
};

template <class Branch>
void set_weights(Branch& branch) {
  branch.for_each_parameter([](auto& parameter) { randomise(parameter, 1); });
  branch.for_each_projection([](auto& projection) {
    for (std::size_t i = 0; i < projection.parts().size(); ++i)
      projection.set_weight(
          i, random_matrix<float>(projection.parts()[i].rows, projection.input(), i).view());
  });
}

template <class T>
void check(std::initializer_list<Row> table, Index tokens, std::size_t stated,
           const MemoryPool& pool) {
  std::size_t bytes = 0;
  for (const Row& row : table) {
    CHECK(row.elements == static_cast<std::size_t>(tokens * row.per_token));
    bytes += row.elements * sizeof(T);
  }
  CHECK(pool.bytes_in_use() == bytes);
  CHECK(stated == bytes);
}

// Elements of u per token: the rank for each of these linear maps that is a target.
Index adapted(const LoraConfig& lora, std::initializer_list<const char*> names) {
  Index elements = 0;
  for (const std::string& target : lora.targets)
    for (const char* const name : names) elements += target == name ? lora.rank : 0;
  return elements;
}

// A quantised base saves no more than a dense one. Dropout saves nothing.
std::vector<LoraConfig> lora_configs() {
  const auto micro_step = std::make_shared<const MicroStepId>();
  const std::vector<std::string> all{"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                     "gate_proj", "up_proj", "down_proj"};
  return {{},
          {.rank = 3, .targets = all},
          {.rank = 5,
           .dropout = 0.5,
           .targets = {"v_proj", "up_proj"},
           .quantize = true,
           .micro_step = micro_step}};
}

template <class T>
void check_attention(const AttentionConfig& config, const SequenceShape& shape) {
  const BranchMemory memory;
  const Index h = config.hidden, heads = config.heads,
              kv_heads = config.kv_heads == 0 ? heads : config.kv_heads;
  const Index head_size = config.head_size == 0 ? h / heads : config.head_size;
  AttentionBranch<T> branch(config, std::make_shared<const RopeTable<T>>(shape.sequence, head_size),
                            memory);
  set_weights(branch);
  typename AttentionBranch<T>::Saved saved;
  branch.forward(random_matrix<T>(shape.tokens(), h, 2), &saved, shape);
  check<T>({{saved.x.size(), h},
            {saved.rstd.size(), 1},
            {saved.qkv.size(), (heads + 2 * kv_heads) * head_size},
            {saved.o.size(), heads * head_size},
            {saved.lse.size(), heads},
            {saved.u.size(), adapted(config.lora, {"q_proj", "k_proj", "v_proj"})},
            {saved.u_o.size(), adapted(config.lora, {"o_proj"})}},
           shape.tokens(), AttentionBranch<T>::saved_bytes(config, shape.tokens()), memory.saved);
}

template <class T>
void check_swiglu(const SwiGLUConfig& config, const SequenceShape& shape) {
  const BranchMemory memory;
  SwiGLUBranch<T> branch(config, memory);
  set_weights(branch);
  typename SwiGLUBranch<T>::Saved saved;
  branch.forward(random_matrix<T>(shape.tokens(), config.hidden, 2), &saved, shape);
  check<T>({{saved.x.size(), config.hidden},
            {saved.rstd.size(), 1},
            {saved.gate_up.size(), 2 * config.intermediate},
            {saved.u.size(), adapted(config.lora, {"gate_proj", "up_proj"})},
            {saved.u_down.size(), adapted(config.lora, {"down_proj"})}},
           shape.tokens(), SwiGLUBranch<T>::saved_bytes(config, shape.tokens()), memory.saved);
}

}  // namespace

TEST_CASE("a kept branch saves the documented tensors and nothing else") {
  for (const SequenceShape shape :
       {SequenceShape{1, 1}, SequenceShape{2, 37}, SequenceShape{3, 64}}) {
    for (const LoraConfig& lora : lora_configs()) {
      for (AttentionConfig config :
           {AttentionConfig{16, 4}, AttentionConfig{24, 6, 2}, AttentionConfig{30, 3, 1, 8}}) {
        config.lora = lora;
        check_attention<float>(config, shape);
        check_attention<double>(config, shape);
      }
      for (SwiGLUConfig config : {SwiGLUConfig{16, 40}, SwiGLUConfig{7, 1}}) {
        config.lora = lora;
        check_swiglu<float>(config, shape);
        check_swiglu<double>(config, shape);
      }
    }
  }
}

TEST_CASE(
    "a branch of LLaMA-2 saves only what would need a product or a sum over the sequence to "
    "recompute") {
  // 7B and 70B: bytes per token as in docs/memory.md.
  CHECK(AttentionBranch<float>::saved_bytes({4096, 32}, 1) == 82052);
  CHECK(SwiGLUBranch<float>::saved_bytes({4096, 11008}, 1) == 104452);
  CHECK(AttentionBranch<float>::saved_bytes({8192, 64, 8}, 1) == 106756);
  CHECK(SwiGLUBranch<float>::saved_bytes({8192, 28672}, 1) == 262148);
  // With adapters of rank 8: 4 and 3 of them.
  CHECK(AttentionBranch<float>::saved_bytes({.hidden = 4096, .heads = 32, .lora = {.rank = 8}},
                                            1) == 82052 + 4 * 8 * 4);
  CHECK(SwiGLUBranch<float>::saved_bytes(
            {.hidden = 4096, .intermediate = 11008, .lora = {.rank = 8}}, 1) == 104452 + 3 * 8 * 4);
}
