// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A number that a device may still be computing.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN

/// A number that is known already, or that a device still computes. Copies are cheap. A trainer
/// that begins all numbers of a step before it reads the first one waits once.
class DeferredNumber {
 public:
  /// Returns number `at` of `source`; may wait for a device and throw its errors.
  using Read = double (*)(const void* source, std::size_t at);

  /// A known number.
  DeferredNumber(double known = 0.0) noexcept : known_(known) {}  // NOLINT: as a double is one
  /// read(source, at), at the first call of value().
  DeferredNumber(std::shared_ptr<const void> source, std::size_t at, Read read) noexcept
      : source_(std::move(source)), at_(at), read_(read) {}

  /// The number. Waits if it is not known yet.
  double value() const {
    const double number = read_ == nullptr ? known_ : read_(source_.get(), at_);
    return divisor_ == 1.0 ? number : number / divisor_;
  }

  /// The number / divisor.
  DeferredNumber divided_by(double divisor) const {
    DeferredNumber quotient = *this;
    quotient.divisor_ *= divisor;
    return quotient;
  }

 private:
  std::shared_ptr<const void> source_;
  std::size_t at_ = 0;
  Read read_ = nullptr;  // null for a known number
  double known_ = 0.0, divisor_ = 1.0;
};

DROPBP_NAMESPACE_END
