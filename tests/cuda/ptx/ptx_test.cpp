// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Tests of the interpreter: what its operations compute, and every fault that it must see, in small
// kernels and planted into the library's.
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda/attention_cases.hpp"
#include "cuda/ptx/kernel.hpp"
#include "cuda/ptx/launch.hpp"
#include "cuda/ptx/real.hpp"
#include "dropbp/backend/e4m3.hpp"
#include "dropbp/kernels/cuda/rms_norm.hpp"
#include "support/catch.hpp"
#include "support/simt.hpp"
#include "support/throws.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// The kernel of device.cuh that shows whether a program has code for a card.
struct Nothing {
  static constexpr unsigned threads = 32;
};

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END

namespace {

using dropbp::BFloat16;
using dropbp::Half;
using test::check_throws;

// A kernel with the parameters `in` and `out`, both pointers in the registers %in and %out; the
// thread's number is in %t, its element of `out` at [%to].
ptx::Kernel kernel(const std::string& body) {
  return {"test",
          "  .param .u64 in,\n  .param .u64 out\n)\n{\n"
          "  .reg .pred %p<8>;\n  .reg .b32 %r<32>;\n  .reg .f32 %f<16>;\n  .reg .b64 %rd<8>;\n"
          "  .reg .b16 %rs<8>;\n  .reg .b64 %in, %out, %to, %from;\n  .reg .b32 %t, %s;\n"
          "  ld.param.u64 %in, [in];\n  ld.param.u64 %out, [out];\n  mov.u32 %t, %tid.x;\n"
          "  mul.wide.u32 %rd0, %t, 4;\n  add.s64 %to, %out, %rd0;\n  add.s64 %from, %in, %rd0;\n"
          "  mov.u32 %s, dropbp_shared_memory;\n" +
              body + "\n  ret;\n}\n"};
}

// out[thread] for 64 threads in one block (or more blocks), with in[i] = i.
std::vector<std::uint32_t> result_of(const std::string& body, std::size_t shared_bytes = 1024,
                                     unsigned blocks = 1, unsigned threads = 64) {
  std::vector<std::uint32_t> in(threads), out(threads, 0);
  std::iota(in.begin(), in.end(), 0u);
  const std::uint32_t* const from = in.data();
  std::uint32_t* const to = out.data();
  ptx::run(kernel(body), {.x = blocks, .shared_bytes = shared_bytes}, threads, 1,
           {{&from, sizeof from}, {&to, sizeof to}});
  return out;
}

void check_fault(const std::string& body, std::string_view message, unsigned blocks = 1) {
  INFO(body);
  check_throws<std::runtime_error>([&] { result_of(body, 1024, blocks); }, {message});
}

template <class F>
std::vector<std::uint32_t> expected(F f) {
  std::vector<std::uint32_t> values;
  for (std::uint32_t i = 0; i < 64; ++i) values.push_back(f(i));
  return values;
}

const std::string store = "\n  st.global.u32 [%to], %r1;";

// The n-th line that contains `part`, or nothing, is replaced by f(line).
std::string with_line(const std::string& text, const std::string& part, std::size_t n,
                      const std::function<std::string(std::string)>& f) {
  std::size_t at = 0;
  for (std::size_t i = 0; i <= n; ++i) {
    at = text.find(part, i == 0 ? 0 : at + 1);
    REQUIRE(at != text.npos);
  }
  const std::size_t begin = text.rfind('\n', at) + 1, end = text.find('\n', at);
  return text.substr(0, begin) + f(text.substr(begin, end - begin)) + text.substr(end);
}

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != text.npos; ++at) ++count;
  return count;
}

std::string nothing(const std::string&) { return ""; }

// The line with its address `bytes` further.
std::string moved(const std::string& line, int bytes) {
  const std::size_t end = line.find(']'), plus = line.find('+');
  if (plus == line.npos)
    return line.substr(0, end) + "+" + std::to_string(bytes) + line.substr(end);
  return line.substr(0, plus + 1) + std::to_string(std::stoi(line.substr(plus + 1)) + bytes) +
         line.substr(end);
}

