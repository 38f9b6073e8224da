// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Eigen::Map with strides over memory that something else owns: every second column of a wider
// matrix.
#include <deque>

#include <Eigen/Core>

#include "train.hpp"
// [dropbp
#include <dropbp/interop/eigen.hpp>
// dropbp]

using View = Eigen::Map<Eigen::MatrixXf, 0, Eigen::OuterStride<>>;

// Assigning to a Map writes through it. A trainer that hands tensors on needs a Map that can be
// pointed to other memory.
struct Handle : View {
  Handle() : Handle(nullptr) {}
  explicit Handle(float* memory)
      : View(memory, memory == nullptr ? 0 : 3, memory == nullptr ? 0 : width / 3,
             Eigen::OuterStride<>(6)) {}
  Handle(const Handle& other) : View(other) {}
  Handle& operator=(const Handle& other) {
    new (static_cast<View*>(this)) View(other);
    return *this;
  }
};

struct Library {
  using Tensor = Handle;

  static Tensor make(const std::vector<float>& values) {
    static std::deque<std::vector<float>> owner;  // lives until the program ends
    Handle t(owner.emplace_back(2 * width, 1e9f).data());
    static_cast<View&>(t) = Eigen::Map<const Eigen::MatrixXf>(values.data(), 3, width / 3);
    return t;
  }
  static std::vector<float> read(const Tensor& t) {
    const Eigen::MatrixXf copy = t;
    return {copy.data(), copy.data() + copy.size()};
  }
  static Tensor combine(Binary f, const Tensor& a, const Tensor& b) {
    const Eigen::MatrixXf result = a.binaryExpr(b, f);
    return make({result.data(), result.data() + result.size()});
  }
};

int main() { return train<Library>("Eigen::Map"); }
