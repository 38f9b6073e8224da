// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Pools, arenas, matrices and parameters: what is counted, what is reused, what may outlive what.
#include "dropbp/kernels/memory.hpp"

#include <cstring>
#include <new>
#include <optional>
#include <stdexcept>
#include <thread>

#include "dropbp/tensor.hpp"
#include "ops/ops_test.hpp"

// Memory with a limit, like that of a GPU.
struct Limited {
  static inline std::size_t limit = 0, in_use = 0;
};

template <>
struct dropbp::device_runtime<Limited> {
  static void* allocate(std::size_t bytes) {
    if (Limited::in_use + bytes > Limited::limit) throw std::runtime_error("the limit");
    Limited::in_use += bytes;
    return ::operator new(bytes);
  }
  static void release(void* memory, std::size_t bytes) noexcept {
    Limited::in_use -= bytes;
    ::operator delete(memory);
  }
  static void fill(void* memory, int byte, std::size_t bytes) { std::memset(memory, byte, bytes); }

  struct Place {
    int device = 0;
    bool operator==(const Place&) const = default;
  };
  static Place place() { return {}; }
  struct PlaceScope {
    explicit PlaceScope(const Place&) {}
  };
  static void follow(const Place&) {}
  static void synchronize() {}
};

using namespace dropbp::ops;
using namespace dropbp::test;

static_assert(dropbp::Tensor<Matrix<float>> && dropbp::ComparableTensor<Matrix<double>>);
static_assert(!std::is_copy_constructible_v<Matrix<float>> &&
              std::is_nothrow_move_constructible_v<Matrix<float>>);

