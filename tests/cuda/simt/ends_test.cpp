// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The two ends of a model compared with the CPU's ops: the embedding has the same bits, the loss
// agrees within its accumulated rounding errors.
#include <algorithm>
#include <cmath>
#include <limits>

#include "dropbp/kernels/cuda/cross_entropy.hpp"
#include "dropbp/kernels/cuda/embedding.hpp"
#include "dropbp/ops/cross_entropy.hpp"
#include "dropbp/ops/embedding.hpp"
#include "simt_test.hpp"

using namespace dropbp::test;
using dropbp::BFloat16;
using dropbp::Half;

namespace {

namespace ops = dropbp::ops;
constexpr std::int32_t ignored = ops::CrossEntropy<float>::ignore_index;

std::vector<std::int32_t> random_tokens(std::size_t count, std::int32_t vocabulary,
                                        std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<std::int32_t> uniform(0, vocabulary - 1);
  std::vector<std::int32_t> tokens(count);
  for (auto& token : tokens)
    token = random() % 3 == 0 ? vocabulary / 2 : uniform(random);  // one token is frequent
  return tokens;
}

// The losses and their gradient by the logits in long double, with the allowed errors of float.
struct ExactLosses {
  std::vector<long double> losses, gradient;
  std::vector<double> loss_bound, gradient_bound;

  // A kernel reads `width` elements at a time.
  ExactLosses(const std::vector<float>& logits, const std::vector<std::int32_t>& targets,
              std::size_t vocabulary, double width) {
    long double counted = 0;
    for (const auto target : targets) counted += target != ignored;
    const double u = float_unit, packs = std::ceil(static_cast<double>(vocabulary) / width / 512);
    for (std::size_t row = 0; row < targets.size(); ++row) {
      const auto at = [&](std::size_t j) {
        return static_cast<long double>(logits[row * vocabulary + j]);
      };
      long double largest = at(0), smallest = at(0), sum = 0, weighted = 0;
      for (std::size_t j = 0; j < vocabulary; ++j)
        largest = std::max(largest, at(j)), smallest = std::min(smallest, at(j));
      for (std::size_t j = 0; j < vocabulary; ++j)
        sum += std::exp(at(j) - largest), weighted += std::exp(at(j) - largest) * (largest - at(j));
      const bool counts = targets[row] != ignored;
      const auto target = static_cast<std::size_t>(counts ? targets[row] : 0);
      const long double loss = counts ? std::log(sum) + largest - at(target) : 0;
      // Relative error of the sum. Each exponential has 2 units and a rounded argument. At most
      // once per pack and once at the end comes a correction by an exponential and a product; the
      // arguments of all corrections together span the row. Then the additions of packs, within a
      // pack and within a block.
      const double of_sum =
          u * (static_cast<double>(weighted / sum) + static_cast<double>(largest - smallest) + 2 +
               3 * (packs + 1) + packs + width + 5 + 16);
      losses.push_back(loss);
      loss_bound.push_back(1.01 * (of_sum + u * (2 * std::abs(std::log(static_cast<double>(sum))) +
                                                 std::abs(std::log(static_cast<double>(sum)) +
                                                          static_cast<double>(largest)) +
                                                 std::abs(static_cast<double>(loss)))));
      for (std::size_t j = 0; j < vocabulary; ++j) {
        const long double p = counts ? std::exp(at(j) - largest) / sum / counted : 0;
        const long double one = counts && j == target ? 1 / counted : 0;
        gradient.push_back(p - one);
        gradient_bound.push_back(
            1.01 *
            (static_cast<double>(p) * (of_sum + u * (static_cast<double>(largest - at(j)) + 5)) +
             u * 2 * static_cast<double>(one)));
      }
    }
  }
};

}  // namespace

TEST_CASE("the order of tokens lists each id's positions") {
  for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{300}}) {
    const auto tokens = random_tokens(count, 40, 1);
    const dropbp::cuda::TokenOrder order(tokens.data(), count);
    REQUIRE(order.starts.size() == order.ids.size() + 1);
    REQUIRE(order.starts.back() == static_cast<std::int32_t>(count));
    std::vector<std::vector<std::int32_t>> wanted(40);
    for (std::size_t t = 0; t < count; ++t)
      wanted[static_cast<std::size_t>(tokens[t])].push_back(static_cast<std::int32_t>(t));
    std::size_t i = 0;
    for (std::int32_t id = 0; id < 40; ++id) {
      const auto& positions = wanted[static_cast<std::size_t>(id)];
      if (positions.empty()) continue;
      REQUIRE(i < order.ids.size());
      CHECK(order.ids[i] == id);
      CHECK(std::vector<std::int32_t>(order.positions.begin() + order.starts[i],
                                      order.positions.begin() + order.starts[i + 1]) == positions);
      ++i;
    }
    CHECK(i == order.ids.size());
  }
}

