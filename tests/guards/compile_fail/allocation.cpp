// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Allocation policies, and the objectives of OptimalAllocation.
#include <span>
#include <vector>

#include "branch.hpp"
#include "dropbp/policy/optimal_allocation.hpp"
#include "dropbp/schedule.hpp"

// An allocation policy is given the costs and the budget too.
// expect: dropbp: the second argument of allocate is an allocation policy
namespace allocation_from_sensitivities_alone {
struct Own {
#ifdef DROPBP_TEST_WRONG
  std::vector<double> allocate(std::span<const double> sensitivities) const {
    return std::vector<double>(sensitivities.size());
  }
#else
  std::vector<double> allocate(const dropbp::AllocationInput& input) const {
    return std::vector<double>(input.costs.size());
  }
#endif
};

void use(dropbp::DropSchedule<>& schedule, const std::vector<double>& sensitivities) {
  schedule.allocate(sensitivities, Own{});
}
}  // namespace allocation_from_sensitivities_alone

// An allocation policy returns doubles.
// expect: dropbp: the second argument of allocate is an allocation policy
namespace allocation_of_floats {
struct Own {
#ifdef DROPBP_TEST_WRONG
  std::vector<float> allocate(const dropbp::AllocationInput& input) const {
    return std::vector<float>(input.costs.size());
  }
#else
  std::vector<double> allocate(const dropbp::AllocationInput& input) const {
    return std::vector<double>(input.costs.size());
  }
#endif
};

void use(dropbp::DropSchedule<>& schedule) { schedule.allocate(std::vector<double>{1.0}, Own{}); }
}  // namespace allocation_of_floats

// Rates are returned, not pointed to.
// expect: dropbp: the second argument of allocate is an allocation policy
namespace allocation_of_a_span {
struct Own {
#ifdef DROPBP_TEST_WRONG
  std::span<const double> allocate(const dropbp::AllocationInput& input) const {
    return input.costs;
  }
#else
  std::vector<double> allocate(const dropbp::AllocationInput& input) const {
    return std::vector<double>(input.costs.size());
  }
#endif
};

void use(dropbp::DropSchedule<>& schedule, const std::vector<double>& sensitivities) {
  schedule.allocate(sensitivities, Own{});
}
}  // namespace allocation_of_a_span

// An allocation policy is constant: its answer depends on nothing but its input.
// expect: dropbp: the second argument of allocate is an allocation policy
namespace allocation_that_changes {
struct Own {
#ifdef DROPBP_TEST_WRONG
  std::vector<double> allocate(const dropbp::AllocationInput& input) {
    return std::vector<double>(input.costs.size());
  }
#else
  std::vector<double> allocate(const dropbp::AllocationInput& input) const {
    return std::vector<double>(input.costs.size());
  }
#endif
};

void use(dropbp::DropSchedule<>& schedule, const std::vector<double>& sensitivities) {
  schedule.allocate(sensitivities, Own{});
}
}  // namespace allocation_that_changes

// An allocation policy is a value.
// expect: dropbp: the second argument of allocate is an allocation policy
namespace allocation_that_stays {
struct Own {
#ifdef DROPBP_TEST_WRONG
  const double rate = 0.5;
#else
  double rate = 0.5;
#endif
  std::vector<double> allocate(const dropbp::AllocationInput& input) const {
    return std::vector<double>(input.costs.size());
  }
};

void use(dropbp::DropSchedule<>& schedule, const std::vector<double>& sensitivities) {
  schedule.allocate(sensitivities, Own{});
}
}  // namespace allocation_that_stays

// The allocation policy comes before the sampling policy.
// expect: dropbp: a handler's second type and third argument is an allocation policy
namespace sampling_in_the_place_of_allocation {
void use(PlainModel& model) {
#ifdef DROPBP_TEST_WRONG
  dropbp::DropBPHandler handler{model, {}, dropbp::AtLeastTargetSampling{}};
#else
  dropbp::DropBPHandler handler{
      model, {}, dropbp::GreedyAllocation{}, dropbp::AtLeastTargetSampling{}};
#endif
}
}  // namespace sampling_in_the_place_of_allocation

// An objective is the inverse of a derivative, not phi itself.
// expect: dropbp: an objective of OptimalAllocation is a copyable type with double rate_at
namespace objective_without_rate_at {
struct Cubic {
#ifdef DROPBP_TEST_WRONG
  double operator()(double rate) const { return rate * rate * rate; }
#else
  double rate_at(double slope) const { return slope < 3.0 ? slope / 3.0 : 1.0; }
#endif
};

std::vector<double> use(const dropbp::AllocationInput& input) {
  return dropbp::OptimalAllocation<Cubic>{}.allocate(input);
}
}  // namespace objective_without_rate_at

// A rate is a double.
// expect: dropbp: an objective of OptimalAllocation is a copyable type with double rate_at
namespace objective_in_floats {
struct Cubic {
#ifdef DROPBP_TEST_WRONG
  float rate_at(double slope) const { return slope < 3.0 ? 0.5f : 1.0f; }
#else
  double rate_at(double slope) const { return slope < 3.0 ? 0.5 : 1.0; }
#endif
};

std::vector<double> use(const dropbp::AllocationInput& input) {
  return dropbp::OptimalAllocation<Cubic>{}.allocate(input);
}
}  // namespace objective_in_floats

// An objective is constant.
// expect: dropbp: an objective of OptimalAllocation is a copyable type with double rate_at
namespace objective_that_changes {
struct Cubic {
#ifdef DROPBP_TEST_WRONG
  double rate_at(double slope) { return slope < 3.0 ? 0.5 : 1.0; }
#else
  double rate_at(double slope) const { return slope < 3.0 ? 0.5 : 1.0; }
#endif
};

std::vector<double> use(const dropbp::AllocationInput& input) {
  return dropbp::OptimalAllocation<Cubic>{}.allocate(input);
}
}  // namespace objective_that_changes

// The first argument of a schedule has a cost for each branch.
// expect: dropbp: the first argument of a schedule is a list with the cost of each branch, not a
// number
namespace schedule_of_a_number {
dropbp::DropSchedule<> use() {
#ifdef DROPBP_TEST_WRONG
  return dropbp::DropSchedule<>(8, {.drop_rate = 0.5});
#else
  return dropbp::DropSchedule<>(std::vector<double>(8, 1.0), {.drop_rate = 0.5});
#endif
}
}  // namespace schedule_of_a_number

// Nor without options.
// expect: dropbp: the first argument of a schedule is a list with the cost of each branch, not a
// number
namespace schedule_of_only_a_number {
#ifdef DROPBP_TEST_WRONG
dropbp::DropSchedule schedule(8u);  // int is in the case above, and each type has one message
#else
dropbp::DropSchedule schedule({1.0});
#endif
}  // namespace schedule_of_only_a_number

// A rate is one of the options.
// expect: dropbp: the second argument of a schedule is a DropOptions, not a number
namespace schedule_with_a_bare_rate {
#ifdef DROPBP_TEST_WRONG
dropbp::DropSchedule schedule(std::vector<double>(8, 1.0), 0.5);
#else
dropbp::DropSchedule schedule(std::vector<double>(8, 1.0), {.drop_rate = 0.5});
#endif
}  // namespace schedule_with_a_bare_rate