// ---- the library's kernels with a planted fault

void run_norm() {
  constexpr dropbp::cuda::Index rows = 2, columns = 4096;
  const simt::Buffer<BFloat16> x(std::vector<BFloat16>(rows * columns, BFloat16{0x3F80})),
      w(std::vector<BFloat16>(columns, BFloat16{0x3F80}));
  simt::Buffer<BFloat16> y(rows * columns);
  simt::Buffer<float> rstd(rows);
  simt::Launcher launch;
  dropbp::cuda::rms_norm_forward(launch, dropbp::cuda::Rows<BFloat16>{y.data(), columns},
                                 rstd.data(), {x.data(), columns}, w.data(), rows, columns, 1e-5);
}

const test::AttentionCase attention_case = {
    {.batch = 1, .sequence = 80, .heads = 2, .kv_heads = 1, .head_size = 64}, 0};

// Attention in BFloat16 with its results, which are right without a planted fault.
class Attention {
 public:
  Attention() {
    values_ = qkv_.fill(random_, 2.0), gradients_ = grad_o_.fill(random_);
    REQUIRE(forward() == "");
    REQUIRE(backward() == "");
  }

  // What the kernel whose name contains `kernel` does with the change: the message of the error,
  // the worst element, or nothing.
  std::string problem(const std::string& kernel,
                      const std::function<std::string(std::string)>& edit) {
    const ptx::Edited scope([&](std::string text) {
      return text.find(kernel) == text.npos ? text : edit(std::move(text));
    });
    try {
      return kernel == "AttentionForwardMma" ? forward() : backward();
    } catch (const std::runtime_error& error) {
      return error.what();
    }
  }

 private:
  // The results of the first pass remain for the backward pass.
  std::string forward() {
    const auto& c = attention_case;
    test::GappedRows<BFloat16> o(c.tokens(), c.shape.q_width(), 0);
    std::vector<float> lse(static_cast<std::size_t>(c.shape.statistics()), std::nanf(""));
    simt::Launcher launch(1);
    dropbp::cuda::attention_forward(launch, o.rows(), lse.data(), std::as_const(qkv_).rows(),
                                    c.shape);
    const auto wanted = test::attention_reference<BFloat16>(c, values_, gradients_);
    const std::string problem = test::problem("o", o.dense(), wanted.o);
    if (lse_.empty()) o_ = o, lse_ = lse;
    return problem;
  }

  std::string backward() {
    const auto& c = attention_case;
    test::GappedRows<BFloat16> grad_qkv(c.tokens(), c.width(), 0);
    std::vector<float> delta(lse_);
    simt::Launcher launch(1);
    dropbp::cuda::attention_backward(launch, grad_qkv.rows(), std::as_const(grad_o_).rows(),
                                     std::as_const(qkv_).rows(), std::as_const(o_).rows(),
                                     lse_.data(), delta.data(), c.shape);
    const std::vector<double> o = o_.dense(), lse(lse_.begin(), lse_.end());
    const auto wanted = test::attention_reference<BFloat16>(c, values_, gradients_, &o, &lse);
    return test::problem("grad_qkv", grad_qkv.dense(), wanted.grad_qkv);
  }

  std::mt19937_64 random_{5};
  test::GappedRows<BFloat16> qkv_{attention_case.tokens(), attention_case.width(), 0},
      grad_o_{attention_case.tokens(), attention_case.shape.q_width(), 0}, o_ = grad_o_;
  std::vector<double> values_, gradients_;
  std::vector<float> lse_;
};

}  // namespace

