// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Eigen's dense objects as tensors: every storage order, fixed and dynamic sizes, views with gaps.
#include <stdexcept>

// Enables Eigen's checks, including those for allocations, also in builds without assert.
#define EIGEN_RUNTIME_NO_MALLOC
#define eigen_assert(condition)                           \
  do {                                                    \
    if (!(condition)) throw std::logic_error(#condition); \
  } while (false)

#include "dropbp/interop/eigen.hpp"

#include <cstddef>
#include <vector>

#include <Eigen/SparseCore>

#include "dropbp/dropbp.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using RowMajorMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class Matrix, class Stride = Eigen::Stride<0, 0>>
using MapOf = Eigen::Map<Matrix, 0, Stride>;
struct Derived : Eigen::MatrixXf {
  using Eigen::MatrixXf::MatrixXf;
};

// Which types are tensors and which are not.
template <class... Ts>
constexpr bool all_train = (dropbp::Tensor<Ts> && ...) && (dropbp::ScalableTensor<Ts> && ...);
template <class... Ts>
constexpr bool all_compare =
    (dropbp::NormedTensor<Ts> && ...) && (dropbp::ComparableTensor<Ts> && ...);

using Block = Eigen::Block<Eigen::MatrixXf>;
using Row = Eigen::MatrixXf::RowXpr;
using Diagonal = Eigen::Diagonal<Eigen::MatrixXf>;
using Transposed = Eigen::Transpose<Eigen::MatrixXf>;
using ConstMap = MapOf<const Eigen::MatrixXf>;
using ConstBlock = Eigen::Block<const Eigen::MatrixXf>;
using Sum = decltype(Eigen::MatrixXf() + Eigen::MatrixXf());

static_assert(all_train<Eigen::MatrixXf, Eigen::VectorXd, Eigen::RowVectorXf, Eigen::Matrix3f,
                        Eigen::ArrayXXd, RowMajorMatrix, Derived, MapOf<Eigen::MatrixXf>,
                        MapOf<Eigen::VectorXf, Eigen::InnerStride<>>, Block, Row, Diagonal,
                        Transposed, Eigen::Ref<Eigen::MatrixXf>, Eigen::Matrix<Eigen::half, 2, 2>>);
static_assert(
    all_compare<Eigen::MatrixXf, Eigen::VectorXd, Eigen::Matrix3f, Eigen::ArrayXXd, RowMajorMatrix,
                Derived, MapOf<Eigen::MatrixXf>, Block, Row, Diagonal, Transposed, ConstMap,
                ConstBlock, Eigen::Ref<const Eigen::MatrixXf>, Eigen::Matrix<Eigen::half, 2, 2>>);
static_assert(!dropbp::Tensor<ConstMap> && !dropbp::Tensor<ConstBlock>, "they can be read only");
static_assert(!dropbp::Tensor<Sum> && !dropbp::NormedTensor<Sum>, "not computed yet");
static_assert(!dropbp::Tensor<Eigen::SparseMatrix<float>>);
static_assert(!dropbp::Tensor<Eigen::MatrixXcf> && !dropbp::Tensor<Eigen::MatrixXi>);

template <class Matrix>
Matrix filled(Eigen::Index rows, Eigen::Index columns, double slope) {
  Matrix m(rows, columns);
  for (Eigen::Index r = 0; r < rows; ++r)
    for (Eigen::Index c = 0; c < columns; ++c)
      m(r, c) = static_cast<typename Matrix::Scalar>(slope * static_cast<double>(r + 1) +
                                                     static_cast<double>(c * c));
  return m;
}

// All functions of a tensor, compared with sums by hand.
template <class T>
void check_verbs(T& y, const T& x) {
  double norm = 0, distance = 0;
  for (Eigen::Index r = 0; r < y.rows(); ++r)
    for (Eigen::Index c = 0; c < y.cols(); ++c) {
      const double a = static_cast<double>(x.coeff(r, c)), b = static_cast<double>(y.coeff(r, c));
      norm += a * a;
      distance += (a - b) * (a - b);
    }
  CHECK(dropbp::squared_norm(x) == Approx(norm).epsilon(1e-14));
  const dropbp::detail::TensorCopy<T> copy(x);
  CHECK(copy.squared_norm() == Approx(norm).epsilon(1e-14));
  CHECK(copy.squared_distance(y) == Approx(distance).epsilon(1e-14));
  CHECK(copy.squared_distance(x) == 0.0);

  const typename T::PlainObject before = y, added = x;
  dropbp::accumulate(y, x);
  bool good = true;
  for (Eigen::Index r = 0; r < y.rows(); ++r)
    for (Eigen::Index c = 0; c < y.cols(); ++c) {
      const auto sum = before(r, c) + added(r, c);
      good = good && y.coeff(r, c) == sum;
    }
  CHECK(good);
  dropbp::scale(y, 0.5);
  for (Eigen::Index r = 0; r < y.rows(); ++r)
    for (Eigen::Index c = 0; c < y.cols(); ++c) {
      const auto half = (before(r, c) + added(r, c)) * static_cast<typename T::Scalar>(0.5);
      good = good && y.coeff(r, c) == half;
    }
  CHECK(good);
}

template <class Matrix>
void check_owner(Eigen::Index rows, Eigen::Index columns) {
  Matrix y = filled<Matrix>(rows, columns, 0.25);
  const Matrix x = filled<Matrix>(rows, columns, -3);
  check_verbs(y, x);
}

template <class View, class Parent>
void check_view(View y, View x, Parent& parent, const std::vector<float>& gaps) {
  check_verbs(y, x);
  std::vector<float> left;  // gaps, which must not change
  for (Eigen::Index i = 0; i < parent.size(); ++i)
    if (parent.data()[i] >= 1e6f) left.push_back(parent.data()[i]);
  CHECK(left == gaps);
}

}  // namespace

