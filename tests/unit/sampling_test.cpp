// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Samplers compared with exact laws: marginals, independence, and the published sampler by
// enumeration.
#include "dropbp/policy/sampling.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/promise.hpp"
#include "support/statistics.hpp"

using dropbp::AtLeastTargetSampling;
using dropbp::BernoulliSampling;
using dropbp::CounterRandom;
using dropbp::RandomStream;

static_assert(dropbp::Sampling<BernoulliSampling>);
static_assert(dropbp::Sampling<AtLeastTargetSampling>);

namespace {

constexpr double checks = 1 << 14;  // an upper bound of the number of frequency checks in this file

template <class Policy>
typename Policy::Prepared prepare(const Policy& policy, const std::vector<double>& rates,
                                  double drop_rate = 0.0) {
  const std::vector<double> costs(rates.size(), 1.0);
  return policy.prepare({rates, costs, drop_rate});
}

// The mask of one step as bits; branch 0 is the lowest.
template <class Policy>
std::uint32_t draw(const Policy& policy, const typename Policy::Prepared& prepared,
                   std::size_t size, std::uint64_t seed, std::uint64_t step,
                   std::uint32_t micro_step = 0) {
  std::uint8_t dropped[32];
  policy.draw(prepared, CounterRandom(seed, RandomStream::drop_decision, step, micro_step),
              {dropped, size});
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < size; ++i) bits |= static_cast<std::uint32_t>(dropped[i]) << i;
  return bits;
}

double probability(std::uint32_t mask, const std::vector<double>& rates) {
  double product = 1.0;
  for (std::size_t i = 0; i < rates.size(); ++i)
    product *= ((mask >> i) & 1u) != 0 ? rates[i] : 1.0 - rates[i];
  return product;
}

// The published sampler, written from its description: while count / N < p, drop the branch with
// the highest rate, on a tie the one with the lowest index.
std::uint32_t published_top_up(std::uint32_t mask, const std::vector<double>& rates,
                               double drop_rate) {
  std::vector<std::size_t> order(rates.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return rates[a] > rates[b] || (rates[a] == rates[b] && a < b);
  });
  for (const std::size_t i : order) {
    if (!(static_cast<double>(std::popcount(mask)) / static_cast<double>(rates.size()) < drop_rate))
      break;
    mask |= 1u << i;
  }
  return mask;
}

}  // namespace

TEST_CASE(
    "Ten million draws of each rate and each pair of branches have the frequencies of independent "
    "decisions") {
  const std::vector<double> rates{0.0, 1.0, 0x1p-53, 0.1, 0.5, 0.9, 0.3, 1e-6, 1.0 - 1e-6, 0.5};
  const std::size_t size = rates.size();
  const std::uint64_t n = 10'000'000;
  const auto prepared = prepare(BernoulliSampling{}, rates);
  std::vector<std::uint64_t> histogram(std::size_t{1} << size);
  for (std::uint64_t step = 0; step < n; ++step)
    ++histogram[draw(BernoulliSampling{}, prepared, size, 20260101, step)];

  const auto count = [&](std::uint32_t all_of) {
    std::uint64_t sum = 0;
    for (std::uint32_t mask = 0; mask < histogram.size(); ++mask)
      if ((mask & all_of) == all_of) sum += histogram[mask];
    return sum;
  };
  for (std::size_t i = 0; i < size; ++i) {
    CAPTURE(rates[i], count(1u << i));
    CHECK(dropbp_test::frequency_is_plausible(count(1u << i), n, rates[i], checks));
    for (std::size_t j = i + 1; j < size; ++j) {
      CAPTURE(i, j, count(1u << i | 1u << j));
      CHECK(dropbp_test::frequency_is_plausible(count(1u << i | 1u << j), n, rates[i] * rates[j],
                                                checks));
    }
  }
  for (std::uint32_t mask = 0; mask < histogram.size(); ++mask) {
    CAPTURE(mask, histogram[mask]);
    REQUIRE(
        dropbp_test::frequency_is_plausible(histogram[mask], n, probability(mask, rates), checks));
  }
  CHECK(count(1u << 0) == 0);  // a rate of 0 never drops
  CHECK(count(1u << 1) == n);  // a rate of 1 always drops
  dropbp_test::promise(7, "draws=%llu drops_at_rate_0=%llu keeps_at_rate_1=%llu",
                       static_cast<unsigned long long>(n),
                       static_cast<unsigned long long>(count(1u << 0)),
                       static_cast<unsigned long long>(n - count(1u << 1)));
}

