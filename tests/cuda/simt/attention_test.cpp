// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The attention kernels on the host emulator.
#include "dropbp/kernels/cuda/attention.hpp"

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "cuda/attention_cases.hpp"
#include "dropbp/ops/attention.hpp"
#include "support/catch.hpp"
#include "support/emulated.hpp"
#include "support/promise.hpp"
#include "support/throws.hpp"

namespace {

using namespace dropbp;
using cuda::Index;
using test::AttentionCase;
using test::GappedRows;

template <class T>
struct Run {
  explicit Run(const AttentionCase& c)
      : qkv(c.tokens(), c.width(), c.gap),
        o(c.tokens(), c.shape.q_width(), 2 * c.gap),
        grad_o(c.tokens(), c.shape.q_width(), 2 * c.gap),
        grad_qkv(c.tokens(), c.width(), c.gap),
        lse(static_cast<std::size_t>(c.shape.statistics()), std::nanf("")),
        delta(lse) {}

  void forward(const AttentionCase& c, std::uint64_t seed) {
    simt::Launcher launch(seed);
    cuda::attention_forward(launch, o.rows(), lse.data(), std::as_const(qkv).rows(), c.shape);
  }
  void backward(const AttentionCase& c, std::uint64_t seed) {
    simt::Launcher launch(seed);
    cuda::attention_backward(launch, grad_qkv.rows(), std::as_const(grad_o).rows(),
                             std::as_const(qkv).rows(), std::as_const(o).rows(), lse.data(),
                             delta.data(), c.shape);
  }

  GappedRows<T> qkv, o, grad_o, grad_qkv;
  std::vector<float> lse, delta;
};

template <class E>
bool same_bits(const std::vector<E>& x, const std::vector<E>& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(E)) == 0;
}

std::vector<double> doubles(const std::vector<float>& x) { return {x.begin(), x.end()}; }

template <class T>
void check(const AttentionCase& c) {
  INFO(c.text());
  Run<T> run(c);
  std::mt19937_64 random(
      static_cast<std::uint64_t>(c.shape.statistics() + 1000 * c.shape.head_size));
  const std::vector<double> qkv = run.qkv.fill(random, 2.0), grad_o = run.grad_o.fill(random);
  run.forward(c, 1);
  const auto forward = test::attention_reference<T>(c, qkv, grad_o);
  CHECK(test::problem("o", run.o.dense(), forward.o) == "");
  CHECK(test::problem("lse", doubles(run.lse), forward.lse) == "");
  CHECK(run.o.gaps_are_untouched());

  run.backward(c, 2);
  const std::vector<double> o = run.o.dense(), lse = doubles(run.lse);
  const auto backward = test::attention_reference<T>(c, qkv, grad_o, &o, &lse);
  CHECK(test::problem("grad_qkv", run.grad_qkv.dense(), backward.grad_qkv) == "");
  CHECK(run.grad_qkv.gaps_are_untouched());

  Run<T> again(c);
  again.qkv = run.qkv, again.grad_o = run.grad_o;
  again.forward(c, 3);
  again.backward(c, 4);
  CHECK(same_bits(run.o.elements, again.o.elements));
  CHECK(same_bits(run.lse, again.lse));
  CHECK(same_bits(run.grad_qkv.elements, again.grad_qkv.elements));
}

