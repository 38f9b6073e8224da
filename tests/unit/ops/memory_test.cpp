// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Pools, matrices and parameters: what is counted, what is reused, who may outlive whom.
#include "dropbp/ops/memory.hpp"

#include <optional>
#include <thread>

#include "dropbp/tensor.hpp"
#include "unit/ops/ops_test.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;

static_assert(dropbp::Tensor<Matrix<float>> && dropbp::ComparableTensor<Matrix<double>>);
static_assert(!std::is_copy_constructible_v<Matrix<float>> && std::is_nothrow_move_constructible_v<Matrix<float>>);

TEST_CASE("a pool counts what was asked for and reuses what was given back") {
  MemoryPool pool;
  {
    Matrix<float> a(3, 5, pool);
    Matrix<double> b(7, 1, pool);
    CHECK(pool.bytes_in_use() == 60 + 56);
    CHECK(reinterpret_cast<std::uintptr_t>(a.data()) % 64 == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(b.data()) % 64 == 0);
  }
  CHECK(pool.bytes_in_use() == 0);
  CHECK(pool.peak_bytes() == 116);
  pool.reset_peak();
  CHECK(pool.peak_bytes() == 0);
  const std::size_t allocations = pool.allocations();
  for (int i = 0; i < 10; ++i) Matrix<float> again(2, 7 + i % 2, pool);
  CHECK(pool.allocations() == allocations);
  CHECK(pool.reserved_bytes() > 0);
  pool.trim();
  CHECK(pool.reserved_bytes() == 0);
}

TEST_CASE("blocks outlive their pool, and a moved-from matrix is empty") {
  std::optional<Matrix<float>> kept;
  {
    MemoryPool pool;
    kept.emplace(10, 10, pool);
  }
  kept->row(9)[9] = 4;
  Matrix<float> moved = std::move(*kept);
  CHECK(moved.row(9)[9] == 4);
  CHECK(kept->size() == 0);
  CHECK(kept->data() == nullptr);
  MemoryPool other;
  moved = Matrix<float>(2, 2, other);
  CHECK(other.bytes_in_use() == 16);
  moved = Matrix<float>();
  CHECK(other.bytes_in_use() == 0);
}

TEST_CASE("a poisoned pool hands out NaN, fresh or reused") {
  MemoryPool pool(PoolFill::nan);
  for (int i = 0; i < 2; ++i) {
    Matrix<float> f(3, 3, pool);
    Matrix<double> d(3, 3, pool);
    for (const float value : elements(f)) CHECK(std::isnan(value));
    for (const double value : elements(d)) CHECK(std::isnan(value));
    std::fill_n(f.data(), f.size(), 0.0f);
  }
}

TEST_CASE("a pool serves several threads") {
  MemoryPool pool;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&pool] {
      for (Index i = 1; i < 500; ++i) Matrix<float> m(i % 37 + 1, 11, pool);
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(pool.bytes_in_use() == 0);
}

TEST_CASE("impossible sizes are refused") {
  CHECK(contains(invalid_message([] { Matrix<float>(-1, 3); }), "[-1, 3]"));
  CHECK(contains(invalid_message([] { Matrix<float>(PTRDIFF_MAX / 2, 8); }), "sizes"));
}

TEST_CASE("an absent gradient is overwritten, a present one added to") {
  Parameter<float> parameter({{"q.weight", 2}, {"k.weight", 1}}, 4);
  CHECK_FALSE(parameter.has_gradient());
  CHECK(parameter.begin_gradient() == Accumulate::overwrite);
  CHECK(parameter.begin_gradient() == Accumulate::add);
  parameter.drop_gradient();
  CHECK_FALSE(parameter.has_gradient());
  CHECK(parameter.begin_gradient() == Accumulate::overwrite);

  int parts = 0;
  parameter.for_each_slice([&](const ParameterSlice<float>& slice) {
    CHECK(slice.name == (parts == 0 ? "q.weight" : "k.weight"));
    CHECK(slice.size() == (parts == 0 ? 8u : 4u));
    CHECK(slice.value == parameter.value().row(parts == 0 ? 0 : 2));
    CHECK(slice.gradient == parameter.gradient().row(parts == 0 ? 0 : 2));
    ++parts;
  });
  CHECK(parts == 2);
  parameter.drop_gradient();
  parameter.for_each_slice([](const ParameterSlice<float>& slice) { CHECK(slice.gradient == nullptr); });
}
