// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The definitions of the functions in dropbp.h, which describes them. dropbp.h includes this header
// where DROPBP_IMPLEMENTATION is defined: in one C++20 file of a program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dropbp/c/support.hpp"
#include "dropbp/dropbp.h"

namespace dropbp_c = dropbp::detail::c;

// ---- the library

uint32_t dropbp_version(void) {
  return DROPBP_VERSION_MAJOR * 10000 + DROPBP_VERSION_MINOR * 100 + DROPBP_VERSION_PATCH;
}

const char* dropbp_last_error(void) { return dropbp_c::last_error().what; }

void dropbp_check(dropbp_status status) {
  if (status != DROPBP_OK) dropbp_c::end_program();
}

void dropbp_set_abort_on_misuse(int aborts) { dropbp_c::aborts_on_misuse.store(aborts != 0); }

// ---- schedule

dropbp_options dropbp_default_options(void) {
  const dropbp::DropOptions defaults;
  dropbp_options options{};
  options.struct_size = sizeof options;
  options.drop_rate = defaults.drop_rate;
  options.seed = defaults.seed;
  options.warmup_steps = defaults.warmup_steps;
  options.trainable_below = defaults.trainable_below ? 1 : 0;
  options.sampling = DROPBP_BERNOULLI;
  options.weigh = DROPBP_COUNT;
  return options;
}

dropbp_schedule* dropbp_schedule_create(size_t branches, const double* costs,
                                        const dropbp_options* options) {
  return dropbp_c::created([&] {
    return dropbp_c::schedule_of(branches, costs,
                                 options != nullptr ? *options : dropbp_default_options());
  });
}

void dropbp_schedule_destroy(dropbp_schedule* schedule) { delete schedule; }

size_t dropbp_schedule_branches(const dropbp_schedule* schedule) {
  return dropbp_c::ask(schedule, size_t{0}, [](const auto& one) { return one.size(); });
}

size_t dropbp_schedule_max_kept(const dropbp_schedule* schedule, uint32_t group) {
  return dropbp_c::ask(schedule, DROPBP_NONE, [&](const auto& one) { return one.max_kept(group); });
}

size_t dropbp_schedule_slots(const dropbp_schedule* schedule, uint32_t group) {
  return dropbp_c::ask(schedule, size_t{0}, [&](const auto& one) { return one.slot_count(group); });
}

double dropbp_schedule_drop_rate(const dropbp_schedule* schedule) {
  return dropbp_c::ask(schedule, -1.0, [](const auto& one) { return one.drop_rate(); });
}

double dropbp_schedule_branch_drop_rate(const dropbp_schedule* schedule, size_t branch) {
  return dropbp_c::ask(schedule, -1.0, [&](const auto& one) {
    dropbp_c::require_branch(branch, one.size());
    return one.drop_rates()[branch];
  });
}

dropbp_status dropbp_schedule_set_drop_rate(dropbp_schedule* schedule, double rate) {
  return dropbp_c::change(schedule, [&](auto& one) { one.set_drop_rate(rate); });
}

dropbp_status dropbp_schedule_set_drop_rates(dropbp_schedule* schedule, const double* rates) {
  return dropbp_c::change(schedule, [&](auto& one) {
    one.set_drop_rates(dropbp_c::list_of(rates, one.size(), "the list of rates"));
  });
}

dropbp_status dropbp_schedule_allocate(dropbp_schedule* schedule, const double* sensitivities,
                                       int32_t allocation, double min_rate) {
  return dropbp_c::change(schedule, [&](auto& one) {
    dropbp_c::require_choice(allocation, DROPBP_DEPTH, "an allocation");
    const bool needed = allocation == DROPBP_GREEDY || allocation == DROPBP_OPTIMAL;
    const std::vector<double> equal(one.size(), 1.0);
    if (!needed && sensitivities == nullptr) sensitivities = equal.data();
    const auto given = dropbp_c::list_of(sensitivities, one.size(), "the list of sensitivities");
    if (allocation == DROPBP_GREEDY)
      one.allocate(given, dropbp::GreedyAllocation{.min_rate = min_rate});
    else if (allocation == DROPBP_OPTIMAL)
      one.allocate(given, dropbp::OptimalAllocation<>{.min_rates = {min_rate}});
    else if (allocation == DROPBP_DEPTH)
      one.allocate(given, dropbp::DepthAllocation{});
    else
      one.allocate(given, dropbp::UniformAllocation{});
  });
}

