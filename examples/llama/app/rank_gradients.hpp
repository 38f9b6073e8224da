// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What the ranks of a training exchange in a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/interop/gradient_reducer.hpp>

#include "llama/app/ranks.hpp"
#include "llama/formats/crc32c.hpp"
#include "llama/model/model.hpp"

namespace llama {

/// The gradients of a model, summed over the ranks. Each rank's loss is its share of the mean over
/// all rows, so that these sums are what one process with all rows would have.
template <class T>
class RankGradients {
 public:
  using Parameter = ops::Parameter<T>;

  /// `branch_of_parameter`: `branches` for a parameter of none. All must outlive this.
  RankGradients(Ranks& ranks, const std::vector<Parameter*>& parameters,
                const std::vector<std::size_t>& branch_of_parameter, std::size_t branches)
      : reducer_(ranks, branches, {.combine = dropbp::Combine::sum}) {
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      Parameter& parameter = *parameters[i];
      if (!parameter.trained) continue;
      // The memory stays where it is from now on.
      parameter.begin_gradient();
      parameter.drop_gradient();
      const bool embedding =
          std::string_view(parameter.parts().front().name).ends_with("embed_tokens.weight");
      std::size_t branch = branch_of_parameter[i];
      if (branch == branches) branch = embedding ? Reducer::below : Reducer::above;
      reducer_.add(branch, {parameter.gradient().data, parameter.size()});
    }
  }

  /// Of a micro-step: its plan, and whether it is the step's last one. `loss_before`: of those
  /// before.
  PassObserver observer(const dropbp::DropPlan& plan, bool last, double loss_before) {
    return {.loss_known =
                [this, &plan, last, loss_before](double loss) {
                  if (last)
                    reducer_.begin(plan, loss_before + loss);
                  else
                    reducer_.observe(plan);
                },
            .passed = [this](std::size_t branch) { reducer_.passed(branch); }};
  }

  /// Waits for the sums, and returns that of the losses.
  double finish() { return reducer_.finish().loss; }

 private:
  using Reducer = dropbp::GradientReducer<Ranks, T>;
  Reducer reducer_;
};

/// Each rank has seen the residual stream of its own rows: all go on with the mean.
inline void average(Ranks& ranks, dropbp::RunningSensitivity& running) {
  dropbp::RunningSensitivity::State state = running.state();
  std::vector<double> values;
  const auto for_each = [&](auto&& visit) {
    for (std::vector<double>* list :
         {&state.own, &state.own_weights, &state.ratios, &state.ratio_weights})
      for (double& value : *list) visit(value);
  };
  for_each([&](double& value) { values.push_back(value); });
  dropbp::sum_over_ranks(ranks, values);
  std::size_t at = 0;
  for_each([&](double& value) { value = values[at++] / ranks.size(); });
  running.restore(state);
}

/// Throws RanksDisagree, on every rank, unless all have the same bits in what is trained.
template <class T, class Backend>
void require_same_weights(Ranks& ranks, const std::vector<ops::Parameter<T, Backend>*>& parameters,
                          std::uint64_t step) {
  std::uint32_t sum = 0;
  if constexpr (!dropbp::DeviceBackend<Backend>)
    for (const ops::Parameter<T, Backend>* parameter : parameters)
      if (parameter->trained)
        sum = crc32c(sum, parameter->value().data, parameter->size() * sizeof(T));
  dropbp::require_agreement(ranks, "the same weights", sum, step,
                            "start all ranks from the same files, on machines of the same kind");
}

}  // namespace llama
