// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Kernels that work element by element: the residual join, copies, scaling, dropout. One body runs
// them all.
#pragma once

#include <algorithm>

#include "dropbp/backend/cuda/context.hpp"
#include "dropbp/base/philox.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// Of a map; 0 where it says nothing.
template <class Map>
inline constexpr std::size_t shared_bytes = 0;
template <class Map>
  requires(Map::shared_bytes > 0)
inline constexpr std::size_t shared_bytes<Map> = Map::shared_bytes;

// What a map does to the packs of a matrix: load(ctx, row, pack) -> values, then store(ctx, row,
// pack, values). Several loads are on their way before the first value is needed. A map with
// shared_bytes of shared memory may fill them in prepare(ctx, threads).
template <class Map>
struct MapPacks {
  static constexpr const char* name = Map::name;
  static constexpr unsigned threads = 256, min_blocks = 4;
  static constexpr unsigned in_flight =
      sizeof(typename Map::Values) > 16 ? 2 : 4;  // at least 64 bytes; more would spill

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

template <class T, unsigned N>
struct CopyMap {
  static constexpr const char* name = "copy";
  using Values = Pack<T, N>;
  Rows<T> to;
  Rows<const T> from;
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    return ctx.template load_streaming<T, N>(from.row(row) + pack * N);
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, Values values) const {
    ctx.store(to.row(row) + pack * N, values);
  }
};

template <class T, unsigned N>
struct ZeroMap {
  static constexpr const char* name = "set_zero";
  using Values = Pack<T, N>;
  Rows<T> to;
  template <class Context>
  DROPBP_DEVICE Values load(Context, Index, Index) const {
    return Values{};
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, Values values) const {
    ctx.store(to.row(row) + pack * N, values);
  }
};

template <class T, unsigned N>
struct AddMap {
  static constexpr const char* name = "add";
  struct Values {
    Pack<T, N> y, x;
  };
  Rows<T> to;
  Rows<const T> from;
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    return {ctx.template load<T, N>(to.row(row) + pack * N),
            ctx.template load_streaming<T, N>(from.row(row) + pack * N)};
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, Values values) const {
    DROPBP_UNROLL
    for (unsigned i = 0; i < N; ++i)
      values.y.values[i] =
          from_float<T>(to_float(values.y.values[i]) + to_float(values.x.values[i]));
    ctx.store(to.row(row) + pack * N, values.y);
  }
};

template <class T, unsigned N>
struct ScaleMap {
  static constexpr const char* name = "scale";
  using Values = Pack<T, N>;
  Rows<T> to;
  float factor;
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    return ctx.template load<T, N>(to.row(row) + pack * N);
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, Values values) const {
    ctx.store(to.row(row) + pack * N, transformed(values, [this](float x) { return x * factor; }));
  }
};

template <class To, class From, unsigned N>
struct ConvertMap {
  static constexpr const char* name = "convert";
  using Values = Pack<From, N>;
  Rows<To> to;
  Rows<const From> from;
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    return ctx.template load_streaming<From, N>(from.row(row) + pack * N);
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, Values values) const {
    Pack<To, N> converted;
    DROPBP_UNROLL
    for (unsigned i = 0; i < N; ++i)
      converted.values[i] = from_float<To>(to_float(values.values[i]));
    ctx.store(to.row(row) + pack * N, converted);
  }
};

struct PhiloxBits {
  std::uint32_t words[4];
};

// philox4x32 of base/philox.hpp, which uses std::array and so is no device function everywhere.
DROPBP_HOST_DEVICE PhiloxBits philox(std::uint32_t c0, std::uint32_t c1, std::uint32_t c2,
                                     std::uint32_t c3, std::uint32_t k0, std::uint32_t k1) {
  DROPBP_UNROLL
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * c0,
                        product1 = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ k0,
    c1 = static_cast<std::uint32_t>(product1);
    c2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ k1,
    c3 = static_cast<std::uint32_t>(product0);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Four elements for each draw; N is 4, or 1 where they are accessed one by one.
template <class T, unsigned N>
struct DropoutMap {
  static constexpr const char* name = "dropout";
  struct Values {
    T values[4];
  };
  Rows<T> to;
  Rows<const T> from;
  Index columns, draws;
  std::uint32_t c1, c2, c3, k0, k1, threshold;
  float scale;
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index draw) const {
    const T* const x = from.row(row) + 4 * draw;
    Values result{};
    if constexpr (N == 4) {
      const Pack<T, 4> pack = ctx.template load<T, 4>(x);
      DROPBP_UNROLL
      for (unsigned i = 0; i < 4; ++i) result.values[i] = pack.values[i];
    } else {
      DROPBP_UNROLL
      for (unsigned i = 0; i < 4; ++i)
        if (4 * draw + i < columns) result.values[i] = x[i];
    }
    return result;
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index draw, Values values) const {
    const PhiloxBits bits =
        philox(static_cast<std::uint32_t>(row * draws + draw), c1, c2, c3, k0, k1);
    T* const y = to.row(row) + 4 * draw;
    Pack<T, 4> pack;
    DROPBP_UNROLL
    for (unsigned i = 0; i < 4; ++i)
      pack.values[i] =
          from_float<T>(bits.words[i] < threshold ? 0.0f : scale * to_float(values.values[i]));
    if constexpr (N == 4) {
      ctx.store(y, pack);
    } else {
      DROPBP_UNROLL
      for (unsigned i = 0; i < 4; ++i)
        if (4 * draw + i < columns) y[i] = pack.values[i];
    }
  }
};

