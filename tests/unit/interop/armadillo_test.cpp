// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Armadillo's dense objects as tensors.
#include "dropbp/interop/armadillo.hpp"

#include <stdexcept>
#include <utility>
#include <vector>

#include "dropbp/dropbp.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

template <class... Ts>
constexpr bool all_are_tensors =
    (dropbp::Tensor<Ts> && ...) && (dropbp::ScalableTensor<Ts> && ...) &&
    (dropbp::NormedTensor<Ts> && ...) && (dropbp::ComparableTensor<Ts> && ...);
using Product = decltype(std::declval<arma::mat>() * std::declval<arma::mat>());

static_assert(all_are_tensors<arma::fmat, arma::mat, arma::fvec, arma::frowvec, arma::cube,
                              arma::fcube, arma::fmat::fixed<2, 3>, arma::vec::fixed<4>>);
static_assert(!dropbp::Tensor<arma::cx_mat> && !dropbp::Tensor<arma::imat>,
              "there are no kernels for these");
static_assert(!dropbp::Tensor<Product> && !dropbp::Tensor<arma::sp_mat> &&
              !dropbp::Tensor<arma::subview<double>>);

template <class T>
void check_verbs(T y) {
  T x = y;
  for (arma::uword i = 0; i < y.n_elem; ++i) {
    y[i] = static_cast<typename T::elem_type>(i) + 1;
    x[i] = 2 * static_cast<typename T::elem_type>(i) - 3;
  }
  double norm = 0, distance = 0;
  for (arma::uword i = 0; i < y.n_elem; ++i) {
    const double a = static_cast<double>(x[i]), b = static_cast<double>(y[i]);
    norm += a * a;
    distance += (a - b) * (a - b);
  }
  CHECK(dropbp::squared_norm(x) == norm);  // whole numbers
  const dropbp::detail::TensorCopy<T> copy(x);
  CHECK(copy.squared_norm() == norm);
  CHECK(copy.squared_distance(y) == distance);
  dropbp::accumulate(y, x);
  dropbp::scale(y, 2.0);
  bool good = true;
  for (arma::uword i = 0; i < y.n_elem; ++i)
    good = good && static_cast<double>(y[i]) == 6 * static_cast<double>(i) - 4;
  CHECK(good);
}

}  // namespace

TEST_CASE("armadillo: matrices, vectors and cubes of float and double, fixed and dynamic") {
  check_verbs(arma::fmat(3, 5));
  check_verbs(arma::mat(7, 2));
  check_verbs(arma::fvec(9));
  check_verbs(arma::rowvec(4));
  check_verbs(arma::fcube(2, 3, 4));
  check_verbs(arma::fmat::fixed<2, 3>());
  check_verbs(arma::fmat());
}

TEST_CASE("armadillo: += on a matrix over external memory writes to that memory") {
  std::vector<float> memory{1, 2, 3, 4};
  arma::fmat y(memory.data(), 2, 2, false, true);
  dropbp::accumulate(y, arma::fmat(2, 2, arma::fill::ones));
  CHECK(memory == std::vector<float>{2, 3, 4, 5});
}

TEST_CASE(
    "armadillo: different shapes are refused even with equally many elements, and nothing "
    "changes") {
  arma::fmat y(2, 3, arma::fill::ones);
  test::check_throws<std::invalid_argument>(
      [&] { dropbp::accumulate(y, arma::fmat(3, 2, arma::fill::ones)); },
      {"the same shape", "one is 2 x 3 and the other 3 x 2",
       "let the branch return a tensor of the shape of its input"});
  CHECK(arma::accu(y) == 6.0f);
  arma::cube cube(2, 3, 4, arma::fill::ones);
  test::check_throws<std::invalid_argument>([&] { dropbp::accumulate(cube, arma::cube(2, 3, 5)); },
                                            {"one is 2 x 3 x 4 and the other 2 x 3 x 5"});
}

TEST_CASE("armadillo: norms are computed in double") {
  CHECK(dropbp::squared_norm(arma::fmat(3, 2, arma::fill::value(1e30f))) == Approx(6e60));
}
