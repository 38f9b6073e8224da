// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// HandlerState: the state of a handler, as plain values and as text, for an exact resume.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/base/real_text.hpp"
#include "dropbp/model.hpp"
#include "dropbp/plan.hpp"
#include "dropbp/policy/running_sensitivity.hpp"

DROPBP_NAMESPACE_BEGIN

/// The state of a DropBPHandler between two steps, not between two micro-steps. Because plans are
/// pure functions, a resumed training needs nothing else, except the program's own choices: the
/// policies' types and parameters, the layers' costs, and trainable_below, trainable and parents of
/// DropOptions.
struct HandlerState {
  std::uint64_t seed = 0;                  ///< of the plans
  PlanPer plan_per = PlanPer::micro_step;  ///< how often a plan is drawn
  std::uint64_t next_step = 0;             ///< the next step: the last one plus 1
  std::uint64_t micro_steps = 0;           ///< begun so far, in all steps
  double drop_rate = 0.0;                  ///< target rate
  std::vector<double> drop_rates;          ///< of each branch
  std::vector<double> sensitivities;       ///< measured last; empty before the first measurement
  std::vector<std::uint64_t> kept;         ///< micro-steps that kept each branch
  std::vector<std::uint64_t> dropped;      ///< micro-steps that dropped it
  std::vector<BranchCalls> calls;          ///< how often each branch ran
  RunningSensitivity::State running = {};  ///< of an AdaptiveHandler; otherwise without branches
  bool operator==(const HandlerState&) const = default;  ///< of all fields
};

namespace detail {

DROPBP_LAZY
inline void require_consistent(const HandlerState& state) {
  const std::size_t branches = state.drop_rates.size();
  require_count(state.kept.size(), branches, "kept count in a state");
  require_count(state.dropped.size(), branches, "dropped count in a state");
  require_count(state.calls.size(), branches, "call count in a state");
  if (!state.sensitivities.empty())
    require_count(state.sensitivities.size(), branches, "sensitivity in a state");
  const RunningSensitivity::State& running = state.running;
  const std::size_t estimates = running.own.empty() ? 0 : branches;
  for (const std::size_t count : {running.own_weights.size(), running.ratios.size(),
                                  running.ratio_weights.size(), running.last.size()})
    require_count(count, estimates, "running estimate in a state");
  require_count(running.own.size(), estimates, "running estimate in a state");
}

// Refuses values that no handler can reach. The schedule checks the rates.
DROPBP_LAZY
inline void require_possible(const HandlerState& state) {
  for (std::size_t i = 0; i < state.sensitivities.size(); ++i)
    if (!is_finite(state.sensitivities[i]) || state.sensitivities[i] < 0.0)
      throw_invalid("the sensitivities of a state must be finite and not negative",
                    "that of branch " + text(i) + " is " + text(state.sensitivities[i]),
                    "restore from an intact copy");
  if (state.micro_steps >> 63 != 0)
    throw_invalid("the micro-steps of a state must be fewer than 2^63",
                  "it counts " + text(state.micro_steps), "restore from an intact copy");
  for (std::size_t i = 0; i < state.kept.size(); ++i)
    if (state.kept[i] > state.micro_steps || state.dropped[i] != state.micro_steps - state.kept[i])
      throw_invalid("each micro-step of a state (" + text(state.micro_steps) +
                        ") must have kept or dropped each branch",
                    "branch " + text(i) + " was kept in " + text(state.kept[i]) +
                        " and dropped in " + text(state.dropped[i]),
                    "restore from an intact copy");
}

// Checks a state before a handler of this many branches restores it.
DROPBP_LAZY
inline void require_restorable(const HandlerState& state, std::size_t branches) {
  require_consistent(state);
  require_possible(state);
  if (!state.running.own.empty())
    throw_invalid("a DropBPHandler's state has no running estimates",
                  "this one is of an AdaptiveHandler", "restore it into an AdaptiveHandler");
  if (state.drop_rates.size() != branches)
    throw_invalid("a state must be of a model with as many branches (" + text(branches) + ")",
                  "it has " + text(state.drop_rates.size()),
                  "restore it into the model that it was saved from");
}

}  // namespace detail