double dropbp_schedule_learning_rate_scale(const dropbp_schedule* schedule, size_t branch) {
  return dropbp_c::ask(schedule, -1.0,
                       [&](const auto& one) { return one.learning_rate_scale(branch); });
}

double dropbp_schedule_gradient_scale(const dropbp_schedule* schedule, uint64_t step,
                                      size_t branch) {
  return dropbp_c::ask(schedule, -1.0, [&](const auto& one) {
    dropbp_c::require_branch(branch, one.size());
    std::vector<double> scales;
    one.gradient_scales(step, scales);
    return scales[branch];
  });
}

// ---- plan

dropbp_plan* dropbp_plan_create(void) {
  return dropbp_c::created([] { return std::make_unique<dropbp_plan>(); });
}

void dropbp_plan_destroy(dropbp_plan* plan) { delete plan; }

dropbp_status dropbp_plan_draw(dropbp_plan* plan, const dropbp_schedule* schedule, uint64_t step,
                               uint32_t micro_step) {
  return dropbp_c::redraw(plan, schedule, [&](const auto& one, dropbp::DropPlan& drawn) {
    one.draw(step, micro_step, drawn);
  });
}

dropbp_status dropbp_plan_set(dropbp_plan* plan, const dropbp_schedule* schedule,
                              const uint8_t* dropped) {
  return dropbp_c::redraw(plan, schedule, [&](const auto& one, dropbp::DropPlan& drawn) {
    const std::vector<std::uint8_t> none(dropped == nullptr ? one.size() : 0);
    drawn = dropbp_c::plan_of({dropped == nullptr ? none.data() : dropped, one.size()}, one);
  });
}

dropbp_status dropbp_plan_drop_all(dropbp_plan* plan, const dropbp_schedule* schedule) {
  return dropbp_c::redraw(plan, schedule, [&](const auto& one, dropbp::DropPlan& drawn) {
    const std::vector<std::uint8_t> all(one.size(), 1);
    drawn = dropbp_c::plan_of(dropbp::detail::view(all), one);
  });
}

size_t dropbp_plan_branches(const dropbp_plan* plan) {
  return dropbp_c::answered(size_t{0},
                            [&] { return dropbp_c::required(plan, "a plan").plan.size(); });
}

int dropbp_plan_dropped(const dropbp_plan* plan, size_t branch) {
  return dropbp_c::answered(-1, [&] { return int{dropbp_c::drawn(plan).dropped(branch)}; });
}

size_t dropbp_plan_slot(const dropbp_plan* plan, size_t branch) {
  return dropbp_c::answered(DROPBP_NONE, [&] { return dropbp_c::drawn(plan).slot(branch); });
}

size_t dropbp_plan_slot_or(const dropbp_plan* plan, size_t branch, size_t scratch) {
  return dropbp_c::answered(DROPBP_NONE,
                            [&] { return dropbp_c::drawn(plan).slot_or(branch, scratch); });
}

int dropbp_plan_input_gradient_needed(const dropbp_plan* plan, size_t branch) {
  return dropbp_c::answered(
      -1, [&] { return int{dropbp_c::drawn(plan).input_gradient_needed(branch)}; });
}

int dropbp_plan_all_dropped(const dropbp_plan* plan) {
  return dropbp_c::answered(-1, [&] { return int{dropbp_c::drawn(plan).all_dropped()}; });
}

int dropbp_plan_backward_needed(const dropbp_plan* plan) {
  return dropbp_c::answered(-1, [&] { return int{dropbp_c::drawn(plan).backward_needed()}; });
}

size_t dropbp_plan_lowest_kept(const dropbp_plan* plan) {
  return dropbp_c::answered(DROPBP_NONE, [&] { return dropbp_c::drawn(plan).lowest_kept(); });
}

uint64_t dropbp_plan_fingerprint(const dropbp_plan* plan) {
  return dropbp_c::answered(uint64_t{0}, [&] { return dropbp_c::drawn(plan).fingerprint(); });
}

// ---- running sensitivity

