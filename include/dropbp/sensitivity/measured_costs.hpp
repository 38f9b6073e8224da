// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Measures the seconds of each branch.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "dropbp/branches.hpp"
#include "dropbp/dropbp_fwd.hpp"
#include "dropbp/sensitivity/measurement.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

template <class Clock>
concept tells_seconds = requires(const Clock& now) { static_cast<double>(now()); };

// See DropBPHandler::measure_costs.
template <class ModelType, class Allocation, class Sampling, class Backprop, class Clock>
std::vector<BranchTimes> measure_costs(DropBPHandler<ModelType, Allocation, Sampling>& handler,
                                       Backprop& backprop, const Clock& now, int passes) {
  static_assert(require_backprop<Backprop>());
  static_assert(tells_seconds<Clock>,
                "dropbp: the second argument of measure_costs is a clock: now() const returns "
                "seconds as a number. On the host that is SteadyClock{} (steady_clock.hpp).");
  if (passes < 1)
    throw_invalid("measure_costs needs at least one pass",
                  std::to_string(passes) + " were asked for", "leave the number out for three");
  const std::size_t size = handler.size();
  std::vector<BranchTimes> times(size);
  Measurement measurement(handler);
  const auto read = [&now] { return static_cast<double>(now()); };
  const ClockReference clock{
      [](const void* one) { return (*static_cast<const decltype(read)*>(one))(); }, &read};
  for (int pass = 0; pass < passes; ++pass) {
    measurement.drop_only(size);
    measurement.for_each([&](auto& layer, std::size_t) {
      static_assert(has_clock<decltype(layer)>,
                    "dropbp: measure_costs needs layers with set_clock(...) and BranchTimes "
                    "times(), which DropBPLayer has.");
      layer.set_clock(clock);
    });
    static_cast<void>(backprop());
    std::vector<BranchTimes> own(size);
    measurement.for_each([&](auto& layer, std::size_t i) {
      const BranchTimes all = layer.times();
      own[i].forward += all.forward, own[i].backward += all.backward;
      if (const std::size_t parent = handler.schedule().parent(i); parent != i)
        own[parent].forward -= all.forward, own[parent].backward -= all.backward;
    });
    for (std::size_t i = 0; i < size; ++i) {
      if (pass == 0 || own[i].forward < times[i].forward) times[i].forward = own[i].forward;
      if (pass == 0 || own[i].backward < times[i].backward) times[i].backward = own[i].backward;
    }
  }
  measurement.require_passes();
  measurement.end();
  return times;
}

}  // namespace detail
DROPBP_NAMESPACE_END
