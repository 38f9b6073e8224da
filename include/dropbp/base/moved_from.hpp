// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A member that knows whether the object around it was moved from.
#pragma once

#include <utility>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

// Whether what it is a member of was moved from.
class MovedFrom {
 public:
  MovedFrom() = default;
  MovedFrom(const MovedFrom&) = default;
  MovedFrom& operator=(const MovedFrom&) = default;
  MovedFrom(MovedFrom&& other) noexcept : moved_(std::exchange(other.moved_, true)) {}
  MovedFrom& operator=(MovedFrom&& other) noexcept {
    moved_ = std::exchange(other.moved_, true);
    return *this;
  }
  explicit operator bool() const noexcept { return moved_; }

 private:
  bool moved_ = false;
};

}  // namespace detail
DROPBP_NAMESPACE_END
