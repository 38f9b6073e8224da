// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// On random shapes and values the kernels of CUDA and of the CPU differ by no more than the
// rounding errors of both. 500 shapes an operation, in columns of a wider matrix. Attention's is in
// attention_test.cpp.
#include <algorithm>
#include <cmath>
#include <vector>

#include "dropbp/ops/adamw.hpp"
#include "dropbp/ops/cross_entropy.hpp"
#include "dropbp/ops/rms_norm.hpp"
#include "dropbp/ops/swiglu.hpp"
#include "random_shapes.hpp"

using namespace random_shapes;

namespace {

constexpr double unit = 0x1p-24;   // of rounding to float
constexpr double both = 2 * 1.01;  // two results, and products of small errors

std::vector<float> random_numbers(Index count, double size, std::mt19937_64& random) {
  std::uniform_real_distribution<double> uniform(-size, size);
  std::vector<float> values;
  for (Index i = 0; i < count; ++i) values.push_back(static_cast<float>(uniform(random)));
  return values;
}

}  // namespace

TEST_CASE("random shapes: SwiGLU is within the rounding errors") {
  on_random_shapes(11, [](Shape s, std::mt19937_64& random) {
    const Twin gate_up(s.rows, 2 * s.columns, random, 6);
    Twin in = gate_up, out(s.rows, s.columns, random, 1), d(s.rows, s.columns, random, 1),
         grad(s.rows, 2 * s.columns, random, 1);
    const Twin above = d;
    on_both([&]<class B>() {
      using K = Kernels<op::swiglu, B>;
      K::forward(out.template view<B>(), in.template constant<B>());
      K::backward(grad.template view<B>(), d.template view<B>(), in.template constant<B>());
    });
    // exp has an error of 2 units and |g| of its argument, the sum and the quotient one each.
    const auto silu_units = [&](Index i, Index j) { return 2 + std::abs(gate_up(i, j)) + 2; };
    const auto silu = [&](Index i, Index j) {
      return std::abs(gate_up(i, j)) / (1 + std::exp(-gate_up(i, j)));
    };
    const auto forward = [&](Index i, Index j) {
      return both * unit * (silu_units(i, j) + 2) * silu(i, j) *
             std::abs(gate_up(i, j + s.columns));
    };
    // The derivative of silu(g) is a sum of the sigmoid and silu(g) (1 - sigmoid); the error of the
    // sigmoid in 1 - sigmoid is not relative to that.
    const auto backward = [&](Index i, Index j) {
      const Index column = j % s.columns;
      const double units = silu_units(i, column) + 4;
      const double size = j < s.columns
                              ? std::abs(gate_up(i, column + s.columns)) * (1 + 3 * silu(i, column))
                              : silu(i, column);
      return both * unit * units * size * std::abs(above(i, column));
    };
    return in.differs() || out.is_beyond(forward) || d.is_beyond(forward) ||
           grad.is_beyond(backward);
  });
}

TEST_CASE("random shapes: RMSNorm is within the rounding errors") {
  on_random_shapes(12, [](Shape s, std::mt19937_64& random) {
    const auto rows = static_cast<std::size_t>(s.rows);
    const double n = static_cast<double>(s.columns);
    Twin x(s.rows, s.columns, random, 3), w(1, s.columns, random, 2),
        dy(s.rows, s.columns, random, 1), y(s.rows, s.columns, random, 1),
        again(s.rows, s.columns, random, 1), dx(s.rows, s.columns, random, 1),
        dw(1, s.columns, random, 1), rstd(1, s.rows, random, 1);
    const Twin before = dx;
    // The backward passes share one rstd.
    std::vector<float> shared(rows);
    for (Index i = 0; i < s.rows; ++i) {
      double squares = 0;
      for (Index j = 0; j < s.columns; ++j) squares += x(i, j) * x(i, j);
      shared[static_cast<std::size_t>(i)] = static_cast<float>(1 / std::sqrt(squares / n + 1e-5));
    }
    on_both([&]<class B>() {
      using K = Kernels<op::rms_norm, B>;
      const float* const weight = w.template constant<B>().data;
      K::forward(y.template view<B>(), rstd.template view<B>().data, x.template constant<B>(),
                 weight, 1e-5);
      K::recompute(again.template view<B>(), x.template constant<B>(), weight, shared.data());
      std::vector<float> workspace(
          static_cast<std::size_t>(K::backward_workspace(s.rows, s.columns)));
      K::backward(dx.template view<B>(), Accumulate::add, dy.template constant<B>(),
                  x.template constant<B>(), weight, shared.data(), dw.template view<B>().data,
                  Accumulate::overwrite, workspace.data());
    });
    const auto root = [&](Index i) {
      return static_cast<double>(shared[static_cast<std::size_t>(i)]);
    };
    const auto value = [&](Index i, Index j) { return std::abs(x(i, j) * w(0, j)) * root(i); };
    // A mean of n squares and its root.
    const auto forward = [&](Index i, Index j) { return both * unit * (n / 2 + 6) * value(i, j); };
    const auto recomputed = [&](Index i, Index j) { return both * unit * 2 * value(i, j); };
    const auto rows_of_root = [&](Index, Index i) { return both * unit * (n / 2 + 4) * root(i); };
    const auto input = [&](Index i, Index j) {
      double sum = 0;
      for (Index k = 0; k < s.columns; ++k) sum += std::abs(w(0, k) * dy(i, k) * x(i, k));
      const double terms = root(i) * (std::abs(w(0, j) * dy(i, j)) +
                                      std::abs(x(i, j)) * root(i) * root(i) / n * sum);
      return both * unit * ((n + 8) * terms + std::abs(before(i, j)));
    };
    const auto weights = [&](Index, Index j) {
      double sum = 0;
      for (Index i = 0; i < s.rows; ++i) sum += std::abs(dy(i, j) * x(i, j)) * root(i);
      return both * unit * (static_cast<double>(s.rows) + 3) * sum;
    };
    return x.differs() || w.differs() || dy.differs() || y.is_beyond(forward) ||
           again.is_beyond(recomputed) || rstd.is_beyond(rows_of_root) || dx.is_beyond(input) ||
           dw.is_beyond(weights);
  });
}

