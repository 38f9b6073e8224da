// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A program with nothing of the library but the single header: one layer learns y = 3 x, half of
// its steps dropped.
#include "dropbp.hpp"

#include <string>
#include <vector>

std::string report_of(const dropbp::Report& report);

namespace {

using Vector = std::vector<float>;

struct Gain {
  struct Saved {
    Vector x;
  };
  float gain = 0, gradient = 0;
  Vector forward(const Vector& x, Saved* saved) const {
    if (saved != nullptr) saved->x = x;
    return {gain * x[0]};
  }
  Vector backward(const Vector& grad_output, Saved& saved) {
    gradient = grad_output[0] * saved.x[0];
    return {gain * grad_output[0]};
  }
};

struct Model {
  dropbp::DropBPLayer<Gain> layer{Gain{}};
  void for_each_layer(auto&& visit) { visit(layer); }
};

}  // namespace

int main() {
  Model model;
  dropbp::DropBPHandler handler{model, {.drop_rate = 0.5, .seed = 1}};
  for (std::uint64_t step = 0; step < 200; ++step) {
    handler.begin_step(step);
    Vector y = model.layer.forward(Vector{1.0f});
    y[0] -= 3.0f;
    model.layer.backward(std::move(y));
    if (handler.has_gradient(0)) model.layer.op().gain -= 0.2f * model.layer.op().gradient;
  }
  const float error = model.layer.op().gain - 2.0f;
  const bool dropped_some = handler.drop_counts()[0] > 0 && handler.drop_counts()[0] < 200;
  return error < 1e-3f && error > -1e-3f && dropped_some && !report_of(handler.report()).empty()
             ? 0
             : 1;
}
