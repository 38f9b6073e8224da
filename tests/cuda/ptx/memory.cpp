// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "cuda/ptx/memory.hpp"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <new>

namespace ptx {
namespace {

// Memory for the list of allocations itself.
template <class T>
struct Untracked {
  using value_type = T;
  Untracked() = default;
  template <class U>
  Untracked(const Untracked<U>&) {}
  T* allocate(std::size_t count) {
    if (void* const memory = std::malloc(count * sizeof(T))) return static_cast<T*>(memory);
    throw std::bad_alloc();
  }
  void deallocate(T* memory, std::size_t) { std::free(memory); }
  bool operator==(const Untracked&) const { return true; }
};

struct Allocations {
  std::mutex mutex;
  std::map<std::uintptr_t, std::uintptr_t, std::less<>,
           Untracked<std::pair<const std::uintptr_t, std::uintptr_t>>>
      ends;
};

Allocations& allocations() {
  // Never destroyed: objects with static storage release memory after it would be.
  alignas(Allocations) static std::byte storage[sizeof(Allocations)];
  static auto* const all = new (storage) Allocations;
  return *all;
}

void* allocate(std::size_t bytes, std::size_t alignment) {
  void* memory = nullptr;
  if (posix_memalign(&memory, std::max(alignment, sizeof(void*)), std::max<std::size_t>(bytes, 1)))
    throw std::bad_alloc();
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  Allocations& all = allocations();
  const std::scoped_lock lock(all.mutex);
  all.ends[begin] = begin + bytes;
  return memory;
}

void release(void* memory) {
  if (memory == nullptr) return;
  {
    Allocations& all = allocations();
    const std::scoped_lock lock(all.mutex);
    all.ends.erase(reinterpret_cast<std::uintptr_t>(memory));
  }
  std::free(memory);
}

}  // namespace

std::optional<Bounds> allocation_of(std::uintptr_t address) {
  Allocations& all = allocations();
  const std::scoped_lock lock(all.mutex);
  auto next = all.ends.upper_bound(address);
  if (next == all.ends.begin()) return std::nullopt;
  --next;
  if (address >= next->second) return std::nullopt;
  return Bounds{next->first, next->second};
}

bool Shadow::is_ordered(Access before, Access now) {
  if (before.thread == 0 || before.thread == now.thread) return true;
  if (before.block() != now.block()) return false;
  if (before.warp() == now.warp()) return before.time < now.time;
  return before.time / Access::barrier < now.time / Access::barrier;
}

bool Shadow::is_ordered_after_reads(const Record& record, Access now) {
  switch (record.readers) {
    case Readers::one:
      return is_ordered(record.read, now);
    case Readers::warp:
      if (record.read.warp() == now.warp()) return record.read.time < now.time;
      [[fallthrough]];
    case Readers::block:
      return record.read.block() == now.block() &&
             record.read.time / Access::barrier < now.time / Access::barrier;
    case Readers::grid:
      break;
  }
  return false;
}

Fault Shadow::read(std::size_t at, std::size_t bytes, Access by, bool must_be_written,
                   std::uint32_t& other) {
  for (std::size_t i = at / granule; i <= (at + bytes - 1) / granule; ++i) {
    Record& record = records_[i];
    other = record.write.thread;
    if (record.in_flight) return Fault::in_flight;
    if (other == 0 && must_be_written) return Fault::unwritten;
    if (!is_ordered(record.write, by)) return Fault::race_with_write;
    if (is_ordered_after_reads(record, by)) {
      record.read = by, record.readers = Readers::one;
      continue;
    }
    record.readers = std::max(record.readers, record.read.warp() == by.warp()     ? Readers::warp
                                              : record.read.block() == by.block() ? Readers::block
                                                                                  : Readers::grid);
    if (record.readers != Readers::grid) record.read.time = std::max(record.read.time, by.time);
  }
  return Fault::none;
}

Fault Shadow::write(std::size_t at, std::size_t bytes, Access by, std::uint32_t& other) {
  for (std::size_t i = at / granule; i <= (at + bytes - 1) / granule; ++i) {
    Record& record = records_[i];
    other = record.write.thread;
    if (record.in_flight) return Fault::in_flight;
    if (!is_ordered(record.write, by)) return Fault::race_with_write;
    other = record.read.thread;
    if (!is_ordered_after_reads(record, by)) return Fault::race_with_read;
    record.write = by;
  }
  return Fault::none;
}

Fault Shadow::begin_copy(std::size_t at, std::size_t bytes, Access by, std::uint32_t& other) {
  const Fault fault = write(at, bytes, by, other);
  for (std::size_t i = at / granule; i <= (at + bytes - 1) / granule; ++i)
    records_[i].in_flight = true;
  return fault;
}

void Shadow::end_copy(std::size_t at, std::size_t bytes, Access by) {
  for (std::size_t i = at / granule; i <= (at + bytes - 1) / granule; ++i)
    records_[i].in_flight = false, records_[i].write = by;
}

}  // namespace ptx

void* operator new(std::size_t bytes) { return ptx::allocate(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return ptx::allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return ptx::allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return ptx::allocate(bytes, static_cast<std::size_t>(alignment));
}
// The library's own would call those above, but not a sanitizer's.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return operator new(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return operator new(bytes, std::nothrow);
}
void operator delete(void* memory) noexcept { ptx::release(memory); }
void operator delete[](void* memory) noexcept { ptx::release(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { ptx::release(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { ptx::release(memory); }
void operator delete(void* memory, std::size_t) noexcept { ptx::release(memory); }
void operator delete[](void* memory, std::size_t) noexcept { ptx::release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { ptx::release(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { ptx::release(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { ptx::release(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
  ptx::release(memory);
}
