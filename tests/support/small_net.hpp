// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A small residual network in two versions: with DropBPLayers around its branches, and written out
// by hand. Both call the same primitives, which are not inlined, so that equal arithmetic gives
// equal bits.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "dropbp/base/philox.hpp"
#include "dropbp/layer.hpp"

namespace dropbp_test {

template <class Real>
using Vector = std::vector<Real>;

inline constexpr std::size_t width = 5;
inline constexpr std::size_t branches = 10;

// ---- primitives

template <class Real>
[[gnu::noinline]] void add(Vector<Real>& y, const Vector<Real>& x) {
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += x[i];
}
template <class Real>
[[gnu::noinline]] Vector<Real> multiply(const Vector<Real>& a, const Vector<Real>& b) {
  Vector<Real> y(a.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = a[i] * b[i];
  return y;
}
/// W x; W is [width, width], row-major.
template <class Real>
[[gnu::noinline]] Vector<Real> matrix_times(const Vector<Real>& w, const Vector<Real>& x) {
  Vector<Real> y(width);
  for (std::size_t r = 0; r < width; ++r)
    for (std::size_t c = 0; c < width; ++c) y[r] += w[r * width + c] * x[c];
  return y;
}
template <class Real>
[[gnu::noinline]] Vector<Real> transposed_times(const Vector<Real>& w, const Vector<Real>& g) {
  Vector<Real> y(width);
  for (std::size_t r = 0; r < width; ++r)
    for (std::size_t c = 0; c < width; ++c) y[c] += w[r * width + c] * g[r];
  return y;
}
template <class Real>
[[gnu::noinline]] void add_outer(Vector<Real>& w, const Vector<Real>& g, const Vector<Real>& x) {
  for (std::size_t r = 0; r < width; ++r)
    for (std::size_t c = 0; c < width; ++c) w[r * width + c] += g[r] * x[c];
}
template <class Real>
[[gnu::noinline]] Vector<Real> tanh_of(const Vector<Real>& x) {
  Vector<Real> y(x.size());
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = std::tanh(x[i]);
  return y;
}
/// g * (1 - y^2): the gradient of the argument of y = tanh(...).
template <class Real>
[[gnu::noinline]] Vector<Real> tanh_backward(const Vector<Real>& g, const Vector<Real>& y) {
  Vector<Real> below(g.size());
  for (std::size_t i = 0; i < g.size(); ++i) below[i] = g[i] * (Real{1} - y[i] * y[i]);
  return below;
}

/// Numbers in [-0.5, 0.5), the same on every machine.
template <class Real>
Vector<Real> numbers(std::size_t size, std::uint64_t what) {
  const dropbp::CounterRandom random(1234, dropbp::RandomStream::user, what);
  Vector<Real> x(size);
  for (std::size_t i = 0; i < size; ++i)
    x[i] = static_cast<Real>(static_cast<double>(random(i) >> 40) * 0x1p-24 - 0.5);
  return x;
}

// ---- three kinds of branches

/// f(x) = W x
template <class Real>
struct LinearBranch {
  struct Saved {
    Vector<Real> x;
  };
  Vector<Real> weight, gradient;
  int backward_calls = 0;

  Vector<Real> forward(const Vector<Real>& x, Saved* saved) {
    if (saved != nullptr) saved->x = x;
    return matrix_times(weight, x);
  }
  Vector<Real> backward(const Vector<Real>& g, Saved& saved) {
    backward_parameters(g, saved);
    return transposed_times(weight, g);
  }
  void backward_parameters(const Vector<Real>& g, Saved& saved) {
    ++backward_calls;
    add_outer(gradient, g, saved.x);
  }
};

/// f(x) = w * tanh(x), computed in place.
template <class Real>
struct GateBranch {
  struct Saved {
    Vector<Real> y;
  };
  Vector<Real> weight, gradient;
  int backward_calls = 0;

  Vector<Real> forward(const Vector<Real>& x, Saved* saved) {
    Vector<Real> y = tanh_of(x);
    if (saved == nullptr) return multiply(weight, y);
    saved->y = std::move(y);
    return multiply(weight, saved->y);
  }
  void forward_residual(Vector<Real>& x, Saved* saved) { add(x, forward(x, saved)); }
  Vector<Real> backward(const Vector<Real>& g, Saved& saved) {
    ++backward_calls;
    add(gradient, multiply(g, saved.y));
    return tanh_backward(multiply(g, weight), saved.y);
  }
  void backward_residual(Vector<Real>& g, Saved& saved) { add(g, backward(g, saved)); }
};

/// f(x) = tanh(x + b)
template <class Real>
struct ShiftBranch {
  struct Saved {
    Vector<Real> y;
  };
  Vector<Real> weight, gradient;
  int backward_calls = 0;

  Vector<Real> forward(const Vector<Real>& x, Saved* saved) {
    Vector<Real> shifted = x;
    add(shifted, weight);
    Vector<Real> y = tanh_of(shifted);
    if (saved != nullptr) saved->y = y;
    return y;
  }
  Vector<Real> backward(const Vector<Real>& g, Saved& saved) {
    ++backward_calls;
    Vector<Real> below = tanh_backward(g, saved.y);
    add(gradient, below);
    return below;
  }
};

// ---- the net with layers

enum class Face { residual, residual_in_place, branch };

/// The stem x = e * input, ten branches of the three kinds in turn, the loss |x - target|^2 / 2.
template <class Real>
class LayerNet {
 public:
  LayerNet() {
    for (std::size_t i = 0; i < branches; ++i) {
      Vector<Real> weight = numbers<Real>(i % 3 == 0 ? width * width : width, i);
      Vector<Real> gradient(weight.size());
      if (i % 3 == 0)
        linear.emplace_back(LinearBranch<Real>{std::move(weight), std::move(gradient)}, 3.0);
      if (i % 3 == 1)
        gate.emplace_back(GateBranch<Real>{std::move(weight), std::move(gradient)}, 1.0);
      if (i % 3 == 2)
        shift.emplace_back(ShiftBranch<Real>{std::move(weight), std::move(gradient)}, 2.0);
    }
  }

  /// Calls visit(layer) for branch i.
  template <class Visit>
  void with_layer(std::size_t i, Visit&& visit) {
    if (i % 3 == 0) visit(linear[i / 3]);
    if (i % 3 == 1) visit(gate[i / 3]);
    if (i % 3 == 2) visit(shift[i / 3]);
  }
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (std::size_t i = 0; i < branches; ++i) with_layer(i, visit);
  }
  template <class Visit>
  void for_each_gradient(Visit&& visit) {
    visit(std::as_const(stem_gradient));
    for_each_layer([&](auto& layer) { visit(layer.op().gradient); });
  }

  void clear_gradients() {
    stem_gradient.assign(width, 0);
    for_each_layer([](auto& layer) {
      layer.op().gradient.assign(layer.op().gradient.size(), 0);
      layer.op().backward_calls = 0;
    });
  }

  const Vector<Real>& forward(Face face = Face::residual) {
    output = multiply(stem, input);
    for_each_layer([&](auto& layer) {
      if (face == Face::residual) output = layer.forward(std::as_const(output));
      if (face == Face::residual_in_place) output = layer.forward(std::move(output));
      if (face == Face::branch) {
        const Vector<Real> f = layer.forward_branch(output);
        add(output, f);
      }
    });
    return output;
  }

  /// Returns the gradient below the lowest branch.
  Vector<Real> backward(Face face = Face::residual) {
    Vector<Real> g = output;
    for (std::size_t i = 0; i < width; ++i) g[i] -= target[i];
    for (std::size_t i = branches; i-- > 0;)
      with_layer(i, [&](auto& layer) {
        if (face != Face::branch)
          g = layer.backward(std::move(g));
        else if (const auto below = layer.backward_branch(g))
          add(g, *below);
      });
    add(stem_gradient, multiply(g, input));
    return g;
  }

  std::vector<dropbp::DropBPLayer<LinearBranch<Real>>> linear;
  std::vector<dropbp::DropBPLayer<GateBranch<Real>>> gate;
  std::vector<dropbp::DropBPLayer<ShiftBranch<Real>>> shift;
  Vector<Real> stem = numbers<Real>(width, 100), stem_gradient = Vector<Real>(width);
  Vector<Real> input = numbers<Real>(width, 101), target = numbers<Real>(width, 102), output;
};

// ---- the net by hand

template <class Real>
struct HandGradients {
  std::vector<std::optional<Vector<Real>>> weight;  ///< none for a branch without a backward pass
  Vector<Real> below;  ///< the gradient below the branches, passed down to the stem
  Vector<Real> stem;
};

/// The same computation as a loop over the branches, without the library.
template <class Real>
class HandNet {
 public:
  HandNet() {
    for (std::size_t i = 0; i < branches; ++i)
      weight.push_back(numbers<Real>(i % 3 == 0 ? width * width : width, i));
    x.push_back(multiply(numbers<Real>(width, 100), input));
    for (std::size_t i = 0; i < branches; ++i) {
      Vector<Real> sum = x[i];
      if (i % 3 == 0) {
        add(sum, matrix_times(weight[i], x[i]));
        y.emplace_back();
      } else if (i % 3 == 1) {
        y.push_back(tanh_of(x[i]));
        add(sum, multiply(weight[i], y[i]));
      } else {
        Vector<Real> shifted = x[i];
        add(shifted, weight[i]);
        y.push_back(tanh_of(shifted));
        add(sum, y[i]);
      }
      x.push_back(sum);
    }
  }

