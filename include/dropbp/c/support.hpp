// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Behind the functions of dropbp.h: their handles, their errors, and what they have in common.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "dropbp/base/config.hpp"
#include "dropbp/dropbp.h"
#include "dropbp/parameter_ranges.hpp"
#include "dropbp/plan.hpp"
#include "dropbp/policy/allocation.hpp"
#include "dropbp/policy/depth_allocation.hpp"
#include "dropbp/policy/fixed_budget_sampling.hpp"
#include "dropbp/policy/optimal_allocation.hpp"
#include "dropbp/policy/running_sensitivity.hpp"
#include "dropbp/policy/sampling.hpp"
#include "dropbp/schedule.hpp"
#include "dropbp/state.hpp"
#include "dropbp/state_text.hpp"

#if !DROPBP_EXCEPTIONS
#error "dropbp: the implementation of dropbp.h is compiled with exceptions; its users need none"
#endif

struct dropbp_schedule {
  std::variant<dropbp::DropSchedule<dropbp::BernoulliSampling>,
               dropbp::DropSchedule<dropbp::AtLeastTargetSampling>,
               dropbp::DropSchedule<dropbp::FixedBudgetSampling>>
      any;
};
struct dropbp_plan {
  dropbp::DropPlan plan;
};
struct dropbp_running {
  dropbp::RunningSensitivity running;
};
struct dropbp_ranges {
  dropbp::ParameterRanges ranges;
  std::vector<dropbp_range> trained;  // ends with an empty one
};