TEST_CASE("conversions and sums round as the hardware does") {
  for (std::uint32_t i = 0; i <= 0xFFFF; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float half = ptx::real::from_half(bits), wanted = dropbp::cuda::to_float(Half{bits});
    if (std::isnan(wanted)) {
      REQUIRE(std::isnan(half));
      continue;
    }
    REQUIRE(std::bit_cast<std::uint32_t>(half) == std::bit_cast<std::uint32_t>(wanted));
    REQUIRE(ptx::real::to_half(half) == bits);
    REQUIRE(ptx::real::to_e4m3(half) == dropbp::to_e4m3(half).bits);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    const auto any = [&] {
      const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
      return std::isnan(x) ? 1.0f : x;
    };
    const auto similar = [&] {
      return std::bit_cast<float>(static_cast<std::uint32_t>(random() % 0x2000000 + 0x3F000000));
    };
    const float a = i % 2 ? any() : similar(), b = i % 2 ? any() : similar();
    const float c = i % 3 == 0 ? any() : -a * b * (1 + static_cast<float>(i % 5) * 0x1p-23f);
    if (std::isnan(c) || std::isinf(c)) continue;
    CAPTURE(a, b, c);
    const float wanted = std::fma(a, b, c), got = ptx::real::fma(a, b, c);
    REQUIRE(std::bit_cast<std::uint32_t>(got) == std::bit_cast<std::uint32_t>(wanted));
    const float down = ptx::real::fma_down(a, b, c);
    REQUIRE((down == wanted || down == std::nextafter(wanted, -INFINITY)));
    REQUIRE(static_cast<long double>(down) <=
            static_cast<long double>(a) * static_cast<long double>(b) +
                static_cast<long double>(c));
    REQUIRE(ptx::real::to_bfloat(a) == dropbp::cuda::from_float<BFloat16>(a).bits);
    REQUIRE(ptx::real::to_half(a) == dropbp::cuda::from_float<Half>(a).bits);
  }
}

TEST_CASE("the kernel that does nothing ends") { ptx::run({}, 1, dropbp::cuda::detail::Nothing()); }

TEST_CASE("lanes that go apart come together again") {
  CHECK(result_of("  and.b32 %r2, %t, 3;\n  mov.u32 %r1, 0;\n"
                  "$loop:\n  add.s32 %r1, %r1, 10;\n  setp.eq.s32 %p1, %r2, 0;\n  @%p1 bra $end;\n"
                  "  sub.s32 %r2, %r2, 1;\n  bra.uni $loop;\n$end:\n"
                  "  shfl.sync.bfly.b32 %r3|%p2, %r1, 1, 31, -1;\n  add.s32 %r1, %r1, %r3;" +
                  store) == expected([](std::uint32_t i) { return i % 4 < 2 ? 30u : 70u; }));
}

TEST_CASE("a conversion takes the low half of a register") {
  CHECK(result_of("  cvt.u64.u32 %rd1, %t;\n  shl.b64 %rd1, %rd1, 31;\n  sub.s64 %rd1, %rd1, 1;\n"
                  "  cvt.s64.s32 %rd2, %rd1;\n  shr.u64 %rd2, %rd2, 32;\n  cvt.u32.u64 %r1, %rd2;" +
                  store) == expected([](std::uint32_t i) { return i % 2 ? 0u : 0xFFFFFFFFu; }));
}

TEST_CASE("lanes exchange values as the PTX ISA says") {
  const auto shuffled = [](const std::string& how, const std::string& operands) {
    return result_of("  shfl.sync." + how + ".b32 %r1|%p1, %t, " + operands + ", -1;" + store);
  };
  CHECK(shuffled("bfly", "5, 31") == expected([](std::uint32_t i) { return i ^ 5; }));
  CHECK(shuffled("idx", "7, 31") == expected([](std::uint32_t i) { return i / 32 * 32 + 7; }));
  CHECK(shuffled("idx", "2, 6175") == expected([](std::uint32_t i) { return i / 8 * 8 + 2; }));
  CHECK(shuffled("up", "3, 0") == expected([](std::uint32_t i) { return i % 32 < 3 ? i : i - 3; }));
  CHECK(shuffled("down", "3, 31") ==
        expected([](std::uint32_t i) { return i % 32 > 28 ? i : i + 3; }));
  CHECK(result_of("  and.b32 %r2, %t, 4;\n  setp.ne.s32 %p1, %r2, 0;\n"
                  "  vote.sync.ballot.b32 %r1, %p1, -1;" +
                  store) == expected([](std::uint32_t) { return 0xF0F0F0F0u; }));
}