namespace detail {

DROPBP_LAZY
inline std::string estimates_to_text(const RunningSensitivity::State& state) {
  std::string text = "observed_steps " + std::to_string(state.step) + "\n";
  for (std::size_t i = 0; i < state.own.size(); ++i) {
    text += "estimate";
    for (const double number :
         {state.own[i], state.own_weights[i], state.ratios[i], state.ratio_weights[i]})
      text += ' ' + real_to_text(number);
    text += ' ' + std::to_string(state.last[i]) + '\n';
  }
  return text;
}

}  // namespace detail

/// One line per field and one line per branch, then one line per branch for the estimates of an
/// AdaptiveHandler, if there are any; numbers are exact in every locale. Throws
/// std::invalid_argument if the lists of the state have different lengths.
DROPBP_LAZY
inline std::string to_text(const HandlerState& state) {
  detail::require_consistent(state);
  const std::size_t branches = state.drop_rates.size();
  const bool estimates = !state.running.own.empty();
  // Version 2 has the estimates; without them it is version 1, as from earlier releases.
  std::string text = estimates ? "dropbp-state 2\n" : "dropbp-state 1\n";
  text += "seed " + std::to_string(state.seed) + "\nplan_per " +
          (state.plan_per == PlanPer::step ? "step" : "micro_step") + "\nnext_step " +
          std::to_string(state.next_step) + "\nmicro_steps " + std::to_string(state.micro_steps) +
          "\ndrop_rate " + detail::real_to_text(state.drop_rate) + "\nbranches " +
          std::to_string(branches) + "\nsensitivities " +
          (state.sensitivities.empty() ? "no" : "yes") + "\n";
  for (std::size_t i = 0; i < branches; ++i) {
    text += "branch " + detail::real_to_text(state.drop_rates[i]) + ' ' +
            std::to_string(state.kept[i]) + ' ' + std::to_string(state.dropped[i]) + ' ' +
            std::to_string(state.calls[i].forward) + ' ' + std::to_string(state.calls[i].backward);
    if (!state.sensitivities.empty()) text += ' ' + detail::real_to_text(state.sensitivities[i]);
    text += '\n';
  }
  if (estimates) text += detail::estimates_to_text(state.running);
  return text + "end\n";
}

namespace detail {

// A word of a damaged file for a message: shortened, and without control characters.
DROPBP_LAZY
inline std::string quoted(std::string_view word) {
  constexpr std::size_t longest = 40;
  std::string quoted = "`";
  for (const char c : word.substr(0, longest)) {
    const auto code = static_cast<unsigned char>(c);
    if (code >= 0x20 && code < 0x7F) {
      quoted += c;
    } else {
      constexpr char digits[] = "0123456789abcdef";
      quoted.append("\\x").append(1, digits[code / 16]).append(1, digits[code % 16]);
    }
  }
  return quoted += word.size() > longest ? "...`" : "`";
}

class StateReader {
 public:
  explicit StateReader(std::string_view text) : text_(text) {}

