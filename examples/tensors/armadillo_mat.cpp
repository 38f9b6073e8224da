// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// arma::Mat: one header makes it a tensor, as it does Col, Row, Cube and matrices of fixed size.
#include <armadillo>

#include "train.hpp"
// [dropbp
#include <dropbp/interop/armadillo.hpp>
// dropbp]

struct Library {
  using Tensor = arma::fmat;

  static Tensor make(const std::vector<float>& values) {
    return Tensor(values.data(), 3, width / 3);
  }
  static std::vector<float> read(const Tensor& t) { return {t.begin(), t.end()}; }
  static Tensor combine(Binary f, const Tensor& a, const Tensor& b) {
    Tensor result(a.n_rows, a.n_cols);
    for (arma::uword i = 0; i < a.n_elem; ++i) result[i] = f(a[i], b[i]);
    return result;
  }
};

int main() { return train<Library>("arma::fmat"); }