TEST_CASE("a pool counts requested bytes and reuses released blocks") {
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

TEST_CASE("blocks may outlive their pool, and a moved-from matrix is empty") {
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

TEST_CASE("an arena cuts blocks from one piece of memory and reuses its free end") {
  MemoryPool pool;
  std::optional<Matrix<float>> before(std::in_place, 1, 7,
                                      pool);  // not from the arena, and returned to the pool
  {
    const Matrix<float> waiting(100, 100, pool);
  }
  pool.reserve(1000, 4);
  CHECK(pool.reserved_bytes() == 64 + 1000 + 4 * 64);
  const std::size_t allocations = pool.allocations();
  for (int round = 0; round < 3; ++round) {
    pool.reset_peak();
    std::optional<Matrix<float>> a(std::in_place, 1, 1, pool), b(std::in_place, 3, 17, pool),
        c(std::in_place, 1, 150, pool);
    const auto address = [](const Matrix<float>& m) {
      return reinterpret_cast<std::uintptr_t>(m.data());
    };
    CHECK(address(*a) % 64 == 0);
    CHECK(address(*b) - address(*a) == 64);
    CHECK(address(*c) - address(*b) == 256);
    CHECK(pool.bytes_in_use() == 28 * (round == 0) + 4 + 204 + 600);
    CHECK(pool.peak_bytes() == pool.bytes_in_use());
    if (round == 0) before.reset();
    // Memory below a live block is not reused. After the last live block everything is free.
    const std::uintptr_t at_b = address(*b), at_c = address(*c);
    b.reset();
    Matrix<float> d(1, 16, pool);
    CHECK(address(d) == at_c + 640);
    d = Matrix<float>();
    c.reset();
    const Matrix<float> e(1, 192, pool);
    CHECK(address(e) == at_b);
    CHECK(pool.bytes_in_use() == 4 + 768);
    a.reset();
  }
  CHECK(pool.bytes_in_use() == 0);
  CHECK(pool.allocations() == allocations);
  pool.trim();
  CHECK(pool.reserved_bytes() == 0);
}

TEST_CASE("an arena holds the reserved blocks in any division and refuses more") {
  MemoryPool pool;
  for (const Index size : {1, 17, 100, 250}) {
    const Index blocks = 1000 / size;
    pool.reserve(static_cast<std::size_t>(4 * size * blocks), static_cast<std::size_t>(blocks));
    std::vector<Matrix<float>> all;
    for (Index i = 0; i < blocks; ++i) all.emplace_back(1, size, pool);
    for (const Matrix<float>& one : all)
      CHECK(reinterpret_cast<std::uintptr_t>(one.data()) % 64 == 0);
  }
  MemoryPool small;
  small.reserve(100, 1);
  const Matrix<float> kept(1, 16, small);
  CHECK(contains(invalid_message([&] { Matrix<float>(1, 26, small); }),
                 "104 bytes were asked for with 64 of its 164 in use: reserve more"));
  CHECK(contains(invalid_message([&] { Matrix<float>(1, PTRDIFF_MAX / 8, small); }), "in use"));
  CHECK(small.bytes_in_use() == 64);
  CHECK(small.peak_bytes() == 64);
  const Matrix<float> fits(1, 16, small);
}

TEST_CASE("an arena grows only while it is empty") {
  MemoryPool pool;
  pool.reserve(1000, 2);
  const std::size_t reserved = pool.reserved_bytes(), allocations = pool.allocations();
  {
    const Matrix<float> kept(1, 100, pool);
    pool.reserve(1000, 2);
    pool.reserve(10, 2);
    std::string message;
    try {
      pool.reserve(2000, 2);
    } catch (const std::logic_error& error) {
      message = error.what();
    }
    CHECK(contains(message,
                   "grow to 2128 bytes, but 448 of its 1128 are in use: reserve enough before the "
                   "forward pass"));
  }
  CHECK(pool.reserved_bytes() == reserved);
  CHECK(pool.allocations() == allocations);
  pool.reserve(2000, 2);
  CHECK(pool.reserved_bytes() == 2128);
  CHECK(pool.allocations() == allocations + 1);
  const Matrix<float> large(1, 500, pool);
}

TEST_CASE(
    "an arena grows where the old and the new size do not fit together, and is unchanged if the "
    "new one does not fit") {
  Limited::limit = 3000;
  {
    BasicMemoryPool<Limited> pool;
    pool.reserve(1000, 2);
    pool.reserve(2000, 2);
    CHECK(Limited::in_use == 2128);
    CHECK_THROWS_AS(pool.reserve(4000, 2), std::runtime_error);
    CHECK(Limited::in_use == 2128);
    CHECK(pool.reserved_bytes() == 2128);
    {
      const auto block = pool.allocate(2000);
      CHECK(block.bytes() == 2000);
      pool.trim();
      CHECK(Limited::in_use == 2128);
    }
    pool.trim();
    CHECK(Limited::in_use == 0);
    CHECK(pool.reserved_bytes() == 0);
    CHECK(pool.allocate(2500).bytes() == 2500);
  }
  CHECK(Limited::in_use == 0);
}

TEST_CASE("blocks may outlive their arena, and a poisoned arena hands out NaN") {
  std::optional<Matrix<float>> kept;
  {
    MemoryPool pool(PoolFill::nan);
    pool.reserve(400, 1);
    for (int i = 0; i < 2; ++i) {
      kept.reset();
      kept.emplace(10, 10, pool);
      for (const float value : elements(*kept)) REQUIRE(std::isnan(value));
      std::fill_n(kept->data(), kept->size(), 4.0f);
    }
  }
  CHECK(kept->row(9)[9] == 4);
}

TEST_CASE("an arena serves several threads") {
  MemoryPool pool;
  pool.reserve(4 * 500 * 12,
               4 * 500);  // enough for all of them: blocks that overlap in time may leave no free
                          // end for long
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&pool] {
      for (Index i = 1; i < 500; ++i) {
        Matrix<float> m(1, i % 3 + 1, pool);
        std::fill_n(m.data(), m.size(), 1.0f);
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(pool.bytes_in_use() == 0);
}

TEST_CASE("impossible sizes are refused") {
  CHECK(contains(invalid_message([] { Matrix<float>(-1, 3); }), "[-1, 3]"));
  CHECK(contains(invalid_message([] { Matrix<float>(PTRDIFF_MAX / 2, 8); }), "sizes"));
}

TEST_CASE("an absent gradient is overwritten, a present one accumulated") {
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
  parameter.for_each_slice(
      [](const ParameterSlice<float>& slice) { CHECK(slice.gradient == nullptr); });
}