TEST_CASE("matrices are loaded and multiplied as the PTX ISA says") {
  // Element (i, j) of an 8 x 8 matrix is 8 i + j; each lane gets two of a row, or of a column.
  const std::string fill =
      "  shl.b32 %r2, %t, 2;\n  add.s32 %r3, %s, %r2;\n  shl.b32 %r4, %t, 1;\n"
      "  add.s32 %r5, %r4, 1;\n  shl.b32 %r5, %r5, 16;\n  or.b32 %r6, %r4, %r5;\n"
      "  st.shared.u32 [%r3], %r6;\n  bar.sync 0;\n  and.b32 %r7, %t, 7;\n"
      "  shl.b32 %r7, %r7, 4;\n  add.s32 %r7, %s, %r7;\n  ldmatrix.sync.aligned.m8n8.x1";
  const auto pair = [](std::uint32_t low, std::uint32_t high) { return low | high << 16; };
  CHECK(result_of(fill + ".shared.b16 {%r1}, [%r7];" + store) ==
        expected([&](std::uint32_t i) { return pair(i % 32 * 2, i % 32 * 2 + 1); }));
  CHECK(result_of(fill + ".trans.shared.b16 {%r1}, [%r7];" + store) ==
        expected([&](std::uint32_t i) {
          return pair(i % 4 * 16 + i % 32 / 4, i % 4 * 16 + 8 + i % 32 / 4);
        }));
  check_fault(fill + ".shared.b16 {%r1}, [%r7+8];", "not aligned");
  check_fault(
      "  and.b32 %r7, %t, 7;\n  shl.b32 %r7, %r7, 7;\n  add.s32 %r7, %s, %r7;\n"
      "  ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r7];",
      "a bank conflict: row 1 of a matrix");
}

TEST_CASE("the interpreter names what it does not know") {
  check_throws<std::runtime_error>([] { kernel("  fma.rz.f32 %f1, %f1, %f1, %f1;"); },
                                   {"no operation fma.rz.f32", "line 19"});
  check_throws<std::runtime_error>([] { kernel("  ld.u32 %r1, [%in];"); }, {"operation ld.u32"});
  check_throws<std::runtime_error>([] { kernel("  st.global.cg.u32 [%out], %r1;"); },
                                   {"operation st.global.cg.u32"});
  check_throws<std::runtime_error>([] { kernel("  add.s32 %r1, %rd1, 1;"); }, {"another size"});
  check_throws<std::runtime_error>(
      [] { kernel("  cp.async.cg.shared.global [%r1+16], [%rd1], 16, %r2;"); }, {"no offset here"});
  check_throws<std::runtime_error>([] { kernel("  bra $nowhere;"); }, {"no label $nowhere"});
  check_throws<std::runtime_error>([] { kernel("  .local .align 4 .b8 x[4];"); }, {"directive"});
}

TEST_CASE("the interpreter sees accesses outside of memory, not aligned or not written before") {
  check_fault("  ld.global.u32 %r1, [%from+4];", "4 bytes of global memory");
  check_fault("  ld.global.v2.u32 {%r1, %r2}, [%from];", "not aligned");
  check_fault("  ld.global.u32 %r1, [%rd0+4096];", "no memory is allocated there");
  check_fault("  st.shared.u32 [%s+1024], %t;", "shared memory at 1024: there are 1024 bytes");
  check_fault("  st.shared.u32 [%s+-4], %t;", "shared memory at -4: there are 1024 bytes");
  check_fault("  st.shared.v2.f32 [%s+4], {%f1, %f2};", "not aligned");
  check_fault("  ld.shared.u32 %r1, [%s];", "nothing was written there");
  check_fault("  div.u32 %r1, %t, 0;", "a division by 0");
}

