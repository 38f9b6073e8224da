// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Eigen::Matrix: one header makes it a tensor, as it does arrays, blocks and matrices of fixed
// size.
#include <Eigen/Core>

#include "train.hpp"
// [dropbp
#include <dropbp/interop/eigen.hpp>
// dropbp]

struct Library {
  using Tensor = Eigen::MatrixXf;

  static Tensor make(const std::vector<float>& values) {
    return Eigen::Map<const Tensor>(values.data(), 3, width / 3);
  }
  static std::vector<float> read(const Tensor& t) { return {t.data(), t.data() + t.size()}; }
  static Tensor combine(Binary f, const Tensor& a, const Tensor& b) { return a.binaryExpr(b, f); }
};

int main() { return train<Library>("Eigen::MatrixXf"); }
