// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Views the elements of a std::vector as a std::span. g++ 12 checks the constraints of std::span's
// own conversions wherever they are written, which takes 20 to 30 ms for each element type in every
// file that includes the core. These functions are compiled only where they are used.
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