  DROPBP_LAZY
  void expect(std::string_view word) {
    if (next() != word) fail(quoted(word));
  }
  /// Whether the version is `newer`, otherwise it is `version`; throws for all others.
  DROPBP_LAZY
  bool expect_version(std::string_view version, std::string_view newer = {}) {
    const std::string_view word = next();
    if (word.empty()) fail(quoted(version));
    if (word != version && word != newer)
      throw_invalid("a saved dropbp state must be of version " + std::string(version) +
                        (newer.empty() ? "" : " or " + std::string(newer)),
                    "it is of version " + quoted(word),
                    "read it with the release of dropbp that wrote it");
    return word == newer;
  }
  DROPBP_LAZY
  std::uint64_t integer() {
    const std::string_view word = next();
    std::uint64_t value = 0;
    if (word.empty() || (word.front() == '0' && word.size() > 1)) fail("a whole number");
    for (const char c : word) {
      const auto digit = static_cast<std::uint64_t>(c - '0');
      if (c < '0' || c > '9' || value > (~std::uint64_t{0} - digit) / 10)
        fail("a whole number below 2^64");
      value = 10 * value + digit;
    }
    return value;
  }
  DROPBP_LAZY
  double real() {
    double value = 0.0;
    if (!real_from_text(next(), value))
      fail("a hexadecimal floating-point number such as 0x1.8p-1");
    return value;
  }
  /// Whether the next word is `first`; throws unless it is one of the two.
  DROPBP_LAZY
  bool choice(std::string_view first, std::string_view second) {
    const std::string_view word = next();
    if (word != first && word != second) fail(quoted(first) + " or " + quoted(second));
    return word == first;
  }
  DROPBP_LAZY
  void expect_end() {
    expect("end");
    if (!next().empty()) fail("nothing after `end`");
  }
  /// A bound for the number of branches, so that a corrupt count does not exhaust memory.
  std::size_t remaining() const noexcept { return text_.size(); }

  DROPBP_LAZY
  [[noreturn]] void fail(const std::string& required) const {
    throw_invalid(
        "line " + text(std::uint64_t{line_}) + " of a saved dropbp state must hold " + required,
        word_.empty() ? "it ends there" : "it holds " + quoted(word_),
        "restore from an intact copy");
  }

 private:
  // Also removes the carriage return of a file from another system.
  static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r'; }

  DROPBP_LAZY
  std::string_view next() {
    while (!text_.empty() && is_space(text_.front())) {
      if (text_.front() == '\n') ++line_;
      text_.remove_prefix(1);
    }
    std::size_t length = 0;
    while (length < text_.size() && !is_space(text_[length])) ++length;
    word_ = text_.substr(0, length);
    text_.remove_prefix(length);
    return word_;
  }

  std::string_view text_;
  std::string_view word_;
  std::uint64_t line_ = 1;
};

DROPBP_LAZY
inline RunningSensitivity::State read_estimates(StateReader& reader, std::uint64_t branches) {
  RunningSensitivity::State state;
  reader.expect("observed_steps"), state.step = reader.integer();
  for (std::uint64_t i = 0; i < branches; ++i) {
    reader.expect("estimate");
    for (std::vector<double>* list :
         {&state.own, &state.own_weights, &state.ratios, &state.ratio_weights})
      list->push_back(reader.real());
    state.last.push_back(reader.integer());
  }
  return state;
}

}  // namespace detail

/// Reads the output of to_text. Throws std::invalid_argument, naming the line, for other text.
DROPBP_LAZY
inline HandlerState handler_state_from_text(std::string_view text) {
  detail::StateReader reader(text);
  HandlerState state;
  reader.expect("dropbp-state");
  const bool estimates = reader.expect_version("1", "2");
  reader.expect("seed"), state.seed = reader.integer();
  reader.expect("plan_per"),
      state.plan_per = reader.choice("step", "micro_step") ? PlanPer::step : PlanPer::micro_step;
  reader.expect("next_step"), state.next_step = reader.integer();
  reader.expect("micro_steps"), state.micro_steps = reader.integer();
  reader.expect("drop_rate"), state.drop_rate = reader.real();
  reader.expect("branches");
  const std::uint64_t branches = reader.integer();
  if (branches > reader.remaining()) reader.fail("as many branches as follow");
  reader.expect("sensitivities");
  const bool measured = reader.choice("yes", "no");
  for (std::uint64_t i = 0; i < branches; ++i) {
    reader.expect("branch");
    state.drop_rates.push_back(reader.real());
    state.kept.push_back(reader.integer());
    state.dropped.push_back(reader.integer());
    state.calls.push_back({});
    state.calls.back().forward = reader.integer();
    state.calls.back().backward = reader.integer();
    if (measured) state.sensitivities.push_back(reader.real());
  }
  if (estimates) state.running = detail::read_estimates(reader, branches);
  reader.expect_end();
  return state;
}

DROPBP_NAMESPACE_END