// Every head size that has kernels, with more than one tile; other sizes, rows that cannot be read
// 16 bytes at a time, and full and partial tiles.
const std::vector<AttentionCase>& cases() {
  static const std::vector<AttentionCase> all = {
      {{.batch = 1, .sequence = 1, .heads = 1, .kv_heads = 1, .head_size = 1}, 0},
      {{.batch = 2, .sequence = 66, .heads = 2, .kv_heads = 1, .head_size = 32}, 8},
      {{.batch = 1, .sequence = 200, .heads = 1, .kv_heads = 1, .head_size = 32}, 0},
      {{.batch = 1, .sequence = 140, .heads = 2, .kv_heads = 2, .head_size = 64}, 0},
      {{.batch = 1, .sequence = 64, .heads = 3, .kv_heads = 1, .head_size = 40}, 16},
      {{.batch = 1, .sequence = 20, .heads = 4, .kv_heads = 2, .head_size = 16}, 4},
      {{.batch = 2, .sequence = 65, .heads = 2, .kv_heads = 1, .head_size = 96}, 8},
      {{.batch = 1, .sequence = 129, .heads = 1, .kv_heads = 1, .head_size = 96}, 0},
      {{.batch = 1, .sequence = 65, .heads = 1, .kv_heads = 1, .head_size = 7}, 3},
      {{.batch = 1, .sequence = 33, .heads = 2, .kv_heads = 1, .head_size = 65}, 1},
      {{.batch = 1, .sequence = 130, .heads = 2, .kv_heads = 1, .head_size = 128}, 0},
      {{.batch = 1, .sequence = 130, .heads = 1, .kv_heads = 1, .head_size = 31}, 0},
  };
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("attention's kernels stay within their bounds under any schedule", "", float,
                   Half, BFloat16) {
  for (const AttentionCase& c : cases()) check<TestType>(c);
}

TEST_CASE("random shapes: attention on the CPU and on a device stays within its bounds") {
  constexpr int shapes = 500;
  int differing = 0;
  for (int i = 0; i < shapes; ++i) {
    std::mt19937_64 random(static_cast<std::uint64_t>(i));
    const auto below = [&](std::uint64_t bound) { return static_cast<Index>(random() % bound); };
    const Index kv_heads = 1 + below(2);
    const AttentionCase c{{.batch = 1 + below(2),
                           .sequence = 1 + below(12),
                           .heads = kv_heads * (1 + below(2)),
                           .kv_heads = kv_heads,
                           .head_size = 1 + below(40)},
                          below(9)};
    INFO(c.text() << ", number " << i);
    Run<float> device(c), cpu(c);
    const std::vector<double> qkv = device.qkv.fill(random, 2.0),
                              grad_o = device.grad_o.fill(random);
    cpu.qkv = device.qkv, cpu.grad_o = device.grad_o;
    device.forward(c, 1), device.backward(c, 2);

    const auto rows = [&](auto& buffer, Index columns) {
      const auto all = buffer.rows();
      return ops::MatrixView<std::remove_pointer_t<decltype(all.data)>>(all.data, c.tokens(),
                                                                        columns, all.stride);
    };
    const Index q_width = c.shape.q_width();
    using OnCpu = ops::kernels<ops::op::attention, float, Cpu>;
    const ops::HeadLayout layout{c.shape.heads, c.shape.kv_heads, c.shape.head_size};
    const ops::SequenceShape shape{c.shape.batch, c.shape.sequence};
    const auto x = rows(std::as_const(cpu.qkv), c.width());
    OnCpu::forward(rows(cpu.o, q_width), cpu.lse.data(), x, layout, shape);
    OnCpu::backward(rows(cpu.grad_qkv, c.width()), rows(std::as_const(cpu.grad_o), q_width), x,
                    rows(std::as_const(cpu.o), q_width), cpu.lse.data(), layout, shape);

    for (const Run<float>* run : {&device, &cpu}) {
      const auto forward = test::attention_reference<float>(c, qkv, grad_o);
      const std::vector<double> o = run->o.dense(), lse = doubles(run->lse);
      const auto backward = test::attention_reference<float>(c, qkv, grad_o, &o, &lse);
      const std::string problem =
          test::problem("o", o, forward.o) + test::problem("lse", lse, forward.lse) +
          test::problem("grad_qkv", run->grad_qkv.dense(), backward.grad_qkv);
      CHECK(problem == "");
      const bool gaps = run->o.gaps_are_untouched() && run->grad_qkv.gaps_are_untouched();
      CHECK(gaps);
      differing += problem != "" || !gaps;
    }
  }
  dropbp_test::promise(4, "ops=1 least_shapes_an_op=%d differing=%d", shapes, differing);
}

TEST_CASE("attention's reference agrees with the CPU") {
  for (const AttentionCase& c : cases()) {
    INFO(c.text());
    std::mt19937_64 random(7);
    GappedRows<float> x(c.tokens(), c.width(), 0), g(c.tokens(), c.shape.q_width(), 0);
    const std::vector<double> qkv = x.fill(random, 2.0), grad_o = g.fill(random);
    const auto wanted = test::attention_reference<float>(c, qkv, grad_o);
    const ops::HeadLayout layout{c.shape.heads, c.shape.kv_heads, c.shape.head_size};
    const ops::SequenceShape shape{c.shape.batch, c.shape.sequence};
    std::vector<double> o(grad_o.size()), lse(static_cast<std::size_t>(c.shape.statistics())),
        grad_qkv(qkv.size());
    const ops::MatrixView<const double> qkv_rows(qkv.data(), c.tokens(), c.width());
    const ops::MatrixView<double> o_rows(o.data(), c.tokens(), c.shape.q_width());
    ops::attention_forward<double>(o_rows, lse.data(), qkv_rows, layout, shape);
    ops::attention_backward<double>({grad_qkv.data(), c.tokens(), c.width()},
                                    {grad_o.data(), c.tokens(), c.shape.q_width()}, qkv_rows,
                                    o_rows, lse.data(), layout, shape);
    const auto worst = [](const std::vector<double>& x1, const std::vector<double>& x2) {
      double most = 0.0;
      for (std::size_t i = 0; i < x1.size(); ++i) most = std::max(most, std::abs(x1[i] - x2[i]));
      return most;
    };
    CHECK(worst(o, wanted.o.value) < 1e-13);
    CHECK(worst(lse, wanted.lse.value) < 1e-13);
    CHECK(worst(grad_qkv, wanted.grad_qkv.value) < 1e-12);
  }
}

TEST_CASE("attention on a device refuses shapes that have no kernel") {
  simt::Launcher launch;
  const auto forward = [&](const cuda::AttentionShape& shape) {
    cuda::attention_forward(launch, cuda::Rows<float>{nullptr, 0}, nullptr,
                            cuda::Rows<const float>{nullptr, 0}, shape);
  };
  test::check_throws<std::invalid_argument>(
      [&] { forward({1, 1, 2, 2, 129}); },
      {"heads of 1 to 128 elements", "2 heads of 129", "use the CPU"});
  test::check_throws<std::invalid_argument>([&] { forward({1, 1, 3, 2, 64}); },
                                            {"that the kv heads divide", "3 heads", "2 kv heads"});
  test::check_throws<std::invalid_argument>([&] { forward({1, -1, 2, 2, 64}); }, {"of -1 tokens"});
  test::check_throws<std::invalid_argument>([&] { forward({1, 1073741825, 2, 2, 64}); },
                                            {"at most 2^30 tokens", "of 1073741825 tokens"});
  forward({0, 5, 2, 2, 64});  // no sequence: nothing is launched
  forward({5, 0, 2, 2, 64});
}

TEST_CASE("attention notes each way in which a shape is computed, once and in order") {
  struct Device {};
  const auto add = [](const cuda::AttentionShape& shape, bool backward, bool ran, const char* how,
                      const char* scalar = "bfloat16") {
    ops::detail::AttentionLog<Device>::instance().add(shape, scalar, backward, {ran, how});
  };
  const cuda::AttentionShape shape{2, 4096, 64, 8, 128};
  CHECK(ops::attention_notes<Device>().empty());
  for (int time = 0; time < 2; ++time) {
    add(shape, false, true, "cuDNN 9.19.0");
    add(shape, true, true, "cuDNN 9.19.0");
    add(shape, true, false, "there is no memory");
    add({2, 4096, 64, 64, 128}, true, false, "there is no memory");
    add({2, 4096, 64, 64, 128}, true, false, "there is no memory", "half");
  }
  const auto notes = ops::attention_notes<Device>();
  REQUIRE(notes.size() == 5);
  CHECK((!notes[0].backward && notes[1].backward));
  CHECK(notes[1].code == ops::AttentionCode::library);
  CHECK(notes[1].text() ==
        "attention in bfloat16, backward pass, 2 x 4096 tokens, 64 heads of 128, 8 kv heads: cuDNN "
        "9.19.0");
  CHECK(notes[2].code == ops::AttentionCode::own);
  CHECK(notes[2].text() ==
        "attention in bfloat16, backward pass, 2 x 4096 tokens, 64 heads of 128, 8 kv heads: own "
        "kernels, because there is no memory");
  CHECK(notes[3].text().find("heads of 128: own") != std::string::npos);
  CHECK(notes[4].text().find("attention in half, ") == 0);
  CHECK(ops::attention_notes<Device>(4).size() == 1);
  CHECK(ops::attention_notes<Device>(5).empty());
}

TEST_CASE("attention on a device notes why no library ran") {
  using Kernels = ops::kernels<ops::op::attention, BFloat16, Emulated>;
  ops::Matrix<BFloat16, Emulated> qkv(3, 12), o(3, 4), grad(3, 12);
  ops::Matrix<float, Emulated> lse(1, 3);
  const ops::HeadLayout layout{1, 1, 4};
  const auto before = ops::attention_notes<Emulated>().size();
  for (const auto code : {ops::AttentionCode::library, ops::AttentionCode::own})
    for (int time = 0; time < 2; ++time)
      CHECK(Kernels::forward(o.view(), lse.data(), qkv.view(), layout, {1, 3}, code) ==
            ops::AttentionCode::own);
  CHECK(Kernels::backward(grad.view(), o.view(), qkv.view(), o.view(), lse.data(), layout,
                          {1, 3}) == ops::AttentionCode::own);
  CHECK(Kernels::forward(o.view(), lse.data(), qkv.view(), layout, {0, 3}) ==
        ops::AttentionCode::own);
  // In another scalar type the same shape has notes of its own.
  ops::Matrix<Half, Emulated> other(3, 12), other_o(3, 4);
  CHECK(ops::kernels<ops::op::attention, Half, Emulated>::forward(
            other_o.view(), lse.data(), other.view(), layout, {1, 3}) == ops::AttentionCode::own);
  const auto notes = ops::attention_notes<Emulated>(before);
  REQUIRE(notes.size() == 4);
  CHECK((notes[0].scalar == "bfloat16" && notes[3].scalar == "half"));
  CHECK(notes[0].how == "this program was built without cuDNN");
  CHECK(notes[1].how == "the caller asked for them");
  CHECK((notes[2].backward && notes[2].how == notes[0].how));
}

TEST_CASE("attention on a device refuses windows and packed samples") {
  ops::Matrix<float, Emulated> qkv(4, 12), o(4, 4), lse(1, 4), grad(4, 12);
  const std::vector<std::int32_t> begin{0, 0, 2, 2};
  const auto check = [&](const ops::HeadLayout& layout, const ops::SequenceShape& shape,
                         std::string_view part) {
    test::check_throws<std::invalid_argument>(
        [&] { ops::attention_forward(o.view(), lse.data(), qkv.view(), layout, shape); },
        {part, "use the CPU"});
    test::check_throws<std::invalid_argument>(
        [&] {
          ops::attention_backward(grad.view(), o.view(), qkv.view(), o.view(), lse.data(), layout,
                                  shape);
        },
        {part, "use the CPU"});
  };
  check({1, 1, 4, 3}, {1, 4}, "a window of 3 was given");
  check({1, 1, 4}, {1, 4, begin}, "packed samples were given");
}