  const Vector<Real>& output() const { return x.back(); }

  /// The gradients without the backward passes of `dropped` (bit i: branch i). If nothing below the
  /// branches trains, the lowest kept branch computes no input gradient.
  HandGradients<Real> gradients(unsigned dropped, bool trainable_below) const {
    HandGradients<Real> result;
    result.weight.resize(branches);
    const Vector<Real> target = numbers<Real>(width, 102);
    Vector<Real> g = output();
    for (std::size_t j = 0; j < width; ++j) g[j] -= target[j];
    const unsigned kept = ~dropped & ((1u << branches) - 1);
    for (std::size_t i = branches; i-- > 0;) {
      if (((dropped >> i) & 1u) != 0) continue;
      Vector<Real> own(weight[i].size()), through;
      if (i % 3 == 0) {
        add_outer(own, g, x[i]);
        through = transposed_times(weight[i], g);
      } else if (i % 3 == 1) {
        add(own, multiply(g, y[i]));
        through = tanh_backward(multiply(g, weight[i]), y[i]);
      } else {
        through = tanh_backward(g, y[i]);
        add(own, through);
      }
      result.weight[i] = own;
      const bool lowest = (kept & ((1u << i) - 1)) == 0;
      if (trainable_below || !lowest) add(g, through);
    }
    result.below = g;
    result.stem = Vector<Real>(width);
    add(result.stem, multiply(g, input));
    return result;
  }

  Vector<Real> input = numbers<Real>(width, 101);
  std::vector<Vector<Real>> weight, x, y;
};

}  // namespace dropbp_test
