// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The memory of interpreted kernels. Global memory is the program's own: the program replaces
// operator new, so that every allocation's bounds are known. Each two bytes that a kernel touches
// have a record of who touched them last, which shows races and reads of unwritten shared memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace ptx {

/// The addresses from `begin` to before `end`.
struct Bounds {
  std::uintptr_t begin, end;
};

/// The allocation of operator new that contains the address, if there is one.
std::optional<Bounds> allocation_of(std::uintptr_t address);

/// Who accesses memory, and when. Threads of one block are ordered by its barriers, lanes of one
/// warp also by the warp's; threads of different blocks by nothing.
struct Access {
  static constexpr std::uint32_t barrier = 1u << 12;  ///< the step of `time` at a barrier

  std::uint32_t thread;  ///< 1 + 1024 * block + thread of the block
  std::uint32_t time;    ///< barriers of the block, times `barrier`, + barriers of the warp

  std::uint32_t block() const { return (thread - 1) / 1024; }
  std::uint32_t warp() const { return (thread - 1) / 32; }
};

/// What is wrong with an access.
enum class Fault { none, race_with_write, race_with_read, unwritten, in_flight };

/// The records of a part of memory.
class Shadow {
 public:
  static constexpr std::size_t granule = 2;  ///< bytes of one record

  explicit Shadow(std::size_t bytes) : records_((bytes + granule - 1) / granule) {}

  /// Records an access to `bytes` bytes from byte `at` on. If it must not happen, returns why, and
  /// the other thread in `other`.
  Fault read(std::size_t at, std::size_t bytes, Access by, bool must_be_written,
             std::uint32_t& other);
  Fault write(std::size_t at, std::size_t bytes, Access by, std::uint32_t& other);
  /// An asynchronous copy writes there until it is waited for.
  Fault begin_copy(std::size_t at, std::size_t bytes, Access by, std::uint32_t& other);
  void end_copy(std::size_t at, std::size_t bytes, Access by);

 private:
  enum class Readers : std::uint8_t { one, warp, block, grid };
  struct Record {
    Access write{0, 0}, read{0, 0};
    Readers readers = Readers::one;
    bool in_flight = false;
  };

  static bool is_ordered(Access before, Access now);
  static bool is_ordered_after_reads(const Record& record, Access now);

  std::vector<Record> records_;
};

}  // namespace ptx
