// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/learning_rate.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace llama {
namespace {

/// From 0 at `begin` to 1 at `end`, in steps that are done.
double share(double done, double begin, double end) {
  return std::clamp((done - begin) / std::max(1.0, end - begin), 0.0, 1.0);
}

}  // namespace

double learning_rate_scale(const Options& options, std::uint64_t step) {
  const double done = static_cast<double>(step) + 1.0, warmup = static_cast<double>(options.warmup),
               steps = static_cast<double>(options.steps);
  if (done < warmup) return done / warmup;
  const double least = options.final_learning_rate;
  const auto fallen = [least](double height) { return least + (1.0 - least) * height; };
  switch (options.schedule) {
    case ScheduleChoice::constant:
      return 1.0;
    case ScheduleChoice::linear:
      return fallen(1.0 - share(done, warmup, steps));
    case ScheduleChoice::wsd: {
      const double decay = options.decay > 0 ? static_cast<double>(options.decay) : steps / 10.0;
      return fallen(1.0 - share(done, std::max(warmup, steps - decay), steps));
    }
    case ScheduleChoice::cosine:
      break;
  }
  // In this order of operations: resumed runs of before must keep their bits.
  return least +
         (1.0 - least) * 0.5 * (1.0 + std::cos(std::numbers::pi * share(done, warmup, steps)));
}

}  // namespace llama