TEST_CASE("eigen: matrices and arrays of either storage order, of fixed and dynamic size") {
  check_owner<Eigen::MatrixXf>(3, 5);
  check_owner<Eigen::MatrixXd>(7, 2);
  check_owner<RowMajorMatrix>(3, 5);
  check_owner<Eigen::Matrix3f>(3, 3);
  check_owner<Eigen::Matrix<double, 2, 4, Eigen::RowMajor>>(2, 4);
  check_owner<Eigen::Matrix<float, 4, Eigen::Dynamic>>(4, 3);
  check_owner<Eigen::ArrayXXf>(4, 3);
  check_owner<Eigen::VectorXf>(70, 1);
  check_owner<Eigen::RowVectorXd>(1, 9);
  check_owner<Eigen::MatrixXf>(0, 4);
  check_owner<Derived>(3, 2);
  check_owner<Eigen::Matrix<Eigen::half, 2, 2>>(2, 2);
}

TEST_CASE(
    "eigen: a row-major and a column-major map over the same memory each add in their own order") {
  std::vector<float> memory{0, 1, 2, 3, 4, 5}, other{5, 4, 3, 2, 1, 0};
  MapOf<RowMajorMatrix> y(memory.data(), 2, 3), x(other.data(), 2, 3);
  check_verbs(y, x);
  MapOf<Eigen::MatrixXf> by_column(memory.data(), 2, 3), x_by_column(other.data(), 2, 3);
  check_verbs(by_column, x_by_column);
}

TEST_CASE("eigen: views with gaps do not write to the gaps") {
  const float gap = 1e6f;
  SECTION("a map with an outer stride") {
    Eigen::MatrixXf parent = Eigen::MatrixXf::Constant(5, 6, gap);
    parent.topRows(2) = filled<Eigen::MatrixXf>(2, 6, 0.5);
    using View = MapOf<Eigen::MatrixXf, Eigen::OuterStride<>>;
    check_view(View(parent.data(), 2, 3, Eigen::OuterStride<>(5)),
               View(parent.data() + 15, 2, 3, Eigen::OuterStride<>(5)), parent,
               std::vector<float>(18, gap));
  }
  SECTION("a map with an inner stride") {
    Eigen::VectorXf parent = Eigen::VectorXf::Constant(12, gap);
    for (Eigen::Index i = 0; i < 12; i += 2) parent(i) = static_cast<float>(i) - 3;
    using View = MapOf<Eigen::VectorXf, Eigen::InnerStride<2>>;
    check_view(View(parent.data(), 3), View(parent.data() + 6, 3), parent,
               std::vector<float>(6, gap));
  }
  SECTION("a block, a row and a diagonal") {
    Eigen::MatrixXf parent = Eigen::MatrixXf::Constant(6, 6, gap);
    parent.block(1, 1, 2, 3) = filled<Eigen::MatrixXf>(2, 3, 2);
    parent.block(4, 2, 2, 3) = filled<Eigen::MatrixXf>(2, 3, -1);
    check_view(parent.block(1, 1, 2, 3), parent.block(4, 2, 2, 3), parent,
               std::vector<float>(24, gap));
    parent.setConstant(gap);
    parent.row(1).setLinSpaced(1, 6);
    parent.row(4).setLinSpaced(-2, 7);
    check_view(parent.row(1), parent.row(4), parent, std::vector<float>(24, gap));
    parent.setConstant(gap);
    Eigen::MatrixXf other = filled<Eigen::MatrixXf>(6, 6, 1);
    parent.diagonal().setLinSpaced(1, 6);
    check_view(parent.diagonal(), other.diagonal(), parent, std::vector<float>(30, gap));
    Transposed y = other.transpose(), x = parent.transpose();
    check_verbs(y, x);
  }
}

