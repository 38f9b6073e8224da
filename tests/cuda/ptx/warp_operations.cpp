// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Operations of whole warps and blocks: shuffles, votes, matrix products, copies, barriers. The
// fragments are those of the PTX ISA.
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "cuda/ptx/operand.hpp"
#include "cuda/ptx/real.hpp"

namespace ptx {
namespace {

using u32 = std::uint32_t;

void require_all_members(const Lanes<u32>& members) {
  for (const u32 mask : members)
    if (mask != all_lanes)
      throw std::runtime_error("the interpreter knows only warp operations of all 32 lanes");
}

// The lane that this one reads from, and whether it is in reach: PTX ISA, shfl.sync.
struct Source {
  int lane;
  bool in_reach;
};

enum class Direction { bfly, idx, up, down };

template <Direction direction>
Source source_of(int lane, int b, u32 c) {
  const int segments = static_cast<int>(c >> 8 & 31), clamp = static_cast<int>(c & 31);
  const int limit = (lane & segments) | (clamp & ~segments);
  switch (direction) {
    case Direction::bfly:
      return {lane ^ b, (lane ^ b) <= limit};
    case Direction::idx: {
      const int from = (lane & segments) | (b & ~segments & 31);
      return {from, from <= limit};
    }
    case Direction::up:
      return {lane - b, lane - b >= limit};
    case Direction::down:
      return {lane + b, lane + b <= limit};
  }
  return {lane, false};
}

// d|p, a, b, c, members
template <Direction direction>
void shuffle(Warp& warp, const Instruction& instruction, u32 lanes) {
  const auto a = get<u32>(warp, instruction.at[2]), b = get<u32>(warp, instruction.at[3]),
             c = get<u32>(warp, instruction.at[4]);
  require_all_members(get<u32>(warp, instruction.at[5]));
  Lanes<u32> result;
  u32 in_reach = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    const Source source =
        source_of<direction>(static_cast<int>(lane), static_cast<int>(b[lane] & 31), c[lane]);
    result[lane] = a[source.in_reach ? static_cast<unsigned>(source.lane) : lane];
    in_reach |= u32{source.in_reach} << lane;
  }
  put(warp, instruction.at[0], result, lanes);
  put_predicate(warp, instruction.at[1], in_reach, lanes);
}

// d, p, members
void ballot(Warp& warp, const Instruction& instruction, u32 lanes) {
  require_all_members(get<u32>(warp, instruction.at[2]));
  Lanes<u32> result;
  result.fill(get_predicate(warp, instruction.at[1]));
  put(warp, instruction.at[0], result, lanes);
}

template <bool all>
void vote(Warp& warp, const Instruction& instruction, u32 lanes) {
  require_all_members(get<u32>(warp, instruction.at[2]));
  const u32 bits = get_predicate(warp, instruction.at[1]);
  put_predicate(warp, instruction.at[0], (all ? bits == all_lanes : bits != 0) ? all_lanes : 0,
                lanes);
}

float rounded_towards_zero(double x) {
  const float nearest = static_cast<float>(x);
  return std::fabs(double{nearest}) > std::fabs(x) ? std::nextafter(nearest, 0.0f) : nearest;
}

// mma.m16n8k16: d[4], a[4], b[2], c[4]. The sum of products is exact and rounded towards zero, the
// worst that matrix units are known to do in one step.
template <float (*to_float)(std::uint16_t)>
void multiply(Warp& warp, const Instruction& instruction, u32 lanes) {
  double a[16][16], b[16][8];
  Lanes<u32> fragment[6];
  for (unsigned i = 0; i < 6; ++i) fragment[i] = get<u32>(warp, instruction.at[4 + i]);
  for (unsigned lane = 0; lane < 32; ++lane) {
    const unsigned group = lane / 4, member = lane % 4;
    for (unsigned half = 0; half < 2; ++half) {
      const auto element = [&](unsigned i) {
        return double{to_float(static_cast<std::uint16_t>(fragment[i][lane] >> (16 * half)))};
      };
      for (unsigned i = 0; i < 4; ++i)
        a[group + 8 * (i % 2)][2 * member + half + 8 * (i / 2)] = element(i);
      for (unsigned i = 0; i < 2; ++i) b[2 * member + half + 8 * i][group] = element(4 + i);
    }
  }
  for (unsigned i = 0; i < 4; ++i) {
    const auto c = get<float>(warp, instruction.at[10 + i]);
    Lanes<float> d;
    for (unsigned lane = 0; lane < 32; ++lane) {
      const unsigned row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      double sum = c[lane];
      for (unsigned k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      d[lane] = rounded_towards_zero(sum);
    }
    fragment[i] = std::bit_cast<Lanes<u32>>(d);
  }
  for (unsigned i = 0; i < 4; ++i) put(warp, instruction.at[i], fragment[i], lanes);
}

// The 8 rows of a matrix are read together. Each has 4 of the 32 banks of shared memory; rows in
// the same banks would be read one after the other.
void require_different_banks(const u32* rows) {
  for (unsigned i = 0; i < 8; ++i)
    for (unsigned j = 0; j < i; ++j)
      if (rows[i] != rows[j] && (rows[i] - rows[j]) % 128 == 0)
        throw std::runtime_error("a bank conflict: row " + std::to_string(i) +
                                 " of a matrix is in the banks of row " + std::to_string(j));
}

// d[count], address: lanes 8 i to 8 i + 7 give the addresses of the rows of matrix i.
template <unsigned count, bool transposed>
void load_matrices(Warp& warp, const Instruction& instruction, u32 lanes) {
  auto address = get<u32>(warp, instruction.at[count]);
  for (u32& row : address) row += static_cast<u32>(instruction.offset);
  for (unsigned i = 0; i < count; ++i) {
    require_different_banks(&address[8 * i]);
    std::uint16_t rows[8][8];
    for (unsigned row = 0; row < 8; ++row)
      std::memcpy(rows[row], to_read(warp, Space::shared, address[8 * i + row], 16, 8 * i + row),
                  16);
    Lanes<u32> result;
    for (unsigned lane = 0; lane < 32; ++lane) {
      const unsigned major = lane / 4, minor = lane % 4 * 2;
      const auto element = [&](unsigned j) {
        return u32{transposed ? rows[minor + j][major] : rows[major][minor + j]};
      };
      result[lane] = element(0) | element(1) << 16;
    }
    put(warp, instruction.at[i], result, lanes);
  }
}

// [shared], [global], 16, bytes of global memory: 16, or 0 for zeros
void copy(Warp& warp, const Instruction& instruction, u32 lanes) {
  const auto to = get<u32>(warp, instruction.at[0]), bytes = get<u32>(warp, instruction.at[3]);
  const auto from = get<std::uint64_t>(warp, instruction.at[1]);
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    if (instruction.offset != 16 || (bytes[lane] != 16 && bytes[lane] != 0))
      throw std::runtime_error("the interpreter copies 16 bytes, or zeros");
    begin_copy(warp, to[lane], from[lane], bytes[lane] == 0, lane);
  }
}

void commit(Warp& warp, const Instruction&, u32) { warp.commit_copies(); }

void wait_for_groups(Warp& warp, const Instruction& instruction, u32) {
  warp.wait_for_copies(static_cast<std::size_t>(instruction.offset));
}

void wait_for_all(Warp& warp, const Instruction& instruction, u32 lanes) {
  commit(warp, instruction, lanes);
  warp.wait_for_copies(0);
}

void synchronize(Warp& warp, const Instruction&, u32) { ++warp.time; }

}  // namespace

