// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The learning rate's schedules, at steps where they can be worked out by hand.
#include "llama/app/learning_rate.hpp"

#include <cmath>
#include <cstdint>

#include "support/catch.hpp"

namespace {

using namespace llama;

Options options_of(ScheduleChoice schedule) {
  Options o;
  o.steps = 110;
  o.warmup = 10;
  o.schedule = schedule;
  return o;
}

/// After `done` steps, the last of which has this factor.
double after(const Options& options, std::uint64_t done) {
  return learning_rate_scale(options, done - 1);
}

bool near(double a, double b) { return std::abs(a - b) <= 1e-12; }

}  // namespace

TEST_CASE("learning rate: all schedules warm up alike and end where they are told to") {
  for (const auto schedule : {ScheduleChoice::cosine, ScheduleChoice::linear,
                              ScheduleChoice::constant, ScheduleChoice::wsd}) {
    Options o = options_of(schedule);
    CHECK(near(after(o, 1), 0.1));
    CHECK(near(after(o, 5), 0.5));
    CHECK(near(after(o, 10), 1.0));
    CHECK(near(after(o, 110), schedule == ScheduleChoice::constant ? 1.0 : 0.1));
    o.final_learning_rate = 0.25;
    CHECK(near(after(o, 110), schedule == ScheduleChoice::constant ? 1.0 : 0.25));
    CHECK(near(after(o, 500), schedule == ScheduleChoice::constant ? 1.0 : 0.25));
    o.warmup = 0;
    CHECK(after(o, 1) > 0.99);
    o.steps = 1;
    CHECK(std::isfinite(after(o, 1)));
  }
}

TEST_CASE("learning rate: between warm-up and end") {
  CHECK(near(after(options_of(ScheduleChoice::cosine), 60), 0.55));
  CHECK(near(after(options_of(ScheduleChoice::cosine), 35), 0.1 + 0.9 * (0.5 + std::sqrt(0.125))));
  CHECK(near(after(options_of(ScheduleChoice::linear), 35), 1.0 - 0.9 * 0.25));
  CHECK(near(after(options_of(ScheduleChoice::constant), 77), 1.0));
  Options wsd = options_of(ScheduleChoice::wsd);
  CHECK(near(after(wsd, 99), 1.0));  // of 110 the last 11 are the decay
  CHECK(near(after(wsd, 110 - 11 + 5), 1.0 - 0.9 * 5.0 / 11.0));
  wsd.decay = 50;
  CHECK(near(after(wsd, 60), 1.0));
  CHECK(near(after(wsd, 85), 1.0 - 0.9 * 0.5));
  wsd.decay = 1000;  // no earlier than the warm-up's end
  CHECK(near(after(wsd, 60), 1.0 - 0.9 * 0.5));
}
