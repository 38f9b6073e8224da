// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sampling policies.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "branch.hpp"
#include "dropbp/policy/fixed_budget_sampling.hpp"
#include "dropbp/schedule.hpp"

// What a sampling policy prepares has a name.
// expect: dropbp: a schedule's third argument is a sampling policy
namespace sampling_without_prepared {
struct Own {
#ifdef DROPBP_TEST_WRONG
  int prepare(const dropbp::SamplingInput&) const { return 0; }
  void draw(int, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#else
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
}  // namespace sampling_without_prepared

// A schedule holds what was prepared.
// expect: dropbp: a schedule's third argument is a sampling policy
namespace sampling_prepared_without_default {
struct Own {
#ifdef DROPBP_TEST_WRONG
  struct Prepared {
    explicit Prepared(int) {}
  };
  Prepared prepare(const dropbp::SamplingInput&) const { return Prepared(0); }
#else
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
#endif
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
}  // namespace sampling_prepared_without_default

// A sampling policy prepares and draws.
// expect: dropbp: a schedule's third argument is a sampling policy
namespace sampling_without_prepare {
struct Own {
  struct Prepared {};
#ifndef DROPBP_TEST_WRONG
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
#endif
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
}  // namespace sampling_without_prepare

// What is prepared is what is drawn from.
// expect: dropbp: a schedule's third argument is a sampling policy
namespace sampling_prepares_something_else {
struct Own {
  struct Prepared {};
#ifdef DROPBP_TEST_WRONG
  std::vector<double> prepare(const dropbp::SamplingInput&) const { return {}; }
#else
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
#endif
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
}  // namespace sampling_prepares_something_else

// A sampling policy prepares and draws.
// expect: dropbp: a schedule's third argument is a sampling policy
namespace sampling_without_draw {
struct Own {
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
#ifndef DROPBP_TEST_WRONG
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
}  // namespace sampling_without_draw

// A draw is a pure function.
// expect: dropbp: a schedule's third argument is a sampling policy
namespace sampling_draw_that_changes {
struct Own {
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
#ifdef DROPBP_TEST_WRONG
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) {}
#else
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
}  // namespace sampling_draw_that_changes

// Decisions are bytes.
// expect: dropbp: a schedule's third argument is a sampling policy
namespace sampling_draws_bools {
struct Own {
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
#ifdef DROPBP_TEST_WRONG
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<bool>) const {}
#else
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
}  // namespace sampling_draws_bools

// The random numbers of a draw are given, not kept.
// expect: dropbp: a schedule's third argument is a sampling policy
namespace sampling_draws_with_a_generator {
struct Own {
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
#ifdef DROPBP_TEST_WRONG
  void draw(const Prepared&, std::uint64_t& generator, std::span<std::uint8_t>) const {
    ++generator;
  }
#else
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
}  // namespace sampling_draws_with_a_generator

// A schedule is a value.
// expect: dropbp: a schedule's third argument is a sampling policy
namespace sampling_that_stays {
struct Own {
#ifdef DROPBP_TEST_WRONG
  const int seed = 0;
#else
  int seed = 0;
#endif
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
}  // namespace sampling_that_stays

// The sampling policy comes after the allocation policy.
// expect: dropbp: a handler's third type and fourth argument is a sampling policy
namespace allocation_in_the_place_of_sampling {
void use(PlainModel& model) {
#ifdef DROPBP_TEST_WRONG
  dropbp::DropBPHandler handler{model, {}, dropbp::GreedyAllocation{}, dropbp::UniformAllocation{}};
#else
  dropbp::DropBPHandler handler{model, {}, dropbp::GreedyAllocation{}, dropbp::BernoulliSampling{}};
#endif
}
}  // namespace allocation_in_the_place_of_sampling

// A cap that is never applied has no effect.
// expect: dropbp: the sampling policy's limit would never be called
namespace limit_of_a_vector {
struct Own {
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#ifdef DROPBP_TEST_WRONG
  void limit(std::vector<double>&, const dropbp::SamplingInput&) const {}
#else
  void limit(std::span<double>, const dropbp::SamplingInput&) const {}
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
}  // namespace limit_of_a_vector

// A bound that is never read has no effect.
// expect: dropbp: the sampling policy's max_kept would never be called
namespace max_kept_of_another_type {
struct Own {
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#ifdef DROPBP_TEST_WRONG
  int max_kept(const Prepared&, std::uint32_t) const { return 1; }
#else
  std::size_t max_kept(const Prepared&, std::uint32_t) const { return 1; }
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
}  // namespace max_kept_of_another_type

// A bound that is never read has no effect.
// expect: dropbp: the sampling policy's max_kept_weight would never be called
namespace max_kept_weight_that_changes {
struct Own {
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput&) const { return {}; }
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t>) const {}
#ifdef DROPBP_TEST_WRONG
  double max_kept_weight(const Prepared&) { return 1.0; }
#else
  double max_kept_weight(const Prepared&) const { return 1.0; }
#endif
};

dropbp::DropSchedule<Own> use() { return dropbp::DropSchedule<Own>({1.0}); }
}  // namespace max_kept_weight_that_changes

// Independent draws bound nothing.
// expect: dropbp: max_kept_weight() needs a sampling policy that bounds it
namespace max_kept_weight_of_independent_draws {
#ifdef DROPBP_TEST_WRONG
using Sampling = dropbp::BernoulliSampling;
#else
using Sampling = dropbp::FixedBudgetSampling;
#endif

double use(const dropbp::DropSchedule<Sampling>& schedule) { return schedule.max_kept_weight(); }
}  // namespace max_kept_weight_of_independent_draws
