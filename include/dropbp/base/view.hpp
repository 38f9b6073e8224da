// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The elements of a std::vector as a std::span. The conversions of std::span itself are checked at
// length wherever they are written: 20 to 30 ms of compile time for each type of elements in every
// file that includes the core (g++ 12). These are compiled only where they are used.
#pragma once

#include <span>
#include <vector>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

template <class T>
std::span<T> view(std::vector<T>& elements) noexcept {
  return {elements.data(), elements.size()};
}

template <class T>
std::span<const T> view(const std::vector<T>& elements) noexcept {
  return {elements.data(), elements.size()};
}

}  // namespace detail
DROPBP_NAMESPACE_END