DROPBP_NAMESPACE_BEGIN
namespace detail::c {

static_assert(DROPBP_ALWAYS == ParameterRanges::always && DROPBP_NEVER == ParameterRanges::never);

// The sentence of the last failure. Where memory is exhausted there may be none for a copy, so that
// it is a literal.
struct LastError {
  std::string text;
  const char* what = "";
};
inline LastError& last_error() {
  thread_local LastError error;
  return error;
}
inline std::atomic<bool> aborts_on_misuse{true};

inline dropbp_status failed(dropbp_status status, const char* what) noexcept {
  LastError& error = last_error();
  try {
    error.text = what;
    error.what = error.text.c_str();
  } catch (...) {
    error.what = "dropbp: memory is exhausted";
  }
  return status;
}

[[noreturn]] inline void end_program() noexcept {
  std::fprintf(stderr, "%s\n", last_error().what);
  std::abort();
}

// Runs `call`; what it throws becomes a status.
template <class Call>
dropbp_status guarded(const Call& call) noexcept {
  try {
    call();
    return DROPBP_OK;
  } catch (const std::invalid_argument& error) {
    return failed(DROPBP_INVALID, error.what());
  } catch (const std::out_of_range& error) {
    return failed(DROPBP_INVALID, error.what());
  } catch (const std::logic_error& error) {
    return failed(DROPBP_ORDER, error.what());
  } catch (const std::bad_alloc&) {
    return failed(DROPBP_NO_MEMORY, "dropbp: memory is exhausted");
  } catch (const std::exception& error) {
    return failed(DROPBP_FAILED, error.what());
  } catch (...) {
    return failed(DROPBP_FAILED, "dropbp: an exception of an unknown type");
  }
}

// The object that `make` allocates, or null.
template <class Make>
auto created(const Make& make) noexcept -> decltype(make().release()) {
  decltype(make()) object;
  guarded([&] { object = make(); });
  return object.release();
}

// The answer to a question, or `otherwise` where it has none and the program may go on.
template <class Answer, class Ask>
Answer answered(Answer otherwise, const Ask& ask) noexcept {
  Answer answer = otherwise;
  if (guarded([&] { answer = ask(); }) != DROPBP_OK && aborts_on_misuse.load()) end_program();
  return answer;
}

// Refuses a null pointer with the failure before, which may be why it is null.
template <class T>
T& required(T* pointer, const char* what) {
  if (pointer == nullptr)
    throw_invalid(std::string(what) + " must not be a null pointer", "it is one",
                  std::string("pass what a call has made; the failure before this one was: ") +
                      (*last_error().what != '\0' ? last_error().what : "none"));
  return *pointer;
}

// A plan that can be asked. An empty one would say that it drops everything.
inline const DropPlan& drawn(const dropbp_plan* plan) {
  const DropPlan& asked = required(plan, "a plan").plan;
  if (asked.size() == 0)
    throw_order("a plan must be drawn before it is asked", "this one is empty",
                "call dropbp_plan_draw or dropbp_plan_set before the forward pass, and check what "
                "they return");
  return asked;
}

// call(the schedule with its sampling policy)
template <class Schedule, class Call>
decltype(auto) visit(Schedule* schedule, const Call& call) {
  return std::visit(call, required(schedule, "a schedule").any);
}

// The answer of a schedule to a question.
template <class Answer, class Ask>
Answer ask(const dropbp_schedule* schedule, Answer otherwise, const Ask& question) noexcept {
  return answered(otherwise, [&] { return visit(schedule, question); });
}

template <class Call>
dropbp_status change(dropbp_schedule* schedule, const Call& call) noexcept {
  return guarded([&] { visit(schedule, call); });
}

// call(schedule, plan) makes another plan. Where it fails the plan becomes empty: never is it that
// of the step before.
template <class Call>
dropbp_status redraw(dropbp_plan* plan, const dropbp_schedule* schedule,
                     const Call& call) noexcept {
  const dropbp_status status = guarded([&] {
    DropPlan& drawn = required(plan, "a plan").plan;
    visit(schedule, [&](const auto& one) { call(one, drawn); });
  });
  if (status != DROPBP_OK && plan != nullptr) plan->plan = {};
  return status;
}

inline void require_branch(std::size_t branch, std::size_t size) {
  if (branch >= size)
    throw_invalid("a branch is numbered below " + text(size), "it is " + text(branch),
                  "number the branches from 0 in the order of the forward pass");
}

inline void require_choice(std::int32_t value, std::int32_t last, const char* what) {
  if (value < 0 || value > last)
    throw_invalid(std::string(what) + " must be one of its constants in dropbp.h",
                  "it is " + std::to_string(value), "begin with dropbp_default_options()");
}

template <class T>
std::vector<T> list(const T* first, std::size_t count) {
  return first == nullptr ? std::vector<T>() : std::vector<T>(first, first + count);
}

template <class T>
std::span<const T> list_of(const T* first, std::size_t count, const char* what) {
  return {&required(first, what), count};
}

inline DropOptions options_of(const dropbp_options& options, std::size_t branches) {
  if (options.struct_size != sizeof(dropbp_options))
    throw_invalid("dropbp_options must be of " + text(sizeof(dropbp_options)) + " bytes",
                  "its struct_size is " + text(options.struct_size),
                  "begin with dropbp_default_options(), and compile with the header of the linked "
                  "library");
  require_choice(options.sampling, DROPBP_FIXED_BUDGET, "dropbp_options::sampling");
  require_choice(options.weigh, DROPBP_BYTES, "dropbp_options::weigh");
  if (options.kinds < 0 || (options.kinds > 0 && options.groups != nullptr))
    throw_invalid("dropbp_options::kinds must be 0 where groups are given, and not negative",
                  "it is " + std::to_string(options.kinds), "leave one of the two out");
  if (options.kinds > 0 && static_cast<std::size_t>(options.kinds) > branches)
    throw_invalid(
        "there must be a branch of each kind (dropbp_options::kinds)",
        "it is " + std::to_string(options.kinds) + ", for " + text(branches) + " branches",
        "give 2 for a layer of attention and MLP, and twice as many branches as layers");
  std::vector<std::uint32_t> groups = list(options.groups, branches);
  for (std::size_t i = 0; options.kinds > 0 && i < branches; ++i)
    groups.push_back(static_cast<std::uint32_t>(i % static_cast<std::size_t>(options.kinds)));
  return {.drop_rate = options.drop_rate,
          .seed = options.seed,
          .trainable_below = options.trainable_below != 0,
          .plan_per = options.plan_per_step != 0 ? PlanPer::step : PlanPer::micro_step,
          .gradient_scaling = options.gradient_scaling != 0 ? GradientScaling::inverse_keep_rate
                                                            : GradientScaling::none,
          .warmup_steps = options.warmup_steps,
          .groups = std::move(groups),
          .trainable = list(options.trainable, branches),
          .parents = list(options.parents, branches)};
}

inline std::unique_ptr<dropbp_schedule> schedule_of(std::size_t branches, const double* costs,
                                                    const dropbp_options& options) {
  std::vector<double> list_of_costs =
      costs == nullptr ? std::vector<double>(branches, 1.0) : list(costs, branches);
  DropOptions drop = options_of(options, branches);
  const auto schedule = [&]<class Sampling>(Sampling sampling) {
    return std::make_unique<dropbp_schedule>(dropbp_schedule{
        DropSchedule<Sampling>(std::move(list_of_costs), std::move(drop), std::move(sampling))});
  };
  if (options.sampling == DROPBP_BERNOULLI) return schedule(BernoulliSampling{});
  if (options.sampling == DROPBP_AT_LEAST_TARGET) return schedule(AtLeastTargetSampling{});
  return schedule(
      FixedBudgetSampling{.weigh = static_cast<BranchWeight>(options.weigh),
                          .bytes = list(options.bytes, branches),
                          .cap = options.cap == 0.0 ? FixedBudgetSampling::no_limit : options.cap});
}

// The plan of a mask for the schedule's branches.
template <class Schedule>
DropPlan plan_of(std::span<const std::uint8_t> dropped, const Schedule& schedule) {
  const DropOptions& options = schedule.options();
  return DropPlan(dropped, {.trainable_below = options.trainable_below,
                            .groups = view(options.groups),
                            .trainable = view(options.trainable),
                            .parents = view(options.parents)});
}

inline std::string state_text(const dropbp_schedule* schedule, const dropbp_running* running,
                              const dropbp_ranges* ranges, std::uint64_t next_step) {
  HandlerState state;
  state.next_step = next_step;
  visit(schedule, [&](const auto& one) {
    state.seed = one.options().seed;
    state.plan_per = one.options().plan_per;
    state.drop_rate = one.drop_rate();
    state.drop_rates = {one.drop_rates().begin(), one.drop_rates().end()};
    state.kept.resize(one.size());
    state.dropped.resize(one.size());
    state.calls.resize(one.size());
  });
  std::string text = to_text(state);
  if (running != nullptr) text += to_text(running->running.state());
  if (ranges != nullptr) text += to_text(ranges->ranges.state());
  return text;
}

// The part of a saved state that begins with the line "dropbp-KIND ...".
inline std::string_view part_of(std::string_view text, std::string_view opening, bool is_wanted,
                                const char* what) {
  const std::size_t at = text.find(opening);
  if ((at != text.npos) != is_wanted)
    throw_invalid(std::string("a saved state and the call must agree on whether there are ") + what,
                  is_wanted ? "the text has none" : "the call has none",
                  "restore with the handles that it was saved with");
  if (!is_wanted) return {};
  text.remove_prefix(at + 1);  // with the line break
  return text.substr(0, text.find("\ndropbp-"));
}

inline std::uint64_t restore(std::string_view text, dropbp_schedule* schedule,
                             dropbp_running* running, dropbp_ranges* ranges) {
  const HandlerState state = handler_state_from_text(text.substr(0, text.find("\ndropbp-")));
  const std::string_view of_running =
      part_of(text, "\ndropbp-running ", running != nullptr, "running sensitivities");
  const std::string_view of_ranges =
      part_of(text, "\ndropbp-ranges ", ranges != nullptr, "parameter ranges");
  dropbp_schedule new_schedule = required(schedule, "a schedule");
  visit(&new_schedule, [&](auto& one) {
    require_restorable(state, one.size());
    one.restore(state.seed, state.plan_per, state.drop_rate, view(state.drop_rates));
  });
  // Copies first: all or nothing.
  ParameterRanges new_ranges;
  if (ranges != nullptr) {
    new_ranges = ranges->ranges;
    new_ranges.restore(ranges_state_from_text(of_ranges));
  }
  if (running != nullptr) running->running.restore(running_state_from_text(of_running));
  if (ranges != nullptr) ranges->ranges = std::move(new_ranges);
  *schedule = std::move(new_schedule);
  return state.next_step;
}

}  // namespace detail::c
DROPBP_NAMESPACE_END