TEST_CASE("The bounds of the frequency checks are neither trivial nor loose") {
  CHECK(dropbp_test::frequency_is_plausible(5'000'000, 10'000'000, 0.5, checks));
  CHECK(dropbp_test::frequency_is_plausible(5'012'000, 10'000'000, 0.5, checks));
  CHECK_FALSE(dropbp_test::frequency_is_plausible(5'016'000, 10'000'000, 0.5, checks));
  CHECK_FALSE(dropbp_test::frequency_is_plausible(4'984'000, 10'000'000, 0.5, checks));
  CHECK_FALSE(dropbp_test::frequency_is_plausible(1, 10'000'000, 0.0, checks));
  CHECK_FALSE(dropbp_test::frequency_is_plausible(9'999'999, 10'000'000, 1.0, checks));
  CHECK(dropbp_test::frequency_is_plausible(0, 10'000'000, 0x1p-53, checks));
  CHECK_FALSE(dropbp_test::frequency_is_plausible(3, 10'000'000, 0x1p-53, checks));
}

TEST_CASE("Decisions of neighbouring steps, micro-steps and seeds are independent") {
  const std::vector<double> rates{0.5, 0.3, 0.9};
  const auto prepared = prepare(BernoulliSampling{}, rates);
  const std::uint64_t n = 300'000;
  std::vector<std::uint64_t> step_pairs(3), micro_pairs(3), seed_pairs(3);
  for (std::uint64_t step = 0; step < n; ++step) {
    const std::uint32_t here = draw(BernoulliSampling{}, prepared, 3, 1, step);
    const std::uint32_t next = here & draw(BernoulliSampling{}, prepared, 3, 1, step + n);
    const std::uint32_t micro = here & draw(BernoulliSampling{}, prepared, 3, 1, step, 1);
    const std::uint32_t seed = here & draw(BernoulliSampling{}, prepared, 3, 2, step);
    for (std::size_t i = 0; i < 3; ++i) {
      step_pairs[i] += (next >> i) & 1u;
      micro_pairs[i] += (micro >> i) & 1u;
      seed_pairs[i] += (seed >> i) & 1u;
    }
  }
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(dropbp_test::frequency_is_plausible(step_pairs[i], n, rates[i] * rates[i], checks));
    CHECK(dropbp_test::frequency_is_plausible(micro_pairs[i], n, rates[i] * rates[i], checks));
    CHECK(dropbp_test::frequency_is_plausible(seed_pairs[i], n, rates[i] * rates[i], checks));
  }
}

TEST_CASE("Thresholds are the rates as 53-bit integers") {
  const auto prepared =
      prepare(BernoulliSampling{}, {0.0, -0.0, 1.0, 0.5, 0x1p-53, 0x1p-54, 1.0 - 0x1p-53, 0.1});
  CHECK(prepared.thresholds == std::vector<std::uint64_t>{0, 0, 1ull << 53, 1ull << 52, 1, 0,
                                                          (1ull << 53) - 1, 900719925474099});
}

TEST_CASE("A decision depends only on its own rate and not on the number of branches") {
  const std::vector<double> rates{0.5, 0.3, 0.9, 0.7, 0.2};
  for (std::size_t size = 1; size <= rates.size(); ++size) {
    const auto some = prepare(BernoulliSampling{},
                              {rates.begin(), rates.begin() + static_cast<std::ptrdiff_t>(size)});
    const auto all = prepare(BernoulliSampling{}, rates);
    for (std::uint64_t step = 0; step < 200; ++step)
      REQUIRE(draw(BernoulliSampling{}, some, size, 3, step) ==
              (draw(BernoulliSampling{}, all, rates.size(), 3, step) & ((1u << size) - 1)));
  }
}

TEST_CASE(
    "AtLeastTargetSampling changes every outcome of independent draws as the published sampler "
    "does") {
  struct Instance {
    std::vector<double> rates;
    double drop_rate;
  };
  for (const Instance& instance :
       {Instance{{0.5, 0.5, 0.5, 0.5, 0.5, 0.5}, 0.5},
        Instance{{0.2, 0.7, 0.7, 0.4, 0.1, 0.7, 0.4}, 0.45},
        Instance{{0.9, 0.1, 0.9, 0.1, 0.9}, 0.6}, Instance{{0.5, 0.6, 0.7, 0.4}, 1.0},
        Instance{{0.5, 0.4, 0.3}, 0.0}, Instance{{0.5}, 0.5},
        Instance{{0.3, 0.6, 0.5, 0.5, 0.4, 0.7, 0.2, 0.5}, 0.875}}) {
    const std::size_t size = instance.rates.size();
    const auto independent = prepare(BernoulliSampling{}, instance.rates);
    const auto topped_up = prepare(AtLeastTargetSampling{}, instance.rates, instance.drop_rate);
    const std::uint64_t n = 200'000;
    std::vector<std::uint64_t> seen(std::size_t{1} << size), outcomes(seen.size());
    for (std::uint64_t step = 0; step < n; ++step) {
      const std::uint32_t before = draw(BernoulliSampling{}, independent, size, 11, step);
      const std::uint32_t after = draw(AtLeastTargetSampling{}, topped_up, size, 11, step);
      REQUIRE(after == published_top_up(before, instance.rates, instance.drop_rate));
      ++seen[before], ++outcomes[after];
    }
    CHECK(std::count(seen.begin(), seen.end(), 0u) == 0);  // each of the 2^N outcomes occurred

    // The law, by enumeration.
    std::vector<double> law(seen.size());
    for (std::uint32_t mask = 0; mask < law.size(); ++mask)
      law[published_top_up(mask, instance.rates, instance.drop_rate)] +=
          probability(mask, instance.rates);
    for (std::size_t mask = 0; mask < law.size(); ++mask)
      CHECK(
          dropbp_test::frequency_is_plausible(outcomes[mask], n, std::min(law[mask], 1.0), checks));
  }
}

