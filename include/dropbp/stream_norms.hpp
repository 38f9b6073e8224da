// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The norms of the residual stream's gradient above and below a branch, for RunningSensitivity.
#pragma once

#include <optional>
#include <utility>

#include "dropbp/model.hpp"
#include "dropbp/tensor.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

// What one layer knows of these norms. On a device they stay there until ratio() is called.
class StreamNorms {
 public:
  // The next gradient is the one that `upper` passed on, unchanged.
  void continue_from(const StreamNorms& upper) { known_ = upper.below_; }

  // Before the branch's backward pass changes `grad`.
  template <class T>
  void begin(const T& grad, const BranchDecision& decision) {
    above_ = std::exchange(known_, std::nullopt);
    if (!above_ && measures<T>(decision)) above_ = norm(grad);
  }
  // After it.
  template <class T>
  void end(const T& grad, const BranchDecision& decision) {
    below_ = measures<T>(decision) ? norm(grad) : above_;  // an unchanged gradient keeps its norm
    if (!decision.dropped)
      kept_ = measures<T>(decision) ? std::optional(std::pair(*above_, *below_)) : std::nullopt;
  }

  // ||above|| / ||below|| of the last kept pass; 1 if it was not measured.
  double ratio() const {
    const double above = kept_ ? kept_->first.value() : 0.0;
    return above > 0.0 ? square_root(above / kept_->second.value()) : 1.0;
  }

 private:
  template <class T>
  static bool measures(const BranchDecision& decision) noexcept {
    return has_norm<T> && decision.observes_stream && !decision.dropped &&
           decision.input_gradient_needed;
  }
  template <class T>
  static std::optional<DeferredNumber> norm(const T& grad) {
    if constexpr (has_norm<T>)
      return deferred_squared_norm(grad);
    else
      return std::nullopt;
  }

  std::optional<DeferredNumber> known_, above_, below_;            // squared
  std::optional<std::pair<DeferredNumber, DeferredNumber>> kept_;  // squared: above, below
};

}  // namespace detail
DROPBP_NAMESPACE_END