TEST_CASE("eigen: a copy of a view does not change with the view") {
  std::vector<float> memory{3, 4};
  const MapOf<Eigen::VectorXf> view(memory.data(), 2);
  const dropbp::detail::TensorCopy<MapOf<Eigen::VectorXf>> copy(view);
  memory[0] = 0;
  CHECK(copy.squared_norm() == 25.0);
  CHECK(copy.squared_distance(view) == 9.0);
}

TEST_CASE(
    "eigen: different shapes are refused even with equally many elements, and nothing changes") {
  Eigen::MatrixXf y = Eigen::MatrixXf::Ones(2, 3);
  test::check_throws<std::invalid_argument>(
      [&] { dropbp::accumulate(y, Eigen::MatrixXf(Eigen::MatrixXf::Ones(3, 2))); },
      {"the same shape", "one is 2 x 3 and the other 3 x 2",
       "let the branch return a tensor of the shape of its input"});
  CHECK(y == Eigen::MatrixXf::Ones(2, 3));
  const dropbp::detail::TensorCopy<Eigen::MatrixXf> copy(y);
  test::check_throws<std::invalid_argument>([&] { copy.squared_distance(Eigen::MatrixXf(2, 2)); },
                                            {"one is 2 x 3 and the other 2 x 2"});
}

TEST_CASE("eigen: norms are computed in double, with gaps and without") {
  Eigen::MatrixXf m = Eigen::MatrixXf::Constant(3, 2, 1e30f);
  CHECK(dropbp::squared_norm(m) == Approx(6e60));
  const auto row = m.row(0);
  CHECK(dropbp::squared_norm(row) == Approx(2e60));
  CHECK(dropbp::squared_norm(Eigen::VectorXf(m.col(0))) ==
        dropbp::squared_norm(std::vector<float>(3, 1e30f)));
  const Eigen::Matrix<Eigen::half, 2, 1> halves{Eigen::half(300.0f), Eigen::half(400.0f)};
  CHECK(dropbp::squared_norm(halves) == 250000.0);  // beyond half's largest value
}

TEST_CASE("eigen: sums, scales and norms allocate nothing") {
  Eigen::MatrixXf m = Eigen::MatrixXf::Ones(20, 30);
  auto y = m.block(0, 0, 5, 5);
  const auto x = m.block(7, 7, 5, 5);
  Eigen::internal::set_is_malloc_allowed(false);
  dropbp::accumulate(y, x);
  dropbp::accumulate(m, m);
  dropbp::scale(y, 2.0);
  const double norm = dropbp::squared_norm(x) + dropbp::squared_norm(m);
  Eigen::internal::set_is_malloc_allowed(true);
  CHECK(norm > 0);
}

namespace {

// f(x) = W x, a batch of columns
struct Linear {
  struct Saved {
    Eigen::MatrixXf x;
  };
  Eigen::MatrixXf weight, gradient;

  Eigen::MatrixXf forward(const Eigen::MatrixXf& x, Saved* saved) const {
    if (saved != nullptr) saved->x = x;
    return weight * x;
  }
  Eigen::MatrixXf backward(const Eigen::MatrixXf& grad_output, Saved& saved) {
    gradient += grad_output * saved.x.transpose();
    return weight.transpose() * grad_output;
  }
};

}  // namespace

TEST_CASE("eigen: a layer over Matrix passes the gradient through when it is dropped") {
  dropbp::DropBPLayer<Linear> layer{
      {filled<Eigen::MatrixXf>(3, 3, 0.5), Eigen::MatrixXf::Zero(3, 3)}};
  const Eigen::MatrixXf x = filled<Eigen::MatrixXf>(3, 4, 1),
                        grad = filled<Eigen::MatrixXf>(3, 4, -1);
  CHECK(layer.forward(x) == x + layer.op().weight * x);
  CHECK(layer.backward(grad) == grad + layer.op().weight.transpose() * grad);
  CHECK(layer.op().gradient == grad * x.transpose());
  layer.decide({.dropped = true});
  CHECK(layer.forward(x) == x + layer.op().weight * x);
  CHECK(layer.backward(grad) == grad);
}
