// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sums and norms of tensors of every size, including NaN, infinities and extreme values.
#include "dropbp/tensor.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "dropbp/base/philox.hpp"
#include "support/catch.hpp"

namespace {

template <class Real>
std::vector<Real> random_vector(std::size_t size, std::uint64_t seed) {
  const dropbp::CounterRandom random(seed, dropbp::RandomStream::user, size);
  std::vector<Real> x(size);
  for (std::size_t i = 0; i < size; ++i)
    x[i] = static_cast<Real>(static_cast<double>(random(i) >> 11) * 0x1p-53 - 0.5);
  return x;
}

}  // namespace

TEST_CASE("accumulate adds element by element at every size up to 70") {
  for (std::size_t size = 0; size <= 70; ++size) {
    std::vector<float> y = random_vector<float>(size, 1);
    const std::vector<float> x = random_vector<float>(size, 2), before = y;
    dropbp::accumulate(y, x);
    bool good = true;
    for (std::size_t i = 0; i < size; ++i) good = good && y[i] == before[i] + x[i];
    REQUIRE(good);
  }
}

TEST_CASE("accumulate refuses tensors of different sizes and changes nothing") {
  std::vector<double> y{1, 2, 3};
  CHECK_THROWS_AS(dropbp::accumulate(y, {1, 2}), std::invalid_argument);
  CHECK_THROWS_AS(dropbp::accumulate(y, {1, 2, 3, 4}), std::invalid_argument);
  CHECK(y == std::vector<double>{1, 2, 3});
}

TEST_CASE("accumulate works on a tensor and itself, and through a span on external memory") {
  std::vector<float> y{1, 2, 3};
  dropbp::accumulate(y, y);
  CHECK(y == std::vector<float>{2, 4, 6});
  float foreign[] = {1, 2, 3};
  std::span<float> view(foreign);
  dropbp::accumulate(view, std::span<float>(y));
  CHECK(foreign[2] == 9.0f);
  std::array<double, 2> fixed{1, 2};
  dropbp::accumulate(fixed, {10, 20});
  CHECK(fixed == std::array<double, 2>{11, 22});
}

TEST_CASE("accumulate treats NaN, infinities and signed zeros as addition does") {
  using limits = std::numeric_limits<float>;
  const std::vector<float> values{0.0f,
                                  -0.0f,
                                  1.0f,
                                  limits::max(),
                                  limits::denorm_min(),
                                  limits::infinity(),
                                  -limits::infinity(),
                                  limits::quiet_NaN()};
  for (const float a : values)
    for (const float b : values) {
      std::vector<float> y{a};
      dropbp::accumulate(y, {b});
      const volatile float sum = a + b;
      const float expected = sum;
      if (std::isnan(expected))
        CHECK(std::isnan(y[0]));
      else
        CHECK(std::bit_cast<std::uint32_t>(y[0]) == std::bit_cast<std::uint32_t>(expected));
    }
}

TEST_CASE("Squared norms and distances are sums in double at every size up to 70") {
  for (std::size_t size = 0; size <= 70; ++size) {
    const std::vector<float> x = random_vector<float>(size, 3), y = random_vector<float>(size, 4);
    long double norm = 0, distance = 0;
    for (std::size_t i = 0; i < size; ++i) {
      norm += static_cast<long double>(x[i]) * static_cast<long double>(x[i]);
      const long double difference =
          static_cast<long double>(x[i]) - static_cast<long double>(y[i]);
      distance += difference * difference;
    }
    CHECK(dropbp::squared_norm(x) == Approx(static_cast<double>(norm)).epsilon(1e-14));
    const dropbp::detail::TensorCopy<std::vector<float>> copy(x);
    CHECK(copy.squared_norm() == dropbp::squared_norm(x));
    CHECK(copy.squared_distance(y) == Approx(static_cast<double>(distance)).epsilon(1e-14));
  }
}

TEST_CASE("A norm of floats neither overflows nor underflows in float") {
  CHECK(dropbp::squared_norm(std::vector<float>{1e30f, 1e30f}) == Approx(2e60));
  CHECK(dropbp::squared_norm(std::vector<float>{1e-30f}) == Approx(1e-60));
  CHECK(std::isnan(
      dropbp::squared_norm(std::vector<float>{1.0f, std::numeric_limits<float>::quiet_NaN()})));
  CHECK(std::isinf(
      dropbp::squared_norm(std::vector<float>{1.0f, std::numeric_limits<float>::infinity()})));
}

TEST_CASE("Integer values are summed exactly") {
  std::vector<float> x(1000);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  CHECK(dropbp::squared_norm(x) == 332833500.0);
}

namespace {

// A view whose clone has another type.
struct Strided {
  const float* first;
  std::size_t stride, count;
};

}  // namespace

template <>
struct dropbp::tensor_traits<Strided> {
  static std::vector<float> clone(const Strided& x) {
    std::vector<float> copy;
    for (std::size_t i = 0; i < x.count; ++i) copy.push_back(x.first[i * x.stride]);
    return copy;
  }
  static double squared_norm(const Strided& x) { return dropbp::squared_norm(clone(x)); }
  static double squared_distance(const std::vector<float>& x, const Strided& y) {
    double sum = 0;
    for (std::size_t i = 0; i < y.count; ++i) {
      const double difference =
          static_cast<double>(x[i]) - static_cast<double>(y.first[i * y.stride]);
      sum += difference * difference;
    }
    return sum;
  }
};

TEST_CASE("A copy of a view has the type of its clone and owns its elements") {
  static_assert(dropbp::ComparableTensor<Strided> && !dropbp::Tensor<Strided>,
                "it can be compared, not added to");
  float foreign[] = {3, 100, 4, 100};
  const Strided view{foreign, 2, 2};
  const dropbp::detail::TensorCopy<Strided> copy(view);
  foreign[0] = 0;
  CHECK(copy.squared_norm() == 25.0);
  CHECK(copy.squared_distance(view) == 9.0);
}

TEST_CASE("A copy does not change with its tensor, and refuses a tensor of another size") {
  std::vector<double> x{1, 2};
  const dropbp::detail::TensorCopy<std::vector<double>> copy(x);
  x = {4, 6};
  CHECK(copy.squared_norm() == 5.0);
  CHECK(copy.squared_distance(x) == 25.0);
  x.push_back(0);
  CHECK_THROWS_AS(copy.squared_distance(x), std::invalid_argument);
  // A copy of a view is a copy of its elements.
  double foreign[] = {3, 4};
  const dropbp::detail::TensorCopy<std::span<double>> elements{std::span<double>(foreign)};
  foreign[0] = 0;
  CHECK(elements.squared_norm() == 25.0);
}