TEST_CASE("the embedding and its gradient have the CPU's bits") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    struct Case {
      std::size_t tokens;
      std::int32_t vocabulary;
      Index columns;
    };
    for (const Case c :
         {Case{1, 1, 1}, Case{37, 11, 5}, Case{50, 9, 64}, Case{5, 7, 1032}, Case{0, 5, 8}})
      for (const Layout& layout : layouts)
        for (const bool add : {false, true}) {
          INFO(c.tokens << " tokens of " << c.vocabulary << " by " << c.columns << ", "
                        << text(layout) << ", add " << add);
          const auto count = static_cast<Index>(c.tokens), vocabulary = Index{c.vocabulary};
          const auto tokens = random_tokens(c.tokens, c.vocabulary, 2);
          const auto table = random_values<T>(vocabulary * c.columns, 3),
                     gradients = random_values<T>(count * c.columns, 4),
                     before = random_values<T>(vocabulary * c.columns, 5);
          const simt::Buffer<std::int32_t> ids(tokens);
          const dropbp::cuda::TokenOrder order(tokens.data(), c.tokens);
          const simt::Buffer<std::int32_t> order_ids(order.ids), starts(order.starts),
              positions(order.positions);
          DeviceMatrix<T> weight(vocabulary, c.columns, layout, table),
              grad_output(count, c.columns, layout, gradients);
          std::vector<float> out, gradient;
          in_all_schedules([&](auto& launch) {
            DeviceMatrix<T> y(count, c.columns, layout);
            DeviceMatrix<T> g = add ? DeviceMatrix<T>(vocabulary, c.columns, layout, before)
                                    : DeviceMatrix<T>(vocabulary, c.columns, layout);
            dropbp::cuda::embedding_forward(launch, y.rows(), ids.data(), weight.rows(), count,
                                            c.columns);
            dropbp::cuda::embedding_backward(
                launch, g.rows(), add, grad_output.rows(), order_ids.data(), starts.data(),
                positions.data(), static_cast<Index>(order.ids.size()), vocabulary, c.columns);
            CHECK((y.gaps_are_poison() && g.gaps_are_poison()));
            out = y.values(), gradient = g.values();
            return joined(out, gradient);
          });
          ops::Parameter<float> parameter("w", vocabulary, c.columns);
          std::copy(table.begin(), table.end(), parameter.value().data);
          std::vector<float> wanted(static_cast<std::size_t>(count * c.columns));
          ops::embedding_forward<float>({wanted.data(), count, c.columns}, tokens, parameter);
          CHECK(same_bits(out, wanted));
          if (add) {
            parameter.begin_gradient();
            std::copy(before.begin(), before.end(), parameter.gradient().data);
          }
          ops::embedding_backward<float>({gradients.data(), count, c.columns}, tokens, parameter);
          const auto size = vocabulary * c.columns;
          CHECK(same_bits(gradient, to_floats(to_scalars<T>({parameter.gradient().data,
                                                             parameter.gradient().data + size}))));
        }
  });
}