template <class T>
bool has_no_gaps(Rows<T> x, Index columns) {
  return x.stride == columns;
}

// use(width, rows, columns) with width a constant: a full 16 bytes where the operands allow. Rows
// without gaps are one row.
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

/// y [rows, columns] = x.
template <class Launcher, class T>
void copy(Launcher& launch, Rows<T> y, std::type_identity_t<Rows<const T>> x, Index rows,
          Index columns) {
  detail::choose_width<T>(
      rows, columns,
      [&](auto width, Index r, Index c) {
        detail::map_packs(launch, detail::CopyMap<T, width>{y, x}, r, c / width);
      },
      y, x);
}

/// y [rows, columns] = 0.
template <class Launcher, class T>
void set_zero(Launcher& launch, Rows<T> y, Index rows, Index columns) {
  detail::choose_width<T>(
      rows, columns,
      [&](auto width, Index r, Index c) {
        detail::map_packs(launch, detail::ZeroMap<T, width>{y}, r, c / width);
      },
      y);
}

/// y [rows, columns] += x, added in float and rounded to T.
template <class Launcher, class T>
void add(Launcher& launch, Rows<T> y, std::type_identity_t<Rows<const T>> x, Index rows,
         Index columns) {
  detail::choose_width<T>(
      rows, columns,
      [&](auto width, Index r, Index c) {
        detail::map_packs(launch, detail::AddMap<T, width>{y, x}, r, c / width);
      },
      y, x);
}

/// y [rows, columns] *= factor.
template <class Launcher, class T>
void scale(Launcher& launch, Rows<T> y, float factor, Index rows, Index columns) {
  detail::choose_width<T>(
      rows, columns,
      [&](auto width, Index r, Index c) {
        detail::map_packs(launch, detail::ScaleMap<T, width>{y, factor}, r, c / width);
      },
      y);
}

/// y += x, n elements without gaps: the join of a residual branch's gradient.
template <class Launcher, class T>
void accumulate(Launcher& launch, T* y, const T* x, std::size_t n) {
  // What does not fill a pack at the end is done apart.
  const Index all = static_cast<Index>(n), main = all / Index{full_width<T>} * Index{full_width<T>};
  const bool aligned = is_vectorizable(y) && is_vectorizable(x);
  const Index first = aligned ? main : 0;
  if (first > 0)
    detail::map_packs(launch, detail::AddMap<T, full_width<T>>{{y, 0}, {x, 0}}, 1,
                      first / Index{full_width<T>});
  detail::map_packs(launch, detail::AddMap<T, 1>{{y + first, 0}, {x + first, 0}}, 1, all - first);
}

/// y *= factor, n elements without gaps.
template <class Launcher, class T>
void scale(Launcher& launch, T* y, float factor, std::size_t n) {
  const Index all = static_cast<Index>(n), main = all / Index{full_width<T>} * Index{full_width<T>};
  const Index first = is_vectorizable(y) ? main : 0;
  if (first > 0)
    detail::map_packs(launch, detail::ScaleMap<T, full_width<T>>{{y, 0}, factor}, 1,
                      first / Index{full_width<T>});
  detail::map_packs(launch, detail::ScaleMap<T, 1>{{y + first, 0}, factor}, 1, all - first);
}

/// y [rows, columns] = x, rounded to To.
template <class Launcher, class To, class From>
void convert(Launcher& launch, Rows<To> y, Rows<const From> x, Index rows, Index columns) {
  constexpr unsigned width = (std::min)(full_width<To>, full_width<From>);
  if (rows <= 0 || columns <= 0) return;
  if (is_vectorizable(y, rows, columns) && is_vectorizable(x, rows, columns))
    detail::map_packs(launch, detail::ConvertMap<To, From, width>{y, x}, rows, columns / width);
  else
    detail::map_packs(launch, detail::ConvertMap<To, From, 1>{y, x}, rows, columns);
}

/// y [rows, columns] = x, each element 0 with probability `rate` and else divided by 1 - rate. The
/// bits are those of CounterRandom(seed, RandomStream::adapter_dropout, step, micro_step), four
/// elements a draw, draws counted row by row. y may be x.
template <class Launcher, class T>
void dropout(Launcher& launch, Rows<T> y, std::type_identity_t<Rows<const T>> x, Index rows,
             Index columns, double rate, std::uint64_t seed, std::uint64_t step,
             std::uint32_t micro_step) {
  const Index draws = divide_up(columns, 4);
  const auto fill = [&](auto map) {
    map.to = y, map.from = x, map.columns = columns, map.draws = draws;
    map.c1 =
        static_cast<std::uint32_t>(RandomStream::adapter_dropout) << 24 | (micro_step & 0xFFFFFFu);
    map.c2 = static_cast<std::uint32_t>(step), map.c3 = static_cast<std::uint32_t>(step >> 32);
    map.k0 = static_cast<std::uint32_t>(seed), map.k1 = static_cast<std::uint32_t>(seed >> 32);
    map.threshold = static_cast<std::uint32_t>(rate * 0x1p32);
    map.scale = static_cast<float>(1.0 / (1.0 - rate));
    detail::map_packs(launch, map, rows, draws);
  };
  const auto fits = [&](const auto& operand) {
    return reinterpret_cast<std::uintptr_t>(operand.data) % (4 * sizeof(T)) == 0 &&
           operand.stride % 4 == 0 && columns % 4 == 0;
  };
  if (fits(x) && fits(y))
    fill(detail::DropoutMap<T, 4>{});
  else
    fill(detail::DropoutMap<T, 1>{});
}

}  // namespace cuda
DROPBP_NAMESPACE_END