TEST_CASE("the interpreter sees races") {
  const std::string own =
      "  shl.b32 %r2, %t, 2;\n  add.s32 %r3, %s, %r2;\n  xor.b32 %r4, %r2, 128;\n"
      "  add.s32 %r4, %s, %r4;\n  st.shared.u32 [%r3], %t;\n";
  const std::string read = "  ld.shared.u32 %r1, [%r4];\n";
  CHECK(result_of(own + "  bar.sync 0;\n" + read + store) ==
        expected([](std::uint32_t i) { return i ^ 32; }));
  check_fault(own + read, "of shared memory");
  // Both orders: a thread reads before or after the other writes.
  check_fault(own + "  bar.sync 0;\n" + read + "  st.shared.u32 [%r3], %t;", "a race");
  check_fault("  st.shared.u32 [%s], %t;", "writes there, with no barrier in between");
  check_fault("  st.global.u32 [%out], %t;", "of global memory");
  check_throws<std::runtime_error>([] { result_of("  st.shared.u32 [%s], %t;", 4, 1, 32); },
                                   {"block 0, line 19", "thread 1 accesses 4 bytes of shared",
                                    "memory at 0: a race: thread 0 writes there"});
  check_fault("  st.global.u32 [%to], %t;", "of block", 2);
  // A warp's own barrier orders its lanes, not those of other warps.
  const std::string neighbour = "  xor.b32 %r4, %r3, 4;\n";
  CHECK(result_of(own + neighbour + "  bar.warp.sync -1;\n" + read + store) ==
        expected([](std::uint32_t i) { return i ^ 1; }));
  check_fault(own + neighbour + read, "a race");
  check_fault(own + "  bar.warp.sync -1;\n" + read, "of shared memory");
}

TEST_CASE("the interpreter sees copies that were not waited for") {
  // Threads 0 to 14 copy 16 bytes, thread 15 zeros.
  const std::string copy =
      "  setp.eq.u32 %p2, %t, 15;\n  selp.b32 %r5, 0, 16, %p2;\n  shl.b32 %r2, %t, 4;\n  and.b32 "
      "%r2, %r2, 240;\n  add.s32 %r3, %s, %r2;\n"
      "  cvt.u64.u32 %rd1, %r2;\n  add.s64 %rd1, %in, %rd1;\n  setp.gt.u32 %p1, %t, 15;\n"
      "  @%p1 bra $copied;\n  cp.async.cg.shared.global [%r3], [%rd1], 16, %r5;\n$copied:\n"
      "  cp.async.commit_group;\n";
  const std::string read =
      "  shl.b32 %r2, %t, 2;\n  add.s32 %r3, %s, %r2;\n  ld.shared.u32 %r1, [%r3];";
  CHECK(result_of(copy + "  cp.async.wait_group 0;\n  bar.sync 0;\n" + read + store) ==
        expected([](std::uint32_t i) { return i < 60 ? i : 0; }));
  check_fault(copy + "  cp.async.wait_group 1;\n  bar.sync 0;\n" + read, "was not waited for");
  check_fault(copy + "  bar.sync 0;\n" + read, "was not waited for");
  check_fault(copy + "  cp.async.wait_group 0;\n" + read, "shared memory");
}

TEST_CASE("the interpreter sees threads that wait forever") {
  const std::string half = "  setp.gt.u32 %p1, %t, 15;\n  @%p1 bra $other;\n";
  check_fault(half + "  bar.sync 0;\n$other:", "forever");
  check_fault(half + "  shfl.sync.bfly.b32 %r1|%p2, %t, 1, 31, -1;\n$other:", "forever");
  check_fault("  setp.gt.u32 %p1, %t, 31;\n  @%p1 bra $other;\n  bar.sync 0;\n$other:",
              "that others have passed by");
  check_fault(
      "  setp.gt.u32 %p1, %t, 31;\n  @%p1 bra $other;\n  bar.sync 0;\n  ret;\n"
      "$other:\n  bar.sync 0;",
      "different barriers");
}

