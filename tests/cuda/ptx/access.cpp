// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Loads, stores and asynchronous copies.
#include <bit>
#include <cstring>
#include <stdexcept>

#include "cuda/ptx/operand.hpp"

namespace ptx {
namespace {

static_assert(std::endian::native == std::endian::little);

// Where an access goes.
struct Place {
  std::byte* data;
  Shadow* shadow;
  std::size_t at;  // the first byte's number in the shadow
};

// An access of a lane, with what an error message needs.
struct LaneAccess {
  Warp& warp;
  Space space;
  std::uint64_t address;
  std::size_t bytes;
  unsigned lane;

  Access by() const { return warp.access_by(lane); }

  [[noreturn]] void fail(const std::string& what) const {
    const char* const names[] = {"global", "shared", "param"};
    const std::int64_t base = space == Space::shared ? shared_base : 0;
    throw std::runtime_error(
        "thread " + std::to_string(32 * warp.number + lane) + " accesses " + std::to_string(bytes) +
        " bytes of " + names[static_cast<int>(space)] + " memory at " +
        std::to_string(static_cast<std::int64_t>(address) - base) + ": " + what);
  }

  void require_allowed(Fault fault, std::uint32_t other) const {
    if (fault == Fault::none) return;
    if (fault == Fault::unwritten) fail("nothing was written there");
    if (fault == Fault::in_flight) fail("a copy writes there that was not waited for");
    const std::uint32_t block = Access{other, 0}.block();
    fail("a race: thread " + std::to_string((other - 1) % 1024) +
         (block == warp.launch.block_number ? "" : " of block " + std::to_string(block)) +
         (fault == Fault::race_with_write ? " writes" : " reads") +
         " there, with no barrier in between");
  }

  void require_alignment() const {
    if (address % bytes != 0) fail("the address is not aligned");
  }

  // The first byte, in shared memory or in the parameters.
  std::size_t place() const {
    require_alignment();
    const std::uint64_t base = space == Space::shared ? shared_base : 0;
    const std::size_t size =
        space == Space::shared ? warp.launch.shared.size() : warp.launch.parameters.size();
    if (address < base || address - base + bytes > size)
      fail("there are " + std::to_string(size) + " bytes");
    return static_cast<std::size_t>(address - base);
  }

  // The allocation, in global memory.
  Region& region() const {
    require_alignment();
    Launch& launch = warp.launch;
    const auto contains = [&](const Region& region) {
      return address >= region.bounds.begin && address + bytes <= region.bounds.end;
    };
    if (launch.last_region < launch.regions.size() && contains(launch.regions[launch.last_region]))
      return launch.regions[launch.last_region];
    for (std::size_t i = 0; i < launch.regions.size(); ++i)
      if (contains(launch.regions[i])) return launch.regions[launch.last_region = i];
    const auto bounds = allocation_of(address);
    if (!bounds) fail("no memory is allocated there");
    if (address + bytes > bounds->end)
      fail("the allocated memory ends " + std::to_string(bounds->end - address) + " bytes further");
    launch.last_region = launch.regions.size();
    launch.regions.push_back({*bounds, Shadow(bounds->end - bounds->begin)});
    return launch.regions.back();
  }

  // In global or shared memory.
  Place place_with_shadow() const {
    if (space == Space::shared) {
      const std::size_t at = place();
      return {warp.launch.shared.data() + at, &warp.launch.shared_shadow, at};
    }
    Region& here = region();
    return {reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address)), &here.shadow,
            static_cast<std::size_t>(address - here.bounds.begin)};
  }
};

Lanes<std::uint64_t> addresses(const Warp& warp, const Instruction& instruction) {
  Lanes<std::uint64_t> result;
  if (instruction.is_wide) {
    result = get<std::uint64_t>(warp, instruction.at[0]);
    for (auto& address : result) address += static_cast<std::uint64_t>(instruction.offset);
  } else {
    const auto narrow = get<std::uint32_t>(warp, instruction.at[0]);
    for (unsigned lane = 0; lane < 32; ++lane)
      result[lane] = static_cast<std::uint32_t>(narrow[lane] + instruction.offset);
  }
  return result;
}

