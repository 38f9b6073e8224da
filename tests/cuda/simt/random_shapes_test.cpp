// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// On random shapes and integers, where every sum and product is exact, the kernels of CUDA have the
// bits of the CPU's. 500 shapes an operation, in columns of a wider matrix.
#include <span>
#include <vector>

#include "dropbp/ops/adamw.hpp"
#include "dropbp/ops/dropout.hpp"
#include "dropbp/ops/elementwise.hpp"
#include "dropbp/ops/embedding.hpp"
#include "dropbp/ops/nf4.hpp"
#include "dropbp/ops/rope.hpp"
#include "random_shapes.hpp"

using namespace random_shapes;

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

TEST_CASE("random shapes: 4-bit weights have the CPU's bits") {
  on_random_shapes(5, [](Shape s, std::mt19937_64& random) {
    Twin values(s.rows, s.columns, random), out(s.rows, s.columns, random);
    const Nf4Matrix matrix = Nf4Matrix::quantize(values.constant<Cpu>());
    const Index first = static_cast<Index>(random() % static_cast<std::uint64_t>(s.rows));
    on_both([&]<class B>() {
      Kernels<op::nf4, B>::expand(out.template view<B>().rows_from(0, s.rows - first), first,
                                  matrix.codes().data(), matrix.scales().data(),
                                  matrix.group_scales().data(), matrix.offset());
    });
    return out.differs();
  });
}

TEST_CASE("random shapes: squared norms have the CPU's bits") {
  on_random_shapes(6, [](Shape s, std::mt19937_64& random) {
    // Long enough for several chunks of a sum.
    std::vector<float> values(static_cast<std::size_t>(s.rows * s.columns * s.columns));
    for (float& value : values) value = static_cast<float>(random() % 9) - 4;
    const std::vector<Elements<const float, Cpu>> cpu{{values.data(), values.size()}};
    const std::vector<Elements<const float, Emulated>> device{{values.data(), values.size()}};
    return Kernels<op::squared_norms, Cpu>::run(cpu) !=
           Kernels<op::squared_norms, Emulated>::run(device);
  });
}
