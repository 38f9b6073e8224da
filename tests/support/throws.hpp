// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Checks that something throws a given type and that its message says what it must, with macros
// that Catch2 2 and 3 share.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "support/catch.hpp"

namespace test {

/// Empty if `function` throws an `Exception` whose message is one line with all `parts`; otherwise
/// what happened instead.
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
