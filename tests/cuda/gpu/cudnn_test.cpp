// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Attention by cuDNN on a GPU, if this build has cuDNN and it takes the shape. Prints which code
// ran. Where cuDNN does not run, the library's own kernels must stay within the same bounds.
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "cuda/attention_cases.hpp"
#include "cuda/gpu/device_buffers.hpp"
#include "dropbp/kernels/cuda.hpp"

namespace {

using namespace dropbp;
using ops::AttentionCode;
using ops::Index;
using test::Buffer;
using test::Capture;
using test::run_everywhere;

namespace op = ops::op;
template <class Op, class T>
using Kernels = ops::kernels<Op, T, Cuda>;

/// The first columns of rows that lie further apart.
std::vector<double> dense(const std::vector<double>& values, Index rows, Index columns) {
  const Index stride = static_cast<Index>(values.size()) / rows;
  std::vector<double> result;
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < columns; ++j)
      result.push_back(values[static_cast<std::size_t>(i * stride + j)]);
  return result;
}
bool gaps_are_nan(const std::vector<double>& values, Index rows, Index columns) {
  const Index stride = static_cast<Index>(values.size()) / rows;
  for (Index i = 0; i < rows; ++i)
    for (Index j = columns; j < stride; ++j)
      if (!std::isnan(values[static_cast<std::size_t>(i * stride + j)])) return false;
  return true;
}

template <class T>
struct Attention {
  test::AttentionCase c;
  ops::HeadLayout layout{c.shape.heads, c.shape.kv_heads, c.shape.head_size};
  ops::SequenceShape shape{c.shape.batch, c.shape.sequence};
  Buffer<T> qkv{c.tokens(), c.width() + c.gap}, o{c.tokens(), c.shape.q_width() + c.gap};
  Buffer<T> grad_o{c.tokens(), c.shape.q_width() + c.gap}, grad_qkv{c.tokens(), c.width() + c.gap};
  Buffer<float> lse{1, c.shape.statistics()};

  AttentionCode forward(AttentionCode wanted) {
    return Kernels<op::attention, T>::forward(o.columns(0, c.shape.q_width()), lse.data(),
                                              qkv.columns(0, c.width()), layout, shape, wanted);
  }
  AttentionCode backward(AttentionCode wanted) {
    return Kernels<op::attention, T>::backward(
        grad_qkv.columns(0, c.width()), grad_o.columns(0, c.shape.q_width()),
        qkv.columns(0, c.width()), o.columns(0, c.shape.q_width()), lse.data(), layout, shape,
        wanted);
  }
};

/// Whether the cuDNN that runs is of the version of which it is known that it takes these shapes.
[[maybe_unused]] bool is_known_version() {
  for (const ops::AttentionNote& note : ops::attention_notes<Cuda>())
    if (note.how.find("cuDNN 9.19.") != std::string::npos) return true;
  return false;
}

/// Prints the notes from `first` on. Another version of cuDNN may refuse a shape: own kernels run
/// then.
void report(std::size_t first, AttentionCode forward, AttentionCode backward) {
  for (const ops::AttentionNote& note : ops::attention_notes<Cuda>(first))
    std::printf("%s\n", note.text().c_str());
#if defined(DROPBP_TEST_CUDNN)
  CHECK((forward == AttentionCode::library || !is_known_version()));
  CHECK((backward == AttentionCode::library || !is_known_version()));
#else
  CHECK((forward == AttentionCode::own && backward == AttentionCode::own));
#endif
}

}  // namespace