TEST_CASE("AtLeastTargetSampling drops the smallest count whose share is at least the target") {
  for (std::size_t size = 1; size <= 300; ++size) {
    const std::vector<double> rates(size, 0.5);
    for (std::size_t k = 0; k <= size; ++k) {
      const double share = static_cast<double>(k) / static_cast<double>(size);
      REQUIRE(prepare(AtLeastTargetSampling{}, rates, share).least_dropped == k);
      if (k < size)
        REQUIRE(prepare(AtLeastTargetSampling{}, rates, std::nextafter(share, 2.0)).least_dropped ==
                k + 1);
    }
  }
  // Decimal targets count as in the published code.
  CHECK(prepare(AtLeastTargetSampling{}, std::vector<double>(10, 0.1), 0.1).least_dropped == 1);
  CHECK(prepare(AtLeastTargetSampling{}, std::vector<double>(10, 0.3), 0.3).least_dropped == 3);
  CHECK(prepare(AtLeastTargetSampling{}, std::vector<double>(10, 0.7), 0.7).least_dropped == 7);
  CHECK(prepare(AtLeastTargetSampling{}, std::vector<double>(64, 0.3), 0.3).least_dropped == 20);
}

TEST_CASE(
    "AtLeastTargetSampling drops on average 0.525, 0.772 and 0.891 of 64 branches at 0.5, 0.75 and "
    "0.875") {
  const std::size_t size = 64;
  for (const auto& [rate, published] : {std::pair{0.5, 0.525}, {0.75, 0.772}, {0.875, 0.891}}) {
    // E max(B, k) / N, where B is binomial.
    double exact = 0.0;
    for (std::size_t dropped = 0; dropped <= size; ++dropped) {
      const auto b = static_cast<double>(dropped), all = static_cast<double>(size);
      const double log_choose =
          std::lgamma(all + 1) - std::lgamma(b + 1) - std::lgamma(all - b + 1);
      exact += std::max(b / all, rate) *
               std::exp(log_choose + b * std::log(rate) + (all - b) * std::log1p(-rate));
    }
    CHECK(exact == Approx(published).margin(1e-3));  // the published figures were measured

    const auto prepared = prepare(AtLeastTargetSampling{}, std::vector<double>(size, rate), rate);
    std::vector<std::uint8_t> dropped(size);
    std::uint64_t count = 0;
    const std::uint64_t n = 200'000;
    std::size_t fewest = size;
    for (std::uint64_t step = 0; step < n; ++step) {
      AtLeastTargetSampling{}.draw(prepared, CounterRandom(5, RandomStream::drop_decision, step),
                                   dropped);
      const auto here = static_cast<std::size_t>(std::count(dropped.begin(), dropped.end(), 1));
      count += here;
      fewest = std::min(fewest, here);
    }
    // Hoeffding: shares are in [rate, 1].
    const double allowed =
        (1.0 - rate) * std::sqrt(std::log(2.0 * checks * 1e9) / (2.0 * static_cast<double>(n)));
    CHECK(std::abs(static_cast<double>(count) / static_cast<double>(n * size) - exact) < allowed);
    CHECK(fewest == static_cast<std::size_t>(rate * static_cast<double>(size)));
  }
}

TEST_CASE("AtLeastTargetSampling orders branches by rate, highest first, and on a tie by index") {
  for (std::size_t size = 1; size <= 40; ++size) {
    std::vector<double> rates(size);
    for (std::size_t i = 0; i < size; ++i)
      rates[i] = static_cast<double>(CounterRandom(9, RandomStream::user, size)(i) % 5) / 10.0;
    std::vector<std::uint32_t> expected(size);
    std::iota(expected.begin(), expected.end(), 0u);
    std::sort(expected.begin(), expected.end(), [&](std::uint32_t a, std::uint32_t b) {
      return rates[a] > rates[b] || (rates[a] == rates[b] && a < b);
    });
    REQUIRE(prepare(AtLeastTargetSampling{}, rates, 0.5).highest_rate_first == expected);
  }
}

TEST_CASE("An input without a target rate has the target 0") {
  CHECK(dropbp::SamplingInput{}.drop_rate == 0.0);
  CHECK(dropbp::SamplingInput{}.rates.empty());
}