TEST_CASE("random shapes: losses and their gradient are within the rounding errors") {
  on_random_shapes(13, [](Shape s, std::mt19937_64& random) {
    constexpr std::int32_t ignored = -100;
    const double n = static_cast<double>(s.columns), divisor = static_cast<double>(s.rows);
    std::vector<std::int32_t> targets;
    for (Index i = 0; i < s.rows; ++i)
      targets.push_back(random() % 5 == 0 ? ignored
                                          : static_cast<std::int32_t>(
                                                random() % static_cast<std::uint64_t>(s.columns)));
    Twin kept(s.rows, s.columns, random, 8);
    const Twin logits = kept;
    std::vector<std::vector<double>> losses;
    on_both([&]<class B>() {
      using K = Kernels<op::cross_entropy, B>;
      std::vector<typename K::Loss> row_losses(targets.size());
      K::run(kept.template view<B>(), row_losses.data(), targets.data(), ignored, divisor, true);
      losses.emplace_back(row_losses.begin(), row_losses.end());
    });
    // Logits are at most 8, so that an argument of exp has an error of at most 16 units, the
    // largest logit that is added later one of 8, and the loss, below 16 + log 70, one of 21.
    const double exp_units = 16 + 2;
    for (std::size_t i = 0; i < targets.size(); ++i)
      if (!(std::abs(losses[0][i] - losses[1][i]) <= both * unit * (exp_units + n + 2 + 3 * 21)))
        return true;
    return kept.is_beyond([&](Index i, Index j) {
      double sum = 0;
      for (Index k = 0; k < s.columns; ++k) sum += std::exp(logits(i, k) - logits(i, j));
      const bool is_target = targets[static_cast<std::size_t>(i)] == j;
      const double probability = 1 / sum;
      return both * unit / divisor * ((2 * exp_units + n + 3) * probability + (is_target ? 2 : 0));
    });
  });
}

TEST_CASE("random shapes: AdamW is within the rounding errors") {
  on_random_shapes(14, [](Shape s, std::mt19937_64& random) {
    const Index size = s.rows * s.columns;
    Twin p(1, size, random, 1), m(1, size, random, 1), v(1, size, random, 1);
    const std::vector<float> gradient = random_numbers(size, 1, random);
    // Second moments are not negative.
    on_both([&]<class B>() {
      const auto moments = v.template view<B>();
      for (Index i = 0; i < size; ++i) moments.data[i] = std::abs(moments.data[i]);
    });
    const Twin p0 = p, m0 = m, v0 = v;
    const AdamWConstants<float> o{
        .beta1 = 0.9f, .rest1 = 0.1f, .beta2 = 0.95f, .rest2 = 0.05f, .eps = 1e-8f, .factor = 0.5f};
    constexpr float step_size = 0.0625f, correction = 1.5f, keep = 0.99f;
    on_both([&]<class B>() {
      std::vector<AdamWSegment<float>> segments(1);
      segments[0] = {.value = p.template view<B>().data,
                     .gradient = gradient.data(),
                     .master = nullptr,
                     .first_moment = m.template view<B>().data,
                     .second_moment = v.template view<B>().data,
                     .size = static_cast<std::int64_t>(size),
                     .step_size = step_size,
                     .root_correction = correction,
                     .keep = keep,
                     .first_chunk = 0};
      Kernels<op::adamw, B>::run(segments, o);
    });
    const auto g = [&](Index j) {
      return 0.5 * static_cast<double>(gradient[static_cast<std::size_t>(j)]);
    };
    const auto first = [&](Index, Index j) {
      return both * unit * 3 * (0.9 * std::abs(m0(0, j)) + 0.1 * std::abs(g(j)));
    };
    const auto second = [&](Index, Index j) { return both * unit * 4 * v(0, j); };
    // The terms of the first moment may cancel, so that its error is not relative to it.
    const auto parameter = [&](Index, Index j) {
      const double divisor = std::sqrt(v(0, j)) * 1.5 + 1e-8;
      const double terms = 0.9 * std::abs(m0(0, j)) + 0.1 * std::abs(g(j));
      return both * unit * (2 * std::abs(p0(0, j)) + 12 * 0.0625 * terms / divisor);
    };
    return m.is_beyond(first) || v.is_beyond(second) || p.is_beyond(parameter);
  });
}
