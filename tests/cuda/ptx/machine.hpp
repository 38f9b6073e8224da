// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The state of a launch, which operations read and change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/ptx/kernel.hpp"
#include "cuda/ptx/memory.hpp"
#include "dropbp/backend/cuda/context.hpp"

namespace ptx {

inline constexpr std::uint32_t all_lanes = 0xFFFFFFFFu;

/// An asynchronous copy of 16 bytes to shared memory.
struct Copy {
  std::size_t to;
  const std::byte* from;  ///< null: zeros
  unsigned lane;
};

/// Global memory that the launch has touched.
struct Region {
  Bounds bounds;
  Shadow shadow;
};

/// A launch, and its block that runs.
struct Launch {
  const Kernel& kernel;
  dropbp::cuda::Grid grid;
  std::vector<std::byte> parameters = {};
  std::vector<Region> regions = {};
  std::size_t last_region = 0;

  std::uint32_t block_number = 0;
  std::vector<std::byte> shared = {};
  Shadow shared_shadow = Shadow(0);
  std::uint32_t line = 0;  ///< of the instruction that runs
};

/// Lanes that are at the same instruction.
struct Group {
  std::uint32_t at, lanes;
  bool waits = false;
};

/// A warp of the block that runs.
struct Warp {
  Launch& launch;
  std::uint32_t number;  ///< in its block
  std::vector<std::byte> registers;
  std::uint32_t time = 0;
  std::vector<Group> groups = {};
  std::vector<Copy> uncommitted = {};
  std::vector<std::vector<Copy>> copies = {};

  Access access_by(unsigned lane) const {
    return {1 + 1024 * launch.block_number + 32 * number + lane, time};
  }
  /// Makes a group of the copies since the last one.
  void commit_copies();
  /// Completes groups of copies until at most `count` are left.
  void wait_for_copies(std::size_t count);
};

/// The state spaces of memory.
enum class Space { global, shared, param };

/// A place in memory that a lane may access. Throws std::runtime_error if it may not.
const std::byte* to_read(Warp& warp, Space space, std::uint64_t address, std::size_t bytes,
                         unsigned lane);
std::byte* to_write(Warp& warp, Space space, std::uint64_t address, std::size_t bytes,
                    unsigned lane);
/// Begins a copy of 16 bytes of global memory, or of zeros, which reads nothing.
void begin_copy(Warp& warp, std::uint64_t to, std::uint64_t from, bool zeros, unsigned lane);

}  // namespace ptx