dropbp_running* dropbp_running_create(size_t branches) {
  return dropbp_c::created([&] {
    return std::make_unique<dropbp_running>(dropbp_running{dropbp::RunningSensitivity(branches)});
  });
}

void dropbp_running_destroy(dropbp_running* running) { delete running; }

dropbp_status dropbp_running_observe(dropbp_running* running, size_t branch,
                                     double squared_gradient_norm, double stream_ratio) {
  return dropbp_c::guarded([&] {
    dropbp_c::required(running, "a running sensitivity")
        .running.observe(branch, squared_gradient_norm, stream_ratio);
  });
}

dropbp_status dropbp_running_end_step(dropbp_running* running) {
  return dropbp_c::guarded(
      [&] { dropbp_c::required(running, "a running sensitivity").running.end_step(); });
}

dropbp_status dropbp_running_sensitivities(const dropbp_running* running, double* sensitivities) {
  return dropbp_c::guarded([&] {
    const auto result =
        dropbp_c::required(running, "a running sensitivity").running.sensitivities();
    double* to = &dropbp_c::required(sensitivities, "the list of sensitivities");
    for (const double one : result) *to++ = one;
  });
}

// ---- flat parameters

dropbp_ranges* dropbp_ranges_create(size_t branches, size_t parameters) {
  return dropbp_c::created([&] {
    return std::make_unique<dropbp_ranges>(
        dropbp_ranges{dropbp::ParameterRanges(branches, parameters), {}});
  });
}

void dropbp_ranges_destroy(dropbp_ranges* ranges) { delete ranges; }

dropbp_status dropbp_ranges_add(dropbp_ranges* ranges, size_t branch, size_t branch_step,
                                size_t layers, size_t offset, size_t count) {
  return dropbp_c::guarded([&] {
    dropbp_c::required(ranges, "parameter ranges")
        .ranges.add({.branch = branch,
                     .offset = offset,
                     .count = count,
                     .layers = layers,
                     .branch_step = branch_step});
  });
}

dropbp_status dropbp_ranges_observe(dropbp_ranges* ranges, const dropbp_plan* plan) {
  return dropbp_c::guarded([&] {
    dropbp_c::required(ranges, "parameter ranges").ranges.observe(dropbp_c::drawn(plan));
  });
}

dropbp_status dropbp_ranges_end_step(dropbp_ranges* ranges, const dropbp_plan* plan,
                                     const dropbp_range** first) {
  static constexpr dropbp_range end{};
  if (first != nullptr) *first = &end;
  return dropbp_c::guarded([&] {
    const dropbp_range*& begin = dropbp_c::required(first, "the array of ranges");
    dropbp_ranges& of = dropbp_c::required(ranges, "parameter ranges");
    if (plan != nullptr) of.ranges.observe(dropbp_c::drawn(plan));
    const auto trained = of.ranges.end_step();
    of.trained.clear();
    for (const dropbp::TrainedRange& one : trained)
      of.trained.push_back({one.branch, one.offset, one.count, one.updates, one.micro_steps});
    of.trained.push_back(end);
    begin = of.trained.data();
  });
}

dropbp_status dropbp_ranges_skip_step(dropbp_ranges* ranges) {
  return dropbp_c::guarded(
      [&] { dropbp_c::required(ranges, "parameter ranges").ranges.skip_step(); });
}

// ---- checkpoints

size_t dropbp_state_to_text(const dropbp_schedule* schedule, const dropbp_running* running,
                            const dropbp_ranges* ranges, uint64_t next_step, char* buffer,
                            size_t size) {
  return dropbp_c::answered(size_t{0}, [&] {
    const std::string text = dropbp_c::state_text(schedule, running, ranges, next_step);
    if (size > text.size())
      std::memcpy(&dropbp_c::required(buffer, "the buffer of a state"), text.c_str(),
                  text.size() + 1);
    return text.size();
  });
}

dropbp_status dropbp_state_from_text(const char* text, dropbp_schedule* schedule,
                                     dropbp_running* running, dropbp_ranges* ranges,
                                     uint64_t* next_step) {
  return dropbp_c::guarded([&] {
    std::uint64_t& next = dropbp_c::required(next_step, "the next step of a state");
    next = dropbp_c::restore(&dropbp_c::required(text, "the text of a state"), schedule, running,
                             ranges);
  });
}
