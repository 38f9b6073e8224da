// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// On random shapes and integers, where every sum and product is exact, the kernels of CUDA have the
// bits of the CPU's. 500 shapes an operation, in columns of a wider matrix.
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "dropbp/kernels/cuda.hpp"
#include "dropbp/ops/dropout.hpp"
#include "dropbp/ops/elementwise.hpp"
#include "dropbp/ops/embedding.hpp"
#include "dropbp/ops/rope.hpp"
#include "support/catch.hpp"
#include "support/emulated.hpp"
#include "support/promise.hpp"

namespace {

using namespace dropbp::ops;
using dropbp::Cpu;

// Two copies of a matrix of integers, whose rows have a gap; the gaps must stay as they are.
class Twin {
 public:
  Twin(Index rows, Index columns, std::mt19937_64& random)
      : rows_(rows), columns_(columns), stride_(columns + static_cast<Index>(random() % 5)) {
    std::uniform_int_distribution<int> uniform(-100, 100);
    for (Index i = 0; i < rows * stride_; ++i) cpu_.push_back(static_cast<float>(uniform(random)));
    device_ = cpu_;
  }
  template <class Backend>
  MatrixView<float, Backend> view() {
    auto& memory = std::is_same_v<Backend, Cpu> ? cpu_ : device_;
    return {memory.data(), rows_, columns_, stride_};
  }
  template <class Backend>
  MatrixView<const float, Backend> constant() {
    return view<Backend>();
  }
  bool differs() const {
    return std::memcmp(cpu_.data(), device_.data(), cpu_.size() * sizeof(float)) != 0;
  }

 private:
  Index rows_, columns_, stride_;
  std::vector<float> cpu_, device_;
};

struct Shape {
  Index rows, columns;
};

// Calls run.operator()<Backend>(shape, random) for both backends through `check`, which returns
// whether their results differ.
template <class Check>
void on_random_shapes(std::uint64_t seed, const Check& check) {
  constexpr int shapes = 500;
  int differing = 0;
  for (int i = 0; i < shapes; ++i) {
    std::mt19937_64 random(seed * 1000 + static_cast<std::uint64_t>(i));
    const Shape shape{1 + static_cast<Index>(random() % 9), 1 + static_cast<Index>(random() % 70)};
    CAPTURE(seed, i, shape.rows, shape.columns);
    const bool differs = check(shape, random);
    CHECK_FALSE(differs);
    differing += differs;
  }
  dropbp_test::promise(4, "ops=1 least_shapes_an_op=%d differing=%d", shapes, differing);
}

template <class Op, class Backend>
using Kernels = kernels<Op, float, Backend>;

// Calls f.operator()<Backend>() for both.
template <class F>
void on_both(const F& f) {
  f.template operator()<Cpu>();
  f.template operator()<Emulated>();
}

}  // namespace

TEST_CASE("random shapes: copies, sums and scales have the CPU's bits") {
  on_random_shapes(1, [](Shape s, std::mt19937_64& random) {
    Twin x(s.rows, s.columns, random), y(s.rows, s.columns, random), z(s.rows, s.columns, random),
        zero(s.rows, s.columns, random);
    on_both([&]<class B>() {
      Kernels<op::elementwise, B>::accumulate(y.template view<B>(), x.template constant<B>());
      Kernels<op::elementwise, B>::scale(y.template view<B>(), 0.25);
      Kernels<op::elementwise, B>::copy(z.template view<B>(), x.template constant<B>());
      Kernels<op::elementwise, B>::set_zero(zero.template view<B>());
    });
    return x.differs() || y.differs() || z.differs() || zero.differs();
  });
}

TEST_CASE("random shapes: dropout has the CPU's bits") {
  on_random_shapes(2, [](Shape s, std::mt19937_64& random) {
    Twin x(s.rows, s.columns, random), y(s.rows, s.columns, random);
    const std::uint64_t seed = random(), step = random();
    on_both([&]<class B>() {
      Kernels<op::dropout, B>::run(y.template view<B>(), x.template constant<B>(), 0.5, seed, step,
                                   3);
      Kernels<op::dropout, B>::run(x.template view<B>(), x.template constant<B>(), 0.75, seed, step,
                                   4);
    });
    return x.differs() || y.differs();
  });
}

TEST_CASE("random shapes: the embedding and its gradient have the CPU's bits") {
  on_random_shapes(3, [](Shape s, std::mt19937_64& random) {
    const Index vocabulary = 1 + static_cast<Index>(random() % 7);
    std::vector<std::int32_t> tokens;
    for (Index t = 0; t < s.rows; ++t)
      tokens.push_back(
          static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(vocabulary)));
    Twin weight(vocabulary, s.columns, random), gradient(vocabulary, s.columns, random),
        sum(vocabulary, s.columns, random), out(s.rows, s.columns, random),
        above(s.rows, s.columns, random);
    const std::span<const std::int32_t> ids(tokens);
    on_both([&]<class B>() {
      using K = Kernels<op::embedding, B>;
      K::forward(out.template view<B>(), ids, weight.template constant<B>());
      K::backward(gradient.template view<B>(), Accumulate::overwrite, above.template constant<B>(),
                  ids);
      K::backward(sum.template view<B>(), Accumulate::add, above.template constant<B>(), ids);
    });
    return weight.differs() || gradient.differs() || sum.differs() || out.differs() ||
           above.differs();
  });
}

TEST_CASE("random shapes: rotations by a quarter turn have the CPU's bits") {
  on_random_shapes(4, [](Shape s, std::mt19937_64& random) {
    const Index half = 1 + s.columns % 17, heads = 1 + s.columns / 17, sequence = 1 + s.rows % 3,
                rest = s.columns % 6;
    // cos and sin of a quarter turn, forwards or backwards, at each position.
    std::vector<float> cosine(static_cast<std::size_t>(sequence * half), 0.0f), sine(cosine);
    for (float& one : sine) one = random() % 2 == 0 ? 1.0f : -1.0f;
    Twin x(s.rows, heads * 2 * half + rest, random), y(s.rows, heads * 2 * half + rest, random);
    on_both([&]<class B>() {
      using K = Kernels<op::rope, B>;
      K::run(x.template view<B>(), cosine.data(), sine.data(), heads, half, sequence,
             Rotation::forward);
      K::run(y.template view<B>(), cosine.data(), sine.data(), heads, half, sequence,
             Rotation::inverse);
    });
    return x.differs() || y.differs();
  });
}