TEST_CASE(
    "losses and their gradient agree with long double and with the CPU; ignored targets have "
    "none") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    struct Case {
      Index rows, vocabulary;
    };
    for (const Case c :
         {Case{1, 1}, Case{5, 7}, Case{3, 64}, Case{3, 1035}, Case{2, 4200}, Case{0, 8}})
      for (const Layout& layout : layouts)
        for (const bool keep : {false, true}) {
          INFO("[" << c.rows << ", " << c.vocabulary << "], " << text(layout) << ", keep " << keep);
          const auto vocabulary = static_cast<std::size_t>(c.vocabulary),
                     rows = static_cast<std::size_t>(c.rows);
          const auto logits = random_values<T>(c.rows * c.vocabulary, 6, -8, 8);
          auto targets = random_tokens(rows, static_cast<std::int32_t>(c.vocabulary), 7);
          if (rows > 2) targets[1] = ignored;
          for (auto& target : targets)
            if (target >= c.vocabulary) target = 0;
          double divisor = 0;
          for (const auto target : targets) divisor += target != ignored ? 1 : 0;
          const simt::Buffer<std::int32_t> device_targets(targets);
          std::vector<float> losses, after;
          in_all_schedules([&](auto& launch) {
            DeviceMatrix<T> x(c.rows, c.vocabulary, layout, logits);
            simt::Buffer<float> to(rows);
            dropbp::cuda::cross_entropy_rows(launch, x.rows(), to.data(), device_targets.data(),
                                             ignored, divisor, keep, c.rows, c.vocabulary);
            CHECK(x.gaps_are_poison());
            losses = to.host(), after = x.values();
            return joined(losses, after);
          });
          const bool whole_packs = layout.shift == 0 && layout.gap != 3 &&
                                   c.vocabulary % Index{dropbp::cuda::full_width<T>} == 0;
          const ExactLosses exact(logits, targets, vocabulary,
                                  whole_packs ? dropbp::cuda::full_width<T> : 1);
          CHECK(worst_share(losses, exact.losses,
                            [&](std::size_t i) { return exact.loss_bound[i]; }) <= 1);
          if (!keep) {
            CHECK(same_bits(after, logits));
            continue;
          }
          CHECK(worst_share(after, exact.gradient, [&](std::size_t i) {
                  return exact.gradient_bound[i] +
                         std::abs(static_cast<double>(exact.gradient[i])) * unit<T> + least<T>;
                }) <= 1);
          for (std::size_t i = 0; i < rows; ++i)
            if (targets[i] == ignored) {
              CHECK(losses[i] == 0);
              CHECK(same_bits({after.begin() + static_cast<Index>(i * vocabulary),
                               after.begin() + static_cast<Index>((i + 1) * vocabulary)},
                              std::vector<float>(vocabulary, 0.0f)));
            }
        }
  });
}

TEST_CASE("for equal logits the losses agree with the CPU's, and the gradient has the same bits") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    // Powers of two: each probability is exactly 1/64, each share of the mean exactly 1/4. The
    // CPU's op takes the logits as a product with 1.
    constexpr Index rows = 4, vocabulary = 64;
    const std::vector<std::int32_t> targets = {0, 63, 5, 5};
    const std::vector<float> logits(rows * vocabulary, 3.0f);
    ops::Parameter<float> one("one", vocabulary, vocabulary);
    for (Index i = 0; i < vocabulary; ++i)
      for (Index j = 0; j < vocabulary; ++j) one.value().row(i)[j] = i == j ? 1.0f : 0.0f;
    std::vector<float> wanted(logits.size());
    ops::CrossEntropy<float> loss{ops::MemoryPool()};
    const double mean = loss.loss_and_gradient({wanted.data(), rows, vocabulary},
                                               {logits.data(), rows, vocabulary}, one, targets);
    simt::Launcher launch;
    DeviceMatrix<T> x(rows, vocabulary, layouts[0], logits);
    simt::Buffer<float> losses(rows);
    const simt::Buffer<std::int32_t> device_targets(targets);
    dropbp::cuda::cross_entropy_rows(launch, x.rows(), losses.data(), device_targets.data(),
                                     ignored, 4, true, rows, vocabulary);
    CHECK(same_bits(x.values(), wanted));
    for (const float value : losses.host())
      CHECK(std::abs(static_cast<double>(value) - mean) <= 3 * std::log(64.0) * float_unit);
  });
}

TEST_CASE("a logit of minus infinity has probability 0 at any position, and NaN stays NaN") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    const float infinity = std::numeric_limits<float>::infinity();
    for (const Index vocabulary : {16, 17, 4800})
      for (const bool at_the_end : {false, true}) {
        INFO(vocabulary << ", at the end " << at_the_end);
        std::vector<float> logits(static_cast<std::size_t>(2 * vocabulary), -infinity);
        const auto finite = static_cast<std::size_t>(at_the_end ? 0 : vocabulary - 1);
        logits[finite] = 2.0f;
        std::fill(logits.begin() + vocabulary, logits.end(), 1.0f);
        logits[static_cast<std::size_t>(vocabulary)] = std::nanf("");
        const simt::Buffer<std::int32_t> targets(
            std::vector<std::int32_t>{static_cast<std::int32_t>(finite), 1});
        simt::Launcher launch;
        DeviceMatrix<T> x(2, vocabulary, layouts[0], logits);
        simt::Buffer<float> losses(2);
        dropbp::cuda::cross_entropy_rows(launch, x.rows(), losses.data(), targets.data(), ignored,
                                         2, true, 2, vocabulary);
        CHECK(losses.host()[0] == 0.0f);
        CHECK(std::isnan(losses.host()[1]));
        const auto after = x.values();
        for (Index j = 0; j < vocabulary; ++j) REQUIRE(after[static_cast<std::size_t>(j)] == 0.0f);
      }
  });
}
