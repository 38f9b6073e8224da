// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// FLOPs of transformer branches, compared with figures worked out by hand and with the published
// implementation.
#include "dropbp/flops.hpp"

#include <stdexcept>

#include "support/catch.hpp"

using dropbp::attention_flops;
using dropbp::mlp_flops;
using dropbp::swiglu_flops;

TEST_CASE("FLOPs of the small LLaMA model of the reference figures") {
  const double tokens = 2 * 12;
  CHECK(attention_flops({.batch = 2, .sequence = 12, .hidden = 16, .heads = 4, .kv_heads = 2}) /
            tokens ==
        2304.0);
  CHECK(swiglu_flops({.batch = 2, .sequence = 12, .hidden = 16, .intermediate = 44}) / tokens ==
        4224.0);
}

TEST_CASE("FLOPs of LLaMA2-7B and 70B") {
  // 7B: 8 h^2 + 4 s h and 6 h m per token with h = 4096, m = 11008. The values at s = 512 are the
  // published profile.
  CHECK(attention_flops({.sequence = 512, .hidden = 4096, .heads = 32}) / 512 == 142606336.0);
  CHECK(swiglu_flops({.sequence = 512, .hidden = 4096, .intermediate = 11008}) / 512 ==
        270532608.0);
  CHECK(attention_flops({.sequence = 4096, .hidden = 4096, .heads = 32}) / 4096 == 201326592.0);
  // 70B: h = 8192, 64 heads, 8 kv heads, m = 28672. q and o take 4 h^2; k and v take an eighth of
  // that.
  CHECK(attention_flops({.sequence = 4096, .hidden = 8192, .heads = 64, .kv_heads = 8}) / 4096 ==
        436207616.0);
  CHECK(swiglu_flops({.sequence = 4096, .hidden = 8192, .intermediate = 28672}) / 4096 ==
        1409286144.0);
}

TEST_CASE("Multi-head attention is grouped-query attention with as many kv heads") {
  CHECK(attention_flops({.batch = 3, .sequence = 7, .hidden = 24, .heads = 6}) ==
        attention_flops({.batch = 3, .sequence = 7, .hidden = 24, .heads = 6, .kv_heads = 6}));
  // 8 b s h^2 + 4 b s^2 h
  CHECK(attention_flops({.batch = 3, .sequence = 7, .hidden = 24, .heads = 6}) ==
        8.0 * 3 * 7 * 24 * 24 + 4.0 * 3 * 7 * 7 * 24);
}

TEST_CASE("A causal kernel halves the scores, not the projections") {
  CHECK(attention_flops({.batch = 3, .sequence = 7, .hidden = 24, .heads = 6, .causal = true}) ==
        8.0 * 3 * 7 * 24 * 24 + 2.0 * 3 * 7 * 7 * 24);
}

TEST_CASE("flops of heads of another size and of a window") {
  // 4 b s h (heads * head_size) (1 + kv_heads / heads) + 4 b s (heads * head_size) s.
  CHECK(
      attention_flops({.sequence = 12, .hidden = 16, .heads = 4, .kv_heads = 2, .head_size = 8}) ==
      36864.0 + 18432.0);
  const auto with_window = [](std::size_t window, bool causal) {
    return attention_flops({.sequence = 12,
                            .hidden = 16,
                            .heads = 4,
                            .kv_heads = 2,
                            .causal = causal,
                            .window = window}) -
           18432.0;
  };
  CHECK(with_window(4, false) == 4.0 * 12 * 16 * 4);
  // The first queries see less than the window: 4^2 / 2 keys in all, spread over 12.
  CHECK(with_window(4, true) == Approx(4.0 * 12 * 16 * (4.0 - 8.0 / 12.0)));
  CHECK(with_window(12, true) == with_window(0, true));
  CHECK(with_window(99, false) == with_window(0, false));
}

TEST_CASE("An MLP of 4 h units takes 16 b s h^2") {
  CHECK(mlp_flops({.batch = 3, .sequence = 7, .hidden = 24, .intermediate = 96}) ==
        16.0 * 3 * 7 * 24 * 24);
  CHECK(mlp_flops({.batch = 3, .sequence = 7, .hidden = 24, .intermediate = 10}) ==
        4.0 * 3 * 7 * 24 * 10);
}

TEST_CASE("Shapes whose product overflows 64 bits have finite FLOPs") {
  CHECK(mlp_flops({.batch = 1u << 20,
                   .sequence = 1u << 20,
                   .hidden = 1u << 20,
                   .intermediate = 1u << 20}) == 4.0 * 0x1p80);
}

TEST_CASE("Impossible shapes are refused") {
  CHECK_THROWS_AS(attention_flops({.batch = 0, .sequence = 1, .hidden = 1, .heads = 1}),
                  std::invalid_argument);
  CHECK_THROWS_AS(attention_flops({.batch = 1, .sequence = 0, .hidden = 1, .heads = 1}),
                  std::invalid_argument);
  CHECK_THROWS_AS(attention_flops({.batch = 1, .sequence = 1, .hidden = 0, .heads = 1}),
                  std::invalid_argument);
  CHECK_THROWS_AS(attention_flops({.hidden = 8, .heads = 0}), std::invalid_argument);
  CHECK_THROWS_AS(attention_flops({.hidden = 8, .heads = 0, .kv_heads = 2}), std::invalid_argument);
  CHECK_THROWS_AS(attention_flops({.hidden = 8, .heads = 4, .kv_heads = 3}), std::invalid_argument);
  CHECK_THROWS_AS(attention_flops({.hidden = 8, .heads = 4, .kv_heads = 8}), std::invalid_argument);
  CHECK_THROWS_AS(mlp_flops({.hidden = 8, .intermediate = 0}), std::invalid_argument);
  CHECK_THROWS_AS(swiglu_flops({.batch = 0, .hidden = 8, .intermediate = 8}),
                  std::invalid_argument);
}
