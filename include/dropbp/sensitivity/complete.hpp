// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The published, exact measurement of sensitivities by N + 1 complete passes: one with all branches
// kept, and one with each branch dropped.
#pragma once

#include <cstddef>
#include <vector>

#include "dropbp/dropbp_fwd.hpp"
#include "dropbp/sensitivity/measurement.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

// See DropBPHandler::measure_sensitivities.
template <class ModelType, class Allocation, class Sampling, class Backprop,
          class SensitivityPolicy>
std::vector<double> measure_complete(DropBPHandler<ModelType, Allocation, Sampling>& handler,
                                     Backprop& backprop, const SensitivityPolicy& policy) {
  static_assert(require_measurable<ModelType, SensitivityPolicy>() && require_backprop<Backprop>());
  std::vector<double> sensitivities(handler.size());
  Measurement measurement(handler);
  ModelType& model = measurement.model();
  measurement.drop_only(handler.size());
  static_cast<void>(backprop());
  measurement.require_passes();
  // A policy's reference may be immovable.
  const typename SensitivityPolicy::Reference reference = policy.reference(model);
  require_finite_reference(model, policy, reference);
  for (std::size_t i = 0; i < sensitivities.size(); ++i) {
    measurement.drop_only(i);
    static_cast<void>(backprop());
    sensitivities[i] = finite_difference(model, policy, reference, i);
  }
  measurement.end();
  return sensitivities;
}

}  // namespace detail
DROPBP_NAMESPACE_END
