// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Checks that a call throws a given type with a given message. The macros exist in Catch2 2 and 3.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "support/catch.hpp"

namespace test {

/// Returns an empty string if `function` throws an `Exception` whose message is one line that
/// contains all `parts`; otherwise says what happened.
template <typename Exception, typename Function>
std::string problem_with_throw(Function&& function, std::initializer_list<std::string_view> parts) {
  try {
    function();
  } catch (const Exception& exception) {
    const std::string message = exception.what();
    if (message.find('\n') != std::string::npos) return "the message has several lines: " + message;
    for (const std::string_view part : parts) {
      if (message.find(part) == std::string::npos)
        return "no '" + std::string(part) + "' in the message: " + message;
    }
    return {};
  } catch (const std::exception& exception) {
    return "an exception of another type: " + std::string(exception.what());
  }
  return "no exception";
}

template <typename Exception, typename Function>
void check_throws(Function&& function, std::initializer_list<std::string_view> parts) {
  const std::string problem = problem_with_throw<Exception>(function, parts);
  CHECK(problem == "");
}

}  // namespace test
