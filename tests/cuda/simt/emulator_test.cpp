// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Tests of the emulator: each known kind of kernel fault is planted here, and the emulator must
// report it.
#include <cmath>
#include <cstdint>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define DROPBP_UNDER_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DROPBP_UNDER_ASAN
#endif
#endif
#if defined(DROPBP_UNDER_ASAN)
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "support/catch.hpp"
#include "support/simt.hpp"

namespace {

using dropbp::cuda::Grid;
using dropbp::cuda::Pack;
using simt::HostContext;

constexpr int schedules = 20;

template <class F>
std::string error_of(const F& f) {
  try {
    f();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

void run_block(unsigned threads, std::size_t shared_bytes, std::uint64_t seed,
               const std::function<void(HostContext)>& body) {
  simt::run("planted", Grid{.shared_bytes = shared_bytes}, threads, seed, body);
}

// The sum of 1 .. 256 over a block. Without `with_barrier` the barrier between the writes and the
// reads is missing.
float sum_of_block(std::uint64_t seed, bool with_barrier) {
  float result = 0;
  run_block(256, 256 * sizeof(float), seed, [&](HostContext ctx) {
    auto* const values = reinterpret_cast<float*>(ctx.shared());
    values[ctx.thread()] = static_cast<float>(ctx.thread() + 1);
    if (with_barrier) ctx.sync();
    if (ctx.thread() != 100) return;
    for (int i = 0; i < 256; ++i) result += values[i];
  });
  return result;
}

}  // namespace

TEST_CASE(
    "every thread of every block runs once, and another seed gives another order of blocks and "
    "warps") {
  std::vector<std::uint32_t> order[2];
  for (std::uint64_t seed : {1u, 2u}) {
    simt::run("count", Grid{3, 2, 2}, 96, seed, [&](HostContext ctx) {
      REQUIRE(ctx.blocks() == 3);
      REQUIRE(ctx.blocks(1) == 2);
      REQUIRE(ctx.blocks(2) == 2);
      order[seed - 1].push_back(((ctx.block(2) * 2 + ctx.block(1)) * 3 + ctx.block()) * 96 +
                                ctx.thread());
    });
    CHECK(order[seed - 1].size() == 12 * 96);
    CHECK(std::set<std::uint32_t>(order[seed - 1].begin(), order[seed - 1].end()).size() ==
          12 * 96);
  }
  CHECK(order[0] != order[1]);
}

TEST_CASE("sums over warps and blocks are right under any schedule") {
  for (std::uint64_t seed = 0; seed < schedules; ++seed) {
    std::vector<float> sums(256), largest(256);
    std::vector<double> doubles(256);
    run_block(256, 32 * sizeof(double), seed, [&](HostContext ctx) {
      const auto value = static_cast<float>(ctx.thread());
      auto* const scratch = reinterpret_cast<float*>(ctx.shared());
      // Two sums in a row use the same scratch memory.
      sums[ctx.thread()] = dropbp::cuda::detail::block_sum<256>(ctx, value, scratch);
      largest[ctx.thread()] =
          dropbp::cuda::detail::block_max<256>(ctx, -std::abs(value - 77.0f), scratch);
      doubles[ctx.thread()] = dropbp::cuda::detail::block_sum<256>(
          ctx, static_cast<double>(value), reinterpret_cast<double*>(ctx.shared()));
    });
    for (unsigned i = 0; i < 256; ++i) {
      REQUIRE(sums[i] == 255 * 128);
      REQUIRE(largest[i] == 0);
      REQUIRE(doubles[i] == 255 * 128);
    }
  }
}

TEST_CASE("a missing barrier is found under every schedule") {
  for (std::uint64_t seed = 0; seed < schedules; ++seed) {
    CHECK(sum_of_block(seed, true) == 256 * 257 / 2);
    CHECK(std::isnan(sum_of_block(seed, false)));
  }
}

TEST_CASE("a missing second barrier, before shared memory is reused, is found") {
  int seen = 0;
  for (std::uint64_t seed = 0; seed < schedules; ++seed) {
    std::vector<float> first(256);
    run_block(256, 8 * sizeof(float), seed, [&](HostContext ctx) {
      auto* const scratch = reinterpret_cast<float*>(ctx.shared());
      if (ctx.thread() % 32 == 0) scratch[ctx.thread() / 32] = 1.0f;
      ctx.sync();
      float sum = 0;
      for (int i = 0; i < 8; ++i) sum += scratch[i];
      first[ctx.thread()] = sum;
      if (ctx.thread() % 32 == 0) scratch[ctx.thread() / 32] = 2.0f;  // others may still read
    });
    for (const float sum : first)
      if (sum != 8.0f) {
        ++seen;
        break;
      }
  }
  CHECK(seen == schedules);
}

TEST_CASE("a missing barrier of a warp is found") {
  for (std::uint64_t seed = 0; seed < schedules; ++seed)
    for (const bool with_barrier : {true, false}) {
      std::vector<float> got(32);
      run_block(32, 32 * sizeof(float), seed, [&](HostContext ctx) {
        auto* const values = reinterpret_cast<float*>(ctx.shared());
        values[ctx.thread()] = static_cast<float>(ctx.thread());
        if (with_barrier) ctx.sync_warp();
        got[ctx.thread()] = values[(ctx.thread() + 1) % 32];
      });
      bool right = true;
      for (unsigned i = 0; i < 32; ++i) right = right && got[i] == static_cast<float>((i + 1) % 32);
      CHECK(right == with_barrier);
    }
}

TEST_CASE(
    "threads that wait forever or at different barriers give an error with the kernel's name") {
  const std::string left = error_of([] {
    run_block(64, 0, 1, [](HostContext ctx) {
      if (ctx.thread() < 40) ctx.sync();
    });
  });
  CHECK_THAT(left,
             contains("kernel planted") && contains("40 at a barrier") && contains("24 have left"));

  const std::string different = error_of([] {
    run_block(64, 0, 1, [](HostContext ctx) {
      if (ctx.thread() < 32)
        ctx.sync();
      else
        ctx.sync();
    });
  });
  CHECK_THAT(different, contains("kernel planted") && contains("different barriers"));

  const std::string lanes = error_of([] {
    run_block(32, 0, 1, [](HostContext ctx) {
      if (ctx.thread() % 2 == 0) ctx.shuffle_xor(1.0f, 1);
    });
  });
  CHECK_THAT(lanes, contains("kernel planted") && contains("16 at an operation of a warp"));

  const std::string operations = error_of([] {
    run_block(32, 0, 1, [](HostContext ctx) {
      if (ctx.thread() % 2 == 0)
        ctx.shuffle_xor(1.0f, 1);
      else
        ctx.sync_warp();
    });
  });
  CHECK_THAT(operations, contains("kernel planted") && contains("different operations"));
}

TEST_CASE("an exception in a kernel names the kernel and the thread") {
  const std::string text = error_of([] {
    run_block(32, 0, 1, [](HostContext ctx) {
      if (ctx.thread() == 7) throw std::runtime_error("planted fault");
    });
  });
  CHECK_THAT(text, contains("kernel planted") && contains("thread 7") && contains("planted fault"));
}

TEST_CASE("a misaligned access to global or shared memory is an error") {
  simt::Buffer<float> memory(9);
  const auto text = [&](auto access) { return error_of([&] { run_block(32, 64, 1, access); }); };
  CHECK(text([&](HostContext ctx) { ctx.load<float, 4>(memory.data() + 4); }).empty());
  CHECK_THAT(text([&](HostContext ctx) { ctx.load<float, 4>(memory.data() + 1); }),
             contains("a load of 16 bytes must be aligned"));
  CHECK_THAT(text([&](HostContext ctx) { ctx.load_streaming<float, 2>(memory.data() + 1); }),
             contains("a load of 8 bytes must be aligned"));
  CHECK_THAT(text([&](HostContext ctx) { ctx.store(memory.data() + 2, Pack<float, 4>{}); }),
             contains("a store of 16 bytes"));
  CHECK_THAT(text([&](HostContext ctx) {
               ctx.load_shared<float, 4>(reinterpret_cast<float*>(ctx.shared()) + 3);
             }),
             contains("a load from shared memory"));
  CHECK_THAT(text([&](HostContext ctx) {
               ctx.store_shared(reinterpret_cast<float*>(ctx.shared()) + 3, Pack<float, 4>{});
             }),
             contains("a store to shared memory"));
  CHECK_THAT(
      text([&](HostContext ctx) { ctx.async_copy_16(ctx.shared(), memory.data() + 1, true); }),
      contains("an asynchronous copy"));
  CHECK_THAT(text([&](HostContext ctx) {
               std::uint32_t matrices[4];
               ctx.load_matrices(matrices, ctx.shared() + 8);
             }),
             contains("a row of a matrix"));
}

TEST_CASE("a wrong index leaves an element unwritten, and it stays NaN") {
  for (const unsigned fault : {0u, 1u}) {
    simt::Buffer<float> memory(65);
    simt::run("planted", Grid{2}, 32, 1, [&](HostContext ctx) {
      ctx.store(memory.data() + ctx.block() * 32 + ctx.thread() + fault, Pack<float, 1>{{1.0f}});
    });
    CHECK(std::isnan(memory.data()[0]) == (fault == 1));
    CHECK(std::isnan(memory.data()[64]) == (fault == 0));
  }
}

TEST_CASE("a block that touches what another block writes is an error in any order of the blocks") {
  const auto text = [](auto body) {
    std::set<std::string> texts;
    for (std::uint64_t seed = 0; seed < schedules; ++seed)
      texts.insert(error_of([&] { simt::run("planted", Grid{4}, 32, seed, body); }));
    REQUIRE(texts.size() == 1);
    return *texts.begin();
  };
  simt::Buffer<float> x(4 * 32 * 4 + 4), y(4 * 32 * 4 + 4);
  const auto at = [](HostContext ctx) { return 4 * (ctx.block() * 32 + ctx.thread()); };
  CHECK(text([&](HostContext ctx) {
          const auto value = ctx.load<float, 4>(x.data() + at(ctx));
          ctx.store(x.data() + at(ctx), value);
          ctx.store(y.data() + at(ctx), ctx.load<float, 4>(x.data() + at(ctx)));
        }).empty());
  CHECK_THAT(text([&](HostContext ctx) {
               ctx.store(y.data() + at(ctx), ctx.load<float, 4>(y.data() + at(ctx) + 4));
             }),
             contains("kernel planted: a block touches memory that another block writes"));
  CHECK_THAT(
      text([&](HostContext ctx) { ctx.store(y.data() + 4 * ctx.thread(), Pack<float, 4>{}); }),
      contains("another block writes"));
  // Only the last element of a pack is shared.
  CHECK_THAT(text([&](HostContext ctx) {
               if (ctx.block() == 0 && ctx.thread() == 0) ctx.load<float, 4>(y.data());
               if (ctx.block() == 3 && ctx.thread() == 5) ctx.store(y.data() + 3, Pack<float, 1>{});
             }),
             contains("another block writes"));
}

TEST_CASE("shared memory starts as NaN") {
  run_block(32, 128, 1, [](HostContext ctx) {
    REQUIRE(reinterpret_cast<std::uintptr_t>(ctx.shared()) % 128 == 0);
    REQUIRE(std::isnan(reinterpret_cast<float*>(ctx.shared())[ctx.thread()]));
  });
}

TEST_CASE("an asynchronous copy arrives at its wait and not before") {
  simt::Buffer<std::uint32_t> memory(3 * 32 * 4);
  for (std::uint32_t i = 0; i < memory.size(); ++i) memory.data()[i] = i;
  run_block(32, 3 * 32 * 16, 1, [&](HostContext ctx) {
    auto* const shared = reinterpret_cast<std::uint32_t*>(ctx.shared());
    const auto at = [&](unsigned copy) { return 4 * (copy * 32 + ctx.thread()); };
    for (unsigned copy = 0; copy < 3; ++copy) {
      ctx.async_copy_16(shared + at(copy), memory.data() + at(copy), true);
      ctx.async_commit();
    }
    REQUIRE(shared[at(0)] == 0xFFFFFFFFu);
    ctx.async_wait<1>();
    REQUIRE(shared[at(0)] == at(0));
    REQUIRE(shared[at(1) + 3] == at(1) + 3);
    REQUIRE(shared[at(2)] == 0xFFFFFFFFu);
    ctx.async_wait<0>();
    REQUIRE(shared[at(2)] == at(2));
    ctx.async_copy_16(shared + at(0), nullptr, false);
    ctx.async_commit();
    REQUIRE(shared[at(0)] == at(0));
    ctx.async_wait<0>();
    REQUIRE(shared[at(0)] == 0);
    REQUIRE(shared[at(0) + 3] == 0);
  });
}

TEST_CASE("load_matrices gives each lane the elements that the PTX ISA says") {
  // PTX ISA, ldmatrix: "thread 0..3 row 0, thread 4..7 row 1", two neighbouring elements each; with
  // .trans those of the transposed matrix. Element (row, column) of matrix i is 64 i + 8 row +
  // column; the rows lie in a scattered order.
  run_block(32, 32 * 16, 1, [&](HostContext ctx) {
    auto* const elements = reinterpret_cast<std::uint16_t*>(ctx.shared());
    const unsigned lane = ctx.thread(), place = (5 * lane + 3) % 32;
    for (unsigned column = 0; column < 8; ++column)
      elements[8 * place + column] = static_cast<std::uint16_t>(8 * lane + column);
    ctx.sync();
    std::uint32_t straight[4], transposed[4];
    ctx.load_matrices(straight, elements + 8 * place);
    ctx.load_matrices_transposed(transposed, elements + 8 * place);
    const unsigned row = lane / 4, column = 2 * (lane % 4);
    for (unsigned i = 0; i < 4; ++i) {
      const auto element = [&](unsigned r, unsigned c) { return 64 * i + 8 * r + c; };
      REQUIRE(straight[i] == (element(row, column) | element(row, column + 1) << 16));
      REQUIRE(transposed[i] == (element(column, row) | element(column + 1, row) << 16));
    }
  });
}

TEST_CASE("mma_bf16 multiplies fragments in the layout of the PTX ISA") {
  std::mt19937 random(5);
  for (int turn = 0; turn < 4; ++turn) {
    // Small integers: all sums are exact.
    int a[16][16], b[16][8], c[16][8];
    for (auto& row : a)
      for (int& x : row) x = static_cast<int>(random() % 17) - 8;
    for (auto& row : b)
      for (int& x : row) x = static_cast<int>(random() % 17) - 8;
    for (auto& row : c)
      for (int& x : row) x = static_cast<int>(random() % 1000);
    const auto bits = [](int x) {
      return std::uint32_t{dropbp::cuda::from_float<dropbp::BFloat16>(static_cast<float>(x)).bits};
    };
    float got[16][8];
    run_block(32, 0, random(), [&](HostContext ctx) {
      // PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type": groupID = laneid >>
      // 2, threadID_in_group = laneid % 4; a_i: row = groupID + (0 <= i < 2 || 4 <= i < 6 ? 0 : 8),
      // col = threadID_in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0); b_i: row = threadID_in_group * 2
      // + (i & 1) + (i >= 2 ? 8 : 0), col = groupID; c_i: row = groupID + (i < 2 ? 0 : 8), col =
      // threadID_in_group * 2 + (i & 1).
      const unsigned group = ctx.thread() >> 2, member = ctx.thread() % 4;
      std::uint32_t fragment_a[4] = {}, fragment_b[2] = {};
      float d[4];
      for (unsigned i = 0; i < 8; ++i) {
        const unsigned row = group + (i < 2 || (i >= 4 && i < 6) ? 0 : 8),
                       column = member * 2 + (i & 1) + (i >= 4 ? 8 : 0);
        fragment_a[i / 2] |= bits(a[row][column]) << (16 * (i & 1));
      }
      for (unsigned i = 0; i < 4; ++i) {
        fragment_b[i / 2] |= bits(b[member * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group])
                             << (16 * (i & 1));
        d[i] = static_cast<float>(c[group + (i < 2 ? 0 : 8)][member * 2 + (i & 1)]);
      }
      ctx.mma_bf16(d, fragment_a, fragment_b);
      for (unsigned i = 0; i < 4; ++i) got[group + (i < 2 ? 0 : 8)][member * 2 + (i & 1)] = d[i];
    });
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 8; ++j) {
        int sum = c[i][j];
        for (int k = 0; k < 16; ++k) sum += a[i][k] * b[k][j];
        REQUIRE(got[i][j] == static_cast<float>(sum));
      }
  }
}

TEST_CASE("the kernels that ran are counted by name") {
  const std::size_t before = simt::kernels_run()["counted"];
  simt::run("counted", Grid{2}, 32, 1, [](HostContext) {});
  CHECK(simt::kernels_run()["counted"] == before + 1);
}

#if defined(DROPBP_UNDER_ASAN)
namespace {

// Whether AddressSanitizer reports an error in a process that runs f.
template <class F>
bool is_reported(const F& f) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, 1), dup2(nowhere, 2);
    f();
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace

TEST_CASE(
    "AddressSanitizer finds an index past the end of shared memory, a buffer or a thread's own "
    "array") {
  for (const unsigned fault : {0u, 1u}) {
    CHECK(is_reported([&] {
            run_block(64, 64 * sizeof(float), 1, [&](HostContext ctx) {
              reinterpret_cast<float*>(ctx.shared())[ctx.thread() + fault] = 1.0f;
            });
          }) == (fault == 1));
    simt::Buffer<std::uint16_t> memory(64, 3);
    CHECK(is_reported([&] {
            run_block(64, 0, 1, [&](HostContext ctx) { memory.data()[ctx.thread() + fault] = 1; });
          }) == (fault == 1));
    CHECK(is_reported([&] {
            run_block(64, 0, 1, [&](HostContext ctx) {
              volatile float own[4] = {};
              ctx.sync();
              own[3 + fault * (ctx.thread() / 63)] = 1.0f;
              ctx.sync();
              if (own[3] < 0.0f) _exit(0);
            });
          }) == (fault == 1));
  }
}
#endif