void add_warp_operations(std::map<std::string, Operation, std::less<>>& table) {
  constexpr auto p = Operation::predicate, n = Operation::immediate;
  const auto together = [&](const std::string& name, Handler handler,
                            std::vector<std::uint8_t> operands) {
    table[name] = {handler, Flow::together, std::move(operands)};
  };
  together("shfl.sync.bfly.b32", &shuffle<Direction::bfly>, {4, p, 4, 4, 4, 4});
  together("shfl.sync.idx.b32", &shuffle<Direction::idx>, {4, p, 4, 4, 4, 4});
  together("shfl.sync.up.b32", &shuffle<Direction::up>, {4, p, 4, 4, 4, 4});
  together("shfl.sync.down.b32", &shuffle<Direction::down>, {4, p, 4, 4, 4, 4});
  together("vote.sync.ballot.b32", &ballot, {4, p, 4});
  together("vote.sync.any.pred", &vote<false>, {p, p, 4});
  together("vote.sync.all.pred", &vote<true>, {p, p, 4});
  together("bar.warp.sync", &synchronize, {n});
  const std::vector<std::uint8_t> fragments(14, 4);
  together("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", &multiply<real::from_bfloat>,
           fragments);
  together("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", &multiply<real::from_half>,
           fragments);
  const auto matrices = [&]<unsigned count>(std::integral_constant<unsigned, count>) {
    const std::string name = "ldmatrix.sync.aligned.m8n8.x" + std::to_string(count);
    const std::vector<std::uint8_t> operands(count + 1, 4);
    together(name + ".shared.b16", &load_matrices<count, false>, operands);
    together(name + ".trans.shared.b16", &load_matrices<count, true>, operands);
  };
  matrices(std::integral_constant<unsigned, 1>());
  matrices(std::integral_constant<unsigned, 2>());
  matrices(std::integral_constant<unsigned, 4>());
  table["cp.async.cg.shared.global"] = {&copy, Flow::next, {4, 8, n, 4}};
  // A warp keeps one list of groups for its lanes, so they commit and wait together.
  together("cp.async.commit_group", &commit, {});
  together("cp.async.wait_group", &wait_for_groups, {n});
  together("cp.async.wait_all", &wait_for_all, {});
  table["bar.sync"] = {nullptr, Flow::barrier, {n}};
}

}  // namespace ptx
