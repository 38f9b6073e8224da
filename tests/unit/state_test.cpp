// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Saved states: every number is restored exactly. A damaged text is refused, or it is a valid text
// of other numbers.
#include "dropbp/state.hpp"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/catch.hpp"

using dropbp::handler_state_from_text;
using dropbp::HandlerState;
using dropbp::PlanPer;
using limits = std::numeric_limits<double>;

namespace {

HandlerState example() {
  return {.seed = ~std::uint64_t{0},
          .plan_per = PlanPer::step,
          .next_step = 1234567890123,
          .micro_steps = 20,
          .drop_rate = 0.1,
          .drop_rates = {0.0, -0.0, limits::denorm_min(), 1.0 / 3.0, 1.0},
          .sensitivities = {limits::max(), limits::min(), limits::min() - limits::denorm_min(), 0.0,
                            1e-5},
          .kept = {0, 1, 20, ~std::uint64_t{0}, 10},
          .dropped = {20, 19, 0, 0, 10},
          .calls = {{0, 1}, {2, 3}, {~std::uint64_t{0}, 0}, {10, 0}, {100, 1000}}};
}

HandlerState adaptive_example() {
  HandlerState state = example();
  state.running = {.own = {limits::max(), 0.0, limits::denorm_min(), 1.0 / 3.0, 2.0},
                   .own_weights = {1.0, 0.0, 1.5, 2.0, 0.1},
                   .ratios = {0.0, 0.0, 0.5, 1.0 / 7.0, 3.0},
                   .ratio_weights = {0.0, 0.0, 1.0, 1.0, 2.0},
                   .last = {0, 0, 7, ~std::uint64_t{0}, 9},
                   .step = 12345};
  return state;
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::bit_cast<std::uint64_t>(a[i]) != std::bit_cast<std::uint64_t>(b[i])) return false;
  return true;
}

// The words of a text, separated by one space.
std::string words_of(const std::string& text) {
  std::string words;
  bool within = false;
  for (const char c : text) {
    const bool space = c == ' ' || c == '\n' || c == '\r';
    if (!space && !within && !words.empty()) words += ' ';
    if (!space) words += c;
    within = !space;
  }
  return words;
}

// Whether a text is refused with std::invalid_argument, or is the text of the state that it is read
// as.
bool refused_or_true(const std::string& text) {
  try {
    return words_of(to_text(handler_state_from_text(text))) == words_of(text);
  } catch (const std::invalid_argument&) {
    return true;
  }
}