TEMPLATE_TEST_CASE("device: attention by cuDNN stays within its bounds", "", Half, BFloat16) {
  using T = TestType;
  const std::vector<test::AttentionCase> cases = {
      {{.batch = 1, .sequence = 128, .heads = 2, .kv_heads = 2, .head_size = 64}, 0},
      {{.batch = 2, .sequence = 65, .heads = 4, .kv_heads = 2, .head_size = 32}, 0},
      {{.batch = 2, .sequence = 130, .heads = 3, .kv_heads = 1, .head_size = 64}, 8},
      {{.batch = 1, .sequence = 300, .heads = 4, .kv_heads = 4, .head_size = 128}, 0},
      {{.batch = 1, .sequence = 333, .heads = 8, .kv_heads = 1, .head_size = 128}, 0},
      {{.batch = 3, .sequence = 2, .heads = 2, .kv_heads = 1, .head_size = 8}, 0},
  };
  for (const test::AttentionCase& c : cases) {
    INFO(c.text() << ", DROPBP_TEST_SEED=" << test::fresh_seed());
    std::mt19937_64 random(test::fresh_seed() + static_cast<std::uint64_t>(c.tokens()));
    const std::size_t notes = ops::attention_notes<Cuda>().size();
    Attention<T> a{c};
    const std::vector<double> x = dense(a.qkv.fill(random), c.tokens(), c.width());
    const std::vector<double> g = dense(a.grad_o.fill(random), c.tokens(), c.shape.q_width());
    AttentionCode forward{}, backward{};
    run_everywhere({&a.o, &a.lse}, Capture::yes,
                   [&] { forward = a.forward(AttentionCode::library); });
    const auto wanted = test::attention_reference<T>(c, x, g, nullptr, nullptr, true);
    const std::vector<double> o = dense(a.o.values(), c.tokens(), c.shape.q_width()),
                              lse = a.lse.values();
    CHECK(test::problem("o", o, wanted.o) == "");
    CHECK(test::problem("lse", lse, wanted.lse) == "");
    CHECK(gaps_are_nan(a.o.values(), c.tokens(), c.shape.q_width()));
    run_everywhere({&a.grad_qkv}, Capture::yes,
                   [&] { backward = a.backward(AttentionCode::library); });
    const auto gradients = test::attention_reference<T>(c, x, g, &o, &lse, true);
    CHECK(test::problem("grad_qkv", dense(a.grad_qkv.values(), c.tokens(), c.width()),
                        gradients.grad_qkv) == "");
    CHECK(gaps_are_nan(a.grad_qkv.values(), c.tokens(), c.width()));
    report(notes, forward, backward);
  }
}

namespace {

/// A pass forward and back by cuDNN on random values; the gradients are then those of the own
/// kernels, which must agree.
Attention<BFloat16> compared(const test::AttentionCase& c) {
  std::mt19937_64 random(test::fresh_seed());
  const std::size_t notes = ops::attention_notes<Cuda>().size();
  Attention<BFloat16> a{c};
  a.qkv.fill(random);
  a.grad_o.fill(random);
  const AttentionCode forward = a.forward(AttentionCode::library),
                      backward = a.backward(AttentionCode::library);
  report(notes, forward, backward);
  const std::vector<double> grad_qkv = a.grad_qkv.values();
  a.backward(AttentionCode::own);
  CHECK(test::error_of(a.grad_qkv.values(), grad_qkv) <= 4 * test::tolerance<BFloat16>);
  return a;
}

}  // namespace

TEST_CASE("device: cuDNN splits a backward pass that would need too much workspace", "[large]") {
  INFO("DROPBP_TEST_SEED=" << test::fresh_seed());
  // ds of all heads would take 2 GiB, except on Blackwell. The forward pass of one code fits the
  // backward pass of the other.
  Attention<BFloat16> a =
      compared({{.batch = 2, .sequence = 4096, .heads = 32, .kv_heads = 8, .head_size = 128}, 0});
  const std::vector<double> o = a.o.values(), lse = a.lse.values(), grad_qkv = a.grad_qkv.values();
  a.forward(AttentionCode::own);
  CHECK(test::error_of(a.o.values(), o) <= 2 * test::tolerance<BFloat16>);
  CHECK(test::error_of(a.lse.values(), lse) <= 1e-5);
  a.backward(AttentionCode::library);
  CHECK(test::error_of(a.grad_qkv.values(), grad_qkv) <= 4 * test::tolerance<BFloat16>);
  a.layout.any_order = true;
  const std::size_t notes = ops::attention_notes<Cuda>().size();
  const AttentionCode backward = a.backward(AttentionCode::library);
  report(notes, backward, backward);
  CHECK(test::error_of(a.grad_qkv.values(), grad_qkv) <= 4 * test::tolerance<BFloat16>);
}

TEST_CASE("device: cuDNN computes the query heads of a kv head in parts", "[large]") {
  INFO("DROPBP_TEST_SEED=" << test::fresh_seed());
  // ds of one kv head would take 1 GiB, except on Blackwell.
  compared({{.batch = 1, .sequence = 8192, .heads = 16, .kv_heads = 2, .head_size = 128}, 0});
}
