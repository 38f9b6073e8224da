// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// std::vector<float> needs no code to be a tensor.
#include "train.hpp"

struct Library {
  using Tensor = std::vector<float>;

  static Tensor make(const std::vector<float>& values) { return values; }
  static std::vector<float> read(const Tensor& t) { return t; }
  static Tensor combine(Binary f, const Tensor& a, const Tensor& b) {
    Tensor result(a.size());
    for (std::size_t i = 0; i < result.size(); ++i) result[i] = f(a[i], b[i]);
    return result;
  }
};

int main() { return train<Library>("std::vector"); }