std::string refusal(const std::string& text) {
  try {
    handler_state_from_text(text);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("A state is restored exactly from its text, extreme numbers included") {
  HandlerState state = example();
  HandlerState back = handler_state_from_text(to_text(state));
  CHECK(back == state);
  CHECK(handler_state_from_text(to_text(adaptive_example())) == adaptive_example());
  CHECK(same_bits(back.drop_rates, state.drop_rates));  // -0 is not 0
  CHECK(same_bits(back.sensitivities, state.sensitivities));
  state.sensitivities.clear();
  state.plan_per = PlanPer::micro_step;
  CHECK(handler_state_from_text(to_text(state)) == state);
  CHECK(handler_state_from_text(to_text(HandlerState{})) == HandlerState{});
}

TEST_CASE("The text of a state is pinned, since files outlive programs") {
  const HandlerState state{.seed = 42,
                           .next_step = 7,
                           .micro_steps = 8,
                           .drop_rate = 0.5,
                           .drop_rates = {0.25, 0.75},
                           .sensitivities = {1, 2},
                           .kept = {6, 2},
                           .dropped = {2, 6},
                           .calls = {{8, 6}, {8, 2}}};
  CHECK(to_text(state) ==
        "dropbp-state 1\nseed 42\nplan_per micro_step\nnext_step 7\nmicro_steps 8\ndrop_rate "
        "0x1p-1\nbranches 2\n"
        "sensitivities yes\nbranch 0x1p-2 6 2 8 6 0x1p0\nbranch 0x1.8p-1 2 6 8 2 0x1p1\nend\n");
}

TEST_CASE("States that released versions have saved are read, and written with the same bytes") {
  std::size_t files = 0;
  const std::filesystem::path old = std::filesystem::path(DROPBP_TEST_DATA) / "old";
  for (const auto& version : std::filesystem::directory_iterator(old))
    for (const auto& entry : std::filesystem::directory_iterator(version)) {
      if (entry.path().extension() != ".txt") continue;
      CAPTURE(entry.path());
      std::ifstream stream(entry.path(), std::ios::binary);
      const std::string text{std::istreambuf_iterator<char>(stream), {}};
      const HandlerState state = handler_state_from_text(text);
      CHECK(state.drop_rates == std::vector<double>{0.25, 0.75});
      CHECK(to_text(state) == text);
      ++files;
    }
  CHECK(files >= 2);
}

TEST_CASE("A state with the estimates of an adaptive handler has a pinned text of its own") {
  HandlerState state{.drop_rates = {0.25, 0.75},
                     .sensitivities = {},
                     .kept = {0, 0},
                     .dropped = {0, 0},
                     .calls = {{0, 0}, {0, 0}},
                     .running = {.own = {1, 2},
                                 .own_weights = {1, 1.5},
                                 .ratios = {0, 0.5},
                                 .ratio_weights = {0, 1},
                                 .last = {3, 4},
                                 .step = 5}};
  const std::string text = to_text(state);
  CHECK(text ==
        "dropbp-state 2\nseed 0\nplan_per micro_step\nnext_step 0\nmicro_steps 0\ndrop_rate "
        "0x0p0\nbranches 2\n"
        "sensitivities no\nbranch 0x1p-2 0 0 0 0\nbranch 0x1.8p-1 0 0 0 0\nobserved_steps 5\n"
        "estimate 0x1p0 0x1p0 0x0p0 0x0p0 3\nestimate 0x1p1 0x1.8p0 0x1p-1 0x1p0 4\nend\n");
  CHECK(handler_state_from_text(text) == state);
  std::string changed = text;
  changed.replace(changed.find("state 2"), 7, "state 1");
  CHECK(refusal(changed).find("line 11 of a saved dropbp state must hold `end`") !=
        std::string::npos);
  for (std::vector<double>* list : {&state.running.own, &state.running.own_weights,
                                    &state.running.ratios, &state.running.ratio_weights}) {
    const std::vector<double> kept = *list;
    list->pop_back();
    CHECK_THROWS_AS(to_text(state), std::invalid_argument);
    *list = kept;
  }
  state.running.last.clear();
  CHECK_THROWS_AS(to_text(state), std::invalid_argument);
}

TEST_CASE("Every truncation of a state is refused") {
  const std::string text = to_text(example());
  const std::string adaptive = to_text(adaptive_example());
  for (const std::string& whole : {text, adaptive})
    for (std::size_t length = 0; length + 1 < whole.size(); ++length) {
      CAPTURE(length);
      REQUIRE_THROWS_AS(handler_state_from_text(whole.substr(0, length)), std::invalid_argument);
    }
  CHECK(handler_state_from_text(text.substr(0, text.size() - 1)) ==
        example());  // only the last line break is missing
}

TEST_CASE(
    "A text with one character changed, lost or repeated is refused or is a valid text of other "
    "numbers") {
  const std::string text = to_text(adaptive_example());
  std::size_t wrong = 0, tried = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    std::string changed = text;
    for (int byte = 0; byte < 256; ++byte, ++tried) {
      changed[at] = static_cast<char>(byte);
      wrong += !refused_or_true(changed);
    }
    wrong += !refused_or_true(text.substr(0, at) + text.substr(at + 1));
    wrong += !refused_or_true(text.substr(0, at) + text[at] + text.substr(at));
  }
  CHECK(wrong == 0);
  CHECK(tried == 256 * text.size());
}

TEST_CASE("A state is read with the line ends of other systems") {
  std::string text;
  for (const char c : to_text(example())) {
    if (c == '\n') text += '\r';
    text += c;
  }
  CHECK(handler_state_from_text(text) == example());
}

TEST_CASE("Any other text is refused with the line's number") {
  const std::string text = to_text(example());
  CHECK(refusal("").find(
            "line 1 of a saved dropbp state must hold `dropbp-state`, but it ends there") !=
        std::string::npos);
  CHECK(refusal("dropbp-state 3\n").find("must be of version 1 or 2, but it is of version `3`") !=
        std::string::npos);
  CHECK(refusal("dropbp-state\n")
            .find("line 2 of a saved dropbp state must hold `1`, but it ends there") !=
        std::string::npos);
  CHECK(refusal("\x1b[2J\x7f\xff").find("it holds `\\x1b[2J\\x7f\\xff`") != std::string::npos);
  CHECK(refusal(std::string(1000, 'x')).find("it holds `" + std::string(40, 'x') + "...`") !=
        std::string::npos);
  CHECK(refusal("{\"seed\": 1}").find("line 1") != std::string::npos);
  CHECK(refusal(text + "end\n").find("nothing after `end`") != std::string::npos);
  CHECK(refusal(text + text).find("nothing after `end`") != std::string::npos);
  std::string changed = text;
  changed.replace(changed.find("plan_per step"), 13, "plan_per none");
  CHECK(refusal(changed).find("line 3 of a saved dropbp state must hold `step` or `micro_step`") !=
        std::string::npos);
}

TEST_CASE("Numbers too large, and impossible counts of branches, are refused at once") {
  const std::string text = to_text(HandlerState{});
  const auto with = [&](const std::string& field, const std::string& value) {
    std::string changed = text;
    changed.replace(changed.find(field), field.size(), value);
    return refusal(changed);
  };
  CHECK(with("seed 0", "seed 18446744073709551616").find("below 2^64") != std::string::npos);
  CHECK(with("seed 0", "seed 99999999999999999999999999").find("below 2^64") != std::string::npos);
  CHECK(with("seed 0", "seed 18446744073709551615").empty());
  CHECK_FALSE(with("seed 0", "seed 00").empty());
  CHECK_FALSE(with("seed 0", "seed -1").empty());
  CHECK_FALSE(with("seed 0", "seed +1").empty());
  CHECK(with("branches 0", "branches 18446744073709551615").find("as many branches as follow") !=
        std::string::npos);
  CHECK_FALSE(with("branches 0", "branches 1").empty());
  CHECK_FALSE(with("drop_rate 0x0p0", "drop_rate 0.5").empty());
  CHECK_FALSE(with("drop_rate 0x0p0", "drop_rate nan").empty());
}

TEST_CASE("A state with lists of different lengths cannot be written") {
  const auto refused = [](auto spoil) {
    HandlerState state = example();
    spoil(state);
    CHECK_THROWS_AS(to_text(state), std::invalid_argument);
  };
  refused([](HandlerState& state) { state.drop_rates.pop_back(); });
  refused([](HandlerState& state) { state.kept.pop_back(); });
  refused([](HandlerState& state) { state.dropped.clear(); });
  refused([](HandlerState& state) { state.calls.emplace_back(); });
  refused([](HandlerState& state) { state.sensitivities.pop_back(); });
}
