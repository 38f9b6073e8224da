// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How often the host waits for the device: in the emulator no copy and no event is done before.
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "dropbp/backend/staging.hpp"
#include "dropbp/ops/adamw.hpp"
#include "dropbp/ops/elementwise.hpp"
#include "support/catch.hpp"
#include "support/emulated.hpp"
#include "support/throws.hpp"

namespace {

using Pool = dropbp::ops::BasicMemoryPool<Emulated>;
using Device = dropbp::device_runtime<Emulated>;
using Place = Emulated::Place;
using FloatMatrix = dropbp::ops::Matrix<float, Emulated>;

std::vector<std::byte> pattern(std::size_t bytes, int seed) {
  std::vector<std::byte> result(bytes);
  for (std::size_t i = 0; i < bytes; ++i)
    result[i] = static_cast<std::byte>(i * 7 + static_cast<std::size_t>(seed));
  return result;
}

FloatMatrix filled(dropbp::ops::Index count, float value) {
  FloatMatrix x(1, count);
  for (dropbp::ops::Index i = 0; i < count; ++i) x.data()[i] = value;
  return x;
}

}  // namespace

TEST_CASE("copies through pinned memory wait only when their ring is full, for the oldest ones") {
  Device::synchronize();
  dropbp::detail::StagingRing<Emulated::Pinned> ring(4096);
  REQUIRE(ring.limit() == 1024);
  std::vector<std::vector<std::byte>> arrived;
  std::size_t before = Emulated::waits();
  const auto copy = [&](std::size_t bytes) {
    auto from = pattern(bytes, static_cast<int>(arrived.size()));
    std::vector<std::byte> to(bytes);
    ring.copy(to.data(), from.data(), bytes);
    CHECK(to == from);
    std::memset(from.data(), 0, from.size());  // it may change
    arrived.push_back(std::move(to));
    return std::exchange(before, Emulated::waits()) != Emulated::waits();
  };
  for (int i = 0; i < 4; ++i) CHECK(!copy(1000));
  CHECK(copy(1000));  // takes the place of the first
  CHECK(copy(100));   // that of the second
  CHECK(!copy(500));  // beside it
  CHECK(copy(1024));  // over the rest of the second and the third
  Device::synchronize();
  before = Emulated::waits();
  // Any sizes, with and without waits of others: the emulator checks that no pinned byte changes
  // before its copy has run.
  for (std::size_t i = 0; i < 300; ++i) {
    static_cast<void>(copy(1 + i * 331 % 1024));
    if (i % 37 == 0) Device::synchronize();
  }
  Device::synchronize();
}

TEST_CASE("norms stay on the device until one is read, and then all come in one copy") {
  const FloatMatrix x = filled(1000, 2), y = filled(70000, 3);
  const std::size_t before = Emulated::waits();
  const auto first = dropbp::deferred_squared_norm(x), second = dropbp::deferred_squared_norm(y);
  const auto half = second.divided_by(2);
  CHECK(Emulated::waits() == before);
  CHECK(second.value() == 630000);
  CHECK(Emulated::waits() == before + 1);
  CHECK((first.value() == 4000 && half.value() == 315000));
  CHECK(Emulated::waits() == before + 1);
  // Numbers outlive those begun later, and more than a board holds.
  std::vector<dropbp::DeferredNumber> many;
  for (int i = 0; i < 1500; ++i) many.push_back(dropbp::deferred_squared_norm(x));
  CHECK(Emulated::waits() == before + 1);
  for (const auto& number : many) REQUIRE(number.value() == 4000);
  CHECK(Emulated::waits() <= before + 3);
  CHECK(first.value() == 4000);
}

TEST_CASE("a pool orders the streams that use its blocks") {
  Emulated::followed().clear();
  Pool pool;
  const auto in = [](Place place, auto&& f) {
    const Device::PlaceScope scope(place);
    f();
  };
  const Place a{0, 1}, b{0, 2};
  const auto pairs = [](std::vector<std::pair<Place, Place>> wanted) {
    return std::exchange(Emulated::followed(), {}) == wanted;
  };
  in(a, [&] { static_cast<void>(pool.allocate(64)); });  // taken and released
  CHECK(pairs({}));
  dropbp::ops::BasicMemoryBlock<Emulated> block;
  in(b, [&] { block = pool.allocate(64); });
  CHECK(pairs({{b, a}}));  // b writes what a may still read
  in(a, [&] { block = {}; });
  CHECK(pairs({{a, b}}));
  in(a, [&] { block = pool.allocate(64); });
  CHECK(pairs({}));

  // Another device: a block cannot come from it, and one that goes back waits.
  in({1, 0}, [&] {
    test::check_throws<std::invalid_argument>(
        [&] { static_cast<void>(pool.allocate(64)); },
        {"a memory pool has blocks of one device", "device 0", "device 1 is current",
         "make a pool for each device"});
    const std::size_t before = Emulated::waits();
    block = {};
    CHECK(Emulated::waits() == before + 1);
    CHECK(Emulated::waited_in() == a);  // for the stream that may still write the block
    CHECK(Device::place() == Place{1, 0});
  });
  CHECK(pairs({}));

  // A stream that cannot wait: the block goes back, and the pool says so at the next request.
  in(a, [&] { block = pool.allocate(64); });
  in(b, [&] {
    const Emulated::Capturing capture;
    block = {};
  });
  test::check_throws<std::logic_error>(
      [&] { static_cast<void>(pool.allocate(64)); },
      {"must be able to wait for each other", "captured", "release each block in the stream"});
}
