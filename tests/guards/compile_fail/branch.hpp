// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A branch with nothing wrong, and models of such branches.
#pragma once

#include <vector>

#include "dropbp/dropbp.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

struct PlainModel {
  std::vector<dropbp::DropBPLayer<Branch>> layers;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
};

struct TrainedModel : PlainModel {
  Vector gradient;
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
};

struct RepeatableBranch : Branch {
  static constexpr bool backward_is_repeatable = true;
};

struct RepeatableModel {
  std::vector<dropbp::DropBPLayer<RepeatableBranch>> layers;
  Vector gradient;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(gradient);
  }
};
