// expect: has_allocate
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An allocation policy returns doubles.
#include <cstdint>
#include <vector>

#include "dropbp/dropbp.hpp"

using Vector = std::vector<float>;

struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

struct Model {
  std::vector<dropbp::DropBPLayer<Branch>> layers;
  Vector gradient;
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
};

struct Own {
#ifdef DROPBP_TEST_WRONG
  std::vector<float> allocate(const dropbp::AllocationInput& input) const { return std::vector<float>(input.flops.size()); }
#else
  std::vector<double> allocate(const dropbp::AllocationInput& input) const {
    return std::vector<double>(input.flops.size());
  }
#endif
};

void use(dropbp::DropSchedule<>& schedule) { schedule.allocate(std::vector<double>{1.0}, Own{}); }