TEST_CASE("a barrier that is missing in a norm is seen, as is a missing or wrong store") {
  run_norm();
  std::size_t barriers = 0, stores = 0;
  {
    const ptx::Edited scope([&](std::string text) {
      barriers = count_of(text, "bar.sync"), stores = count_of(text, "st.shared");
      return text;
    });
    run_norm();
  }
  REQUIRE((barriers > 0 && stores > 0));
  const auto check = [](const std::string& part, std::size_t n, auto change,
                        std::initializer_list<std::string_view> messages) {
    INFO(part << " " << n);
    const ptx::Edited scope(
        [&](const std::string& text) { return with_line(text, part, n, change); });
    std::string seen;
    try {
      run_norm();
    } catch (const std::runtime_error& error) {
      seen = error.what();
    }
    bool expected = false;
    for (const std::string_view message : messages)
      expected = expected || seen.find(message) != seen.npos;
    CHECK((expected ? "" : seen + " (nothing or something else was seen)") == "");
  };
  check("bar.sync", 0, nothing, {"a race", "nothing was written there"});
  for (std::size_t i = 0; i < stores; ++i) {
    check("st.shared", i, nothing, {"nothing was written there"});
    check("st.shared", i, [](const std::string& line) { return moved(line, 32); },
          {"there are 32 bytes"});
  }
}

TEST_CASE("swapped operands, missing barriers, wrong rows and copies in flight are seen") {
  Attention attention;
  const auto swapped = [](std::string line) {
    // {d}, {a, b, c, d}: the second and the third register of the first operand
    const std::size_t operand = line.find('{', line.find('}'));
    const std::size_t second = line.find(',', operand) + 2, third = line.find(',', second) + 2;
    const std::size_t end = line.find(',', third);
    return line.substr(0, second) + line.substr(third, end - third) + ", " +
           line.substr(second, third - 2 - second) + line.substr(end);
  };
  for (const std::string kernel :
       {"AttentionForwardMma", "AttentionBackwardQueriesMma", "AttentionBackwardKeysMma"}) {
    std::string text;
    REQUIRE(attention.problem(kernel, [&](std::string t) { return text = std::move(t); }) == "");
    // The fault in the n-th line with `part` must have a consequence, with this message.
    const auto check = [&](const std::string& part, std::size_t n, auto change,
                           const std::string& message = "") {
      INFO(kernel << ": " << part << " " << n);
      const std::string seen = attention.problem(
          kernel, [&](const std::string& t) { return with_line(t, part, n, change); });
      CHECK(seen != "");
      CHECK((seen.find(message) != seen.npos ? "" : seen) == "");
    };
    const auto shifted = [](int bytes) {
      return [bytes](const std::string& line) { return moved(line, bytes); };
    };
    const auto some = [&](const std::string& part) {
      const std::size_t count = count_of(text, part);
      REQUIRE(count > 1);
      return std::array{std::size_t{0}, count / 2, count - 1};
    };
    for (const std::size_t n : some("mma.sync")) check("mma.sync", n, swapped);
    for (const std::size_t n : some("ldmatrix")) {
      check("ldmatrix", n, shifted(16));
      check("ldmatrix", n, shifted(4), "not aligned");
    }
    for (const std::string part : {"cp.async.wait_group", "cp.async.commit_group"})
      for (std::size_t n = 0; n < count_of(text, part); ++n)
        check(part, n, nothing, "a copy writes there that was not waited for");
    for (std::size_t n = 0; n < count_of(text, "bar.sync"); ++n) check("bar.sync", n, nothing);
    check("bar.warp.sync", count_of(text, "bar.warp.sync") - 1, nothing, "of shared memory");
  }
}