template <Space space>
void load(Warp& warp, const Instruction& instruction, std::uint32_t lanes) {
  const auto from = addresses(warp, instruction);
  const std::size_t bytes = instruction.access_bytes;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    const std::byte* const values =
        to_read(warp, space, from[lane], bytes * instruction.elements, lane);
    for (std::size_t i = 0; i < instruction.elements; ++i) {
      std::uint64_t value = 0;
      std::memcpy(&value, values + i * bytes, bytes);
      if (instruction.is_signed && bytes < 8 && value >> (8 * bytes - 1) != 0)
        value |= ~std::uint64_t{0} << (8 * bytes);
      std::memcpy(warp.registers.data() + instruction.at[1 + i] +
                      std::size_t{lane} * instruction.register_bytes,
                  &value, instruction.register_bytes);
    }
  }
}

template <Space space>
void store(Warp& warp, const Instruction& instruction, std::uint32_t lanes) {
  const auto to = addresses(warp, instruction);
  const std::size_t bytes = instruction.access_bytes;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    std::byte* const values = to_write(warp, space, to[lane], bytes * instruction.elements, lane);
    for (std::size_t i = 0; i < instruction.elements; ++i)
      std::memcpy(values + i * bytes,
                  warp.registers.data() + instruction.at[1 + i] +
                      std::size_t{lane} * instruction.register_bytes,
                  bytes);
  }
}

}  // namespace

const std::byte* to_read(Warp& warp, Space space, std::uint64_t address, std::size_t bytes,
                         unsigned lane) {
  const LaneAccess access{warp, space, address, bytes, lane};
  if (space == Space::param) return warp.launch.parameters.data() + access.place();
  const Place place = access.place_with_shadow();
  std::uint32_t other = 0;
  const Fault fault =
      place.shadow->read(place.at, bytes, access.by(), space == Space::shared, other);
  access.require_allowed(fault, other);
  return place.data;
}

std::byte* to_write(Warp& warp, Space space, std::uint64_t address, std::size_t bytes,
                    unsigned lane) {
  const LaneAccess access{warp, space, address, bytes, lane};
  if (bytes % Shadow::granule != 0) access.fail("stores of single bytes have no record of races");
  const Place place = access.place_with_shadow();
  std::uint32_t other = 0;
  const Fault fault = place.shadow->write(place.at, bytes, access.by(), other);
  access.require_allowed(fault, other);
  return place.data;
}

void begin_copy(Warp& warp, std::uint64_t to, std::uint64_t from, bool zeros, unsigned lane) {
  const std::byte* const values = zeros ? nullptr : to_read(warp, Space::global, from, 16, lane);
  const LaneAccess access{warp, Space::shared, to, 16, lane};
  const std::size_t place = access.place();
  std::uint32_t other = 0;
  const Fault fault = warp.launch.shared_shadow.begin_copy(place, 16, access.by(), other);
  access.require_allowed(fault, other);
  warp.uncommitted.push_back({place, values, lane});
}

void Warp::commit_copies() {
  copies.push_back(std::move(uncommitted));
  uncommitted.clear();
}

void Warp::wait_for_copies(std::size_t count) {
  while (copies.size() > count) {
    for (const Copy& copy : copies.front()) {
      std::byte* const to = launch.shared.data() + copy.to;
      if (copy.from == nullptr)
        std::memset(to, 0, 16);
      else
        std::memcpy(to, copy.from, 16);
      launch.shared_shadow.end_copy(copy.to, 16, access_by(copy.lane));
    }
    copies.erase(copies.begin());
  }
}

Handler load_from(std::string_view space) {
  return space == "global"   ? &load<Space::global>
         : space == "shared" ? &load<Space::shared>
         : space == "param"  ? &load<Space::param>
                             : nullptr;
}

Handler store_to(std::string_view space) {
  return space == "global"   ? &store<Space::global>
         : space == "shared" ? &store<Space::shared>
                             : nullptr;
}

}  // namespace ptx
