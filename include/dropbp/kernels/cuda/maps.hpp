// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Elementwise operations as maps over packs of elements. One kernel body runs all maps.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "dropbp/kernels/cuda/backend.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// Bytes of shared memory of a map; 0 unless the map declares them.
template <class Map>
inline constexpr std::size_t shared_bytes = 0;
template <class Map>
  requires(Map::shared_bytes > 0)
inline constexpr std::size_t shared_bytes<Map> = Map::shared_bytes;

// Applies a map to the packs of a matrix: load(ctx, row, pack) returns values, store(ctx, row,
// pack, values) uses them. Several loads are issued before the first value is needed. A map with
// shared memory (shared_bytes) may fill it in prepare(ctx, threads).
template <class Map>
struct MapPacks {
  static constexpr const char* name = Map::name;
  static constexpr unsigned threads = 256, min_blocks = 4;
  static constexpr unsigned in_flight =
      sizeof(typename Map::Values) > 16 ? 2 : 4;  // at least 64 bytes; more would spill registers

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Map map, Index rows, Index packs) const {
    constexpr Index step = Index{threads} * in_flight;
    if constexpr (shared_bytes<Map> > 0) map.prepare(ctx, threads);
    for (Index row = ctx.block(1); row < rows; row += ctx.blocks(1))
      for (Index first = ctx.block(0) * step; first < packs; first += ctx.blocks(0) * step) {
        const Index at = first + ctx.thread();
        if (at + (in_flight - 1) * Index{threads} < packs) {
          typename Map::Values values[in_flight];
          DROPBP_UNROLL
          for (unsigned i = 0; i < in_flight; ++i)
            values[i] = map.load(ctx, row, at + Index{i} * threads);
          DROPBP_UNROLL
          for (unsigned i = 0; i < in_flight; ++i)
            map.store(ctx, row, at + Index{i} * threads, values[i]);
        } else {
          for (Index pack = at; pack < packs && pack < first + step; pack += threads)
            map.store(ctx, row, pack, map.load(ctx, row, pack));
        }
      }
  }
};

template <class Launcher, class Map>
void map_packs(Launcher& launch, Map map, Index rows, Index packs) {
  if (rows <= 0 || packs <= 0) return;
  constexpr Index step = Index{MapPacks<Map>::threads} * MapPacks<Map>::in_flight;
  const Index most = Index{launch.processors()} * 8;
  const Index x = (std::min)(divide_up(packs, step), most);
  const Index y = (std::min)({rows, (std::max)(most / x, Index{1}) * 4, Index{65535}});
  launch(Grid{static_cast<unsigned>(x), static_cast<unsigned>(y), 1, shared_bytes<Map>},
         MapPacks<Map>{}, map, rows, packs);
}

template <unsigned N, class T, class F>
DROPBP_DEVICE Pack<T, N> transformed(Pack<T, N> x, F f) {
  DROPBP_UNROLL
  for (unsigned i = 0; i < N; ++i) x.values[i] = from_float<T>(f(to_float(x.values[i])));
  return x;
}

template <class T>
bool has_no_gaps(Rows<T> x, Index columns) {
  return x.stride == columns;
}

// Calls use(width, rows, columns) with a constant width: the elements of 16 bytes if all operands
// allow it, else 1. Rows without gaps become a single row.
template <class T, class Use, class... Operands>
void choose_width(Index rows, Index columns, const Use& use, Rows<Operands>... operands) {
  if (rows <= 0 || columns <= 0) return;
  constexpr unsigned width = full_width<T>;
  if ((has_no_gaps(operands, columns) && ...)) columns *= rows, rows = 1;
  if ((is_vectorizable(operands, rows, columns) && ...))
    return use(std::integral_constant<unsigned, width>{}, rows, columns);
  use(std::integral_constant<unsigned, 1>{}, rows, columns);
}

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
