// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What the tests on random shapes share: 500 shapes an operation, on the CPU and on the emulator.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "dropbp/kernels/cuda.hpp"
#include "support/catch.hpp"
#include "support/emulated.hpp"
#include "support/promise.hpp"

namespace random_shapes {

using namespace dropbp::ops;
using dropbp::Cpu;

/// Two copies of a matrix, whose rows have a gap; the gaps must stay as they are. Integers, or any
/// numbers up to `size`.
class Twin {
 public:
  Twin(Index rows, Index columns, std::mt19937_64& random, double size = 0)
      : rows_(rows), columns_(columns), stride_(columns + static_cast<Index>(random() % 5)) {
    std::uniform_int_distribution<int> integer(-100, 100);
    std::uniform_real_distribution<double> real(-size, size);
    for (Index i = 0; i < rows * stride_; ++i)
      cpu_.push_back(static_cast<float>(size == 0 ? integer(random) : real(random)));
    device_ = cpu_;
  }
  template <class Backend>
  MatrixView<float, Backend> view() {
    auto& memory = std::is_same_v<Backend, Cpu> ? cpu_ : device_;
    return {memory.data(), rows_, columns_, stride_};
  }
  template <class Backend>
  MatrixView<const float, Backend> constant() {
    return view<Backend>();
  }
  bool differs() const {
    return std::memcmp(cpu_.data(), device_.data(), cpu_.size() * sizeof(float)) != 0;
  }
  /// The same with an error of at most bound(row, column) in each element.
  template <class Bound>
  bool is_beyond(const Bound& bound) const {
    for (Index i = 0; i < rows_; ++i)
      for (Index j = 0; j < stride_; ++j) {
        const auto at = static_cast<std::size_t>(i * stride_ + j);
        const double error =
            std::abs(static_cast<double>(cpu_[at]) - static_cast<double>(device_[at]));
        if (!(error <= (j < columns_ ? bound(i, j) : 0.0))) return true;
      }
    return false;
  }
  /// An element of the CPU's copy.
  double operator()(Index row, Index column) const {
    return static_cast<double>(cpu_[static_cast<std::size_t>(row * stride_ + column)]);
  }

 private:
  Index rows_, columns_, stride_;
  std::vector<float> cpu_, device_;
};

struct Shape {
  Index rows, columns;
};

/// Calls check(shape, random), which returns whether the results of the two backends differ.
template <class Check>
void on_random_shapes(std::uint64_t seed, const Check& check) {
  constexpr int shapes = 500;
  int differing = 0;
  for (int i = 0; i < shapes; ++i) {
    std::mt19937_64 random(seed * 1000 + static_cast<std::uint64_t>(i));
    const Shape shape{1 + static_cast<Index>(random() % 9), 1 + static_cast<Index>(random() % 70)};
    CAPTURE(seed, i, shape.rows, shape.columns);
    const bool differs = check(shape, random);
    CHECK_FALSE(differs);
    differing += differs;
  }
  dropbp_test::promise(4, "ops=1 least_shapes_an_op=%d differing=%d", shapes, differing);
}

template <class Op, class Backend>
using Kernels = kernels<Op, float, Backend>;

/// Calls f.operator()<Backend>() for both.
template <class F>
void on_both(const F& f) {
  f.template operator()<Cpu>();
  f.template operator()<Emulated>();
}

}  // namespace random_shapes
