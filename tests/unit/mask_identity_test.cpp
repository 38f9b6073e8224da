// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// For every mask of ten branches the gradient has the bits of a net without the dropped backward
// passes, and the forward pass does not depend on the mask.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dropbp/dropbp.hpp"
#include "support/catch.hpp"
#include "support/promise.hpp"
#include "support/small_net.hpp"

namespace {

using namespace dropbp_test;

template <class Real>
bool same_bits(const Vector<Real>& a, const Vector<Real>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(Real)) == 0;
}

template <class Real>
void every_mask() {
  const HandNet<Real> hand;
  LayerNet<Real> net;
  dropbp::DropBPHandler handler{net};
  unsigned masks = 0, equal = 0;
  for (unsigned dropped = 0; dropped < (1u << branches); ++dropped) {
    std::vector<std::uint8_t> mask(branches);
    for (std::size_t i = 0; i < branches; ++i)
      mask[i] = static_cast<std::uint8_t>((dropped >> i) & 1u);
    bool good = true;
    for (const bool trainable_below : {true, false}) {
      const HandGradients<Real> expected = hand.gradients(dropped, trainable_below);
      for (const Face face : {Face::residual, Face::residual_in_place, Face::branch}) {
        handler.begin_step(dropbp::DropPlan(mask, trainable_below));
        net.clear_gradients();
        good = good && same_bits(net.forward(face), hand.output());
        std::size_t i = 0;
        net.for_each_layer(
            [&](auto& layer) { good = good && layer.holds_saved() == (mask[i++] == 0); });
        good = good && same_bits(net.backward(face), expected.below);
        good = good && same_bits(net.stem_gradient, expected.stem);
        i = 0;
        net.for_each_layer([&](auto& layer) {
          const bool kept = mask[i] == 0;
          good = good && expected.weight[i].has_value() == kept && handler.has_gradient(i) == kept;
          good = good && layer.op().backward_calls == (kept ? 1 : 0) && !layer.holds_saved();
          good = good &&
                 same_bits(layer.op().gradient,
                           kept ? *expected.weight[i] : Vector<Real>(layer.op().gradient.size()));
          ++i;
        });
      }
    }
    ++masks;
    equal += good;
  }
  CHECK(masks == 1024);
  CHECK(equal == 1024);
  CHECK(handler.report().consistent());
  dropbp_test::promise(2, "masks=%u equal=%u", masks, equal);
}

}  // namespace

TEST_CASE("All 1,024 masks give the hand-written gradients bit for bit in float") {
  every_mask<float>();
}

TEST_CASE("All 1,024 masks give the hand-written gradients bit for bit in double") {
  every_mask<double>();
}

TEST_CASE("The hand-written gradients with nothing dropped agree with finite differences") {
  LayerNet<double> net;
  dropbp::DropBPHandler handler{net, {.drop_rate = 0.0}};
  const auto loss = [&] {
    double sum = 0.0;
    const Vector<double>& output = net.forward();
    for (std::size_t i = 0; i < width; ++i)
      sum += 0.5 * (output[i] - net.target[i]) * (output[i] - net.target[i]);
    return sum;
  };
  const HandGradients<double> expected = HandNet<double>().gradients(0, true);
  const auto check = [&](Vector<double>& weight, const Vector<double>& gradient) {
    for (std::size_t j = 0; j < weight.size(); ++j) {
      const double before = weight[j], step = 1e-5;
      weight[j] = before + step;
      const double above = loss();
      weight[j] = before - step;
      const double below = loss();
      weight[j] = before;
      CHECK((above - below) / (2 * step) == Approx(gradient[j]).epsilon(1e-7).margin(1e-8));
    }
  };
  check(net.stem, expected.stem);
  std::size_t i = 0;
  net.for_each_layer([&](auto& layer) { check(layer.op().weight, *expected.weight[i++]); });
}
