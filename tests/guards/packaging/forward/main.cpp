// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The definitions first, then the names: they mean the same types.
#include <dropbp/dropbp.hpp>
#include <dropbp/dropbp_fwd.hpp>

#include <type_traits>

#include "names.hpp"

struct Model {
  void for_each_layer(auto&&) {}
};

static_assert(std::is_same_v<
              dropbp::DropBPHandler<Model>,
              dropbp::DropBPHandler<Model, dropbp::GreedyAllocation, dropbp::BernoulliSampling>>);
static_assert(
    std::is_same_v<dropbp::DropSchedule<>, dropbp::DropSchedule<dropbp::BernoulliSampling>>);
static_assert(
    std::is_same_v<dropbp::OptimalAllocation<>, dropbp::OptimalAllocation<dropbp::SquaredRate>>);

bool keeps_all(dropbp::PlanPer per, dropbp::GradientScaling scaling,
               const dropbp::HandlerState& state) {
  return per == dropbp::PlanPer::micro_step && scaling == dropbp::GradientScaling::none &&
         state.dropped.empty();
}

int main() {
  const dropbp::DropSchedule schedule{{1.0, 1.0}, {.drop_rate = 0.0}};
  const Trainer trainer{.schedule = &schedule};
  return forward_only(trainer) &&
                 keeps_all(dropbp::PlanPer::micro_step, dropbp::GradientScaling::none, {})
             ? 0
             : 1;
}
