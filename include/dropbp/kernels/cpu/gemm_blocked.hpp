// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The blocked matrix product of gemm.hpp. Loops and blocks follow Goto and van de Geijn, "Anatomy
// of High-Performance Matrix Multiplication" (ACM TOMS 2008), and BLIS. Panels of B are packed once
// and shared by all threads; each thread packs its own blocks of A; one register kernel does all
// the arithmetic, also at the edges. benchmarks/products compares it with Eigen: on AMD Zen 3, one
// core, float, 1024 x 1536 x 512, Eigen 3.4 reaches 63 GFLOP/s and this product 94; the peak is
// 101.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/scratch.hpp"
#include "dropbp/kernels/cpu/simd.hpp"
#include "dropbp/kernels/matrix.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

// The register tile: 6 rows of two vectors. Its 12 sums hide the latency of the multiply-add and
// fit into 16 registers.
inline constexpr Index tile_rows = 6;
template <class T>
inline constexpr Index tile_columns = 2 * lanes<T>;

// Depth of a block. A packed panel of B is depth x 2 vectors (16 KiB with 32-byte vectors), half of
// the first-level cache.
inline constexpr Index block_depth = 256;
// Rows of a packed block of A; a multiple of tile_rows. 192 x 256 floats take 192 KiB and fit into
// the second-level cache.
inline constexpr Index block_rows = 192;
// Columns of the packed part of B; a multiple of any tile_columns. 4096 x 256 floats take 4 MiB of
// the third-level cache.
inline constexpr Index block_columns = 4096;
// The calling thread computes products with fewer multiply-adds alone: waking other threads takes
// some microseconds.
inline constexpr Index serial_product = 64 * 64 * 64;

inline constexpr Index rounded_up(Index n, Index grain) { return (n + grain - 1) / grain * grain; }

#if defined(__GNUC__)
// One step of Eklundh's transposition: swaps the off-diagonal `s`-blocks of the rows a and b. The
// indices are literals, because nvcc rejects a parameter pack here.
template <std::size_t s, class V>
inline void exchange(V& a, V& b) noexcept {
  V upper, lower;
  if constexpr (s == 1) {
    upper = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
    lower = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
  } else if constexpr (s == 2) {
    upper = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
    lower = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
  } else {
    static_assert(s == 4);
    upper = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    lower = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
  a = upper, b = lower;
}

// to[q * to_stride + j] = from[j * stride + q] for q < 8, j < count <= 8. For count <= j < 8 the
// values are unspecified.
template <class T, Index count>
inline void transpose_8(const T* from, Index stride, T* to, Index to_stride) noexcept {
  using V = typename vector_of<T, 8>::type;
  V r[8]{};
  for (Index j = 0; j < count; ++j) std::memcpy(&r[j], from + j * stride, sizeof(V));
  for (const int i : {0, 2, 4, 6}) exchange<1>(r[i], r[i + 1]);
  for (const int i : {0, 1, 4, 5}) exchange<2>(r[i], r[i + 2]);
  for (const int i : {0, 1, 2, 3}) exchange<4>(r[i], r[i + 4]);
  for (Index q = 0; q < 8; ++q) std::memcpy(to + q * to_stride, &r[q], sizeof(V));
}
#endif

// Packs one panel of `width` vectors of length `depth`: element (p, j) is at panel[p * width + j];
// vectors from `count` on are zero. If `along`, the depth runs along the rows of the source (the
// source is transposed), else across them. Packing a panel of A may write up to 8 elements past its
// end. Packing a panel of B does not, because another thread may write there.
template <class T, Index width, bool along>
void pack_panel(const T* source, Index stride, Index depth, Index count, T* panel) noexcept {
  const auto at = [&](Index p, Index j) {
    return along ? source[j * stride + p] : source[p * stride + j];
  };
  if (count < width) {
    for (Index p = 0; p < depth; ++p)
      for (Index j = 0; j < width; ++j) panel[p * width + j] = j < count ? at(p, j) : T(0);
    return;
  }
  Index p = 0;
#if defined(__GNUC__)
  if constexpr (along && (width % 8 == 0 || width == tile_rows))
    for (; p + 8 <= depth; p += 8)
      for (Index j = 0; j < width; j += 8)
        transpose_8<T, (width < 8 ? width : 8)>(source + j * stride + p, stride,
                                                panel + p * width + j, width);
#endif
  for (; p < depth; ++p)
    for (Index j = 0; j < width; ++j) panel[p * width + j] = at(p, j);
}

// tile (=|+=) panel of A times panel of B. Each element is a single chain of multiply-adds over the
// depth.
template <class T, std::size_t... row>
inline void register_kernel(Index depth, const T* a, const T* b, T* c, Index stride,
                            Accumulate mode, std::index_sequence<row...>) noexcept {
  using V = Vector<T>;
  V left[tile_rows] = {((void)row, V{})...}, right[tile_rows] = {((void)row, V{})...};
  for (Index p = 0; p < depth; ++p, a += tile_rows, b += tile_columns<T>) {
    const V b_left = load(b), b_right = load(b + lanes<T>);
    ((left[row] += a[row] * b_left, right[row] += a[row] * b_right), ...);
  }
  if (mode == Accumulate::add)
    ((left[row] += load(c + Index(row) * stride),
      right[row] += load(c + Index(row) * stride + lanes<T>)),
     ...);
  ((store(c + Index(row) * stride, left[row]),
    store(c + Index(row) * stride + lanes<T>, right[row])),
   ...);
}

template <class T>
void tile_product(Index depth, const T* a, const T* b, T* c, Index stride, Index rows,
                  Index columns, Accumulate mode) noexcept {
  constexpr auto all = std::make_index_sequence<static_cast<std::size_t>(tile_rows)>{};
  if (rows == tile_rows && columns == tile_columns<T>)
    return register_kernel<T>(depth, a, b, c, stride, mode, all);
  T tile[tile_rows * tile_columns<T>];
  register_kernel<T>(depth, a, b, tile, tile_columns<T>, Accumulate::overwrite, all);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < columns; ++j) {
      const T value = tile[i * tile_columns<T> + j];
      c[i * stride + j] = mode == Accumulate::add ? value + c[i * stride + j] : value;
    }
}

// c (=|+=) a packed block of A times the packed panels [first_panel, last_panel) of B.
template <class T>
void block_product(MatrixView<T> c, const T* packed_a, const T* packed_b, Index depth,
                   Index first_panel, Index last_panel, Accumulate mode) noexcept {
  constexpr Index width = tile_columns<T>;
  for (Index panel = first_panel; panel < last_panel; ++panel)
    for (Index i = 0; i < c.rows; i += tile_rows)
      tile_product<T>(depth, packed_a + i * depth, packed_b + panel * width * depth,
                      c.row(i) + panel * width, c.stride, (std::min)(tile_rows, c.rows - i),
                      (std::min)(width, c.columns - panel * width), mode);
}

template <class T>
void product_over_nothing(MatrixView<T> c, Accumulate mode) {
  if (mode == Accumulate::add) return;
  for (Index i = 0; i < c.rows; ++i) std::fill_n(c.row(i), c.columns, T(0));
}

// At least two parts per thread: if another process delays a thread, the others wait for less than
// half of its work.
inline Index parts_of_rows(Index rows, Index row_tiles, Index threads) {
  if (threads == 1) return 1;
  return (std::min)((std::max)(threads, (rows + block_rows - 1) / block_rows), row_tiles);
}
inline Index parts_of_columns(Index row_parts, Index panels, Index threads) {
  return threads == 1 ? 1 : (std::min)((2 * threads + row_parts - 1) / row_parts, panels);
}

template <class T, bool a_transposed, bool b_transposed>
void blocked_product(MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b, Index rows,
                     Index columns, Index depth, Accumulate mode) {
  constexpr Index width = tile_columns<T>;
  if (rows == 0 || columns == 0) return;
  if (depth == 0) return product_over_nothing(c, mode);
  const auto a_at = [&](Index i, Index p) {
    return a_transposed ? a.data + p * a.stride + i : a.data + i * a.stride + p;
  };
  const auto b_at = [&](Index p, Index j) {
    return b_transposed ? b.data + j * b.stride + p : b.data + p * b.stride + j;
  };

  // Equal blocks along the depth. They determine the order of additions, so they depend on the
  // depth alone.
  const Index depth_blocks = (depth + block_depth - 1) / block_depth;
  const Index depth_step = (depth + depth_blocks - 1) / depth_blocks;
  // Divides the output among the threads by rows; also by columns if there are too few rows.
  const Index threads = rows * columns * depth < serial_product ? 1 : thread_count();
  const Index row_tiles = (rows + tile_rows - 1) / tile_rows;
  const Index row_parts = parts_of_rows(rows, row_tiles, threads);

  const Index column_step = (std::min)(block_columns, rounded_up(columns, width));
  T* const packed_b = scratch<T>(Scratch::packed_b, column_step * depth_step);
  for (Index j0 = 0; j0 < columns; j0 += column_step) {
    const Index part_columns = (std::min)(column_step, columns - j0);
    const Index panels = (part_columns + width - 1) / width;
    const Index column_parts = parts_of_columns(row_parts, panels, threads);
    for (Index p0 = 0; p0 < depth; p0 += depth_step) {
      const Index part_depth = (std::min)(depth_step, depth - p0);
      const Accumulate block_mode = p0 == 0 ? mode : Accumulate::add;
      const auto pack_b = [&](Index panel) {
        pack_panel<T, width, b_transposed>(b_at(p0, j0 + panel * width), b.stride, part_depth,
                                           (std::min)(width, part_columns - panel * width),
                                           packed_b + panel * width * part_depth);
      };
      const auto compute = [&](Index part) {
        const Index row_part = part / column_parts, column_part = part % column_parts;
        const Index first_row = row_part * row_tiles / row_parts * tile_rows;
        const Index last_row = (std::min)(rows, (row_part + 1) * row_tiles / row_parts * tile_rows);
        const Index first_panel = column_part * panels / column_parts;
        const Index last_panel = (column_part + 1) * panels / column_parts;
        const Index blocks = (last_row - first_row + block_rows - 1) / block_rows;
        const Index row_step = rounded_up((last_row - first_row + blocks - 1) / blocks, tile_rows);
        T* const packed_a = scratch<T>(Scratch::packed_a, row_step * part_depth + 8);
        for (Index i0 = first_row; i0 < last_row; i0 += row_step) {
          const Index part_rows = (std::min)(row_step, last_row - i0);
          for (Index i = 0; i < part_rows; i += tile_rows)
            pack_panel<T, tile_rows, !a_transposed>(a_at(i0 + i, p0), a.stride, part_depth,
                                                    (std::min)(tile_rows, part_rows - i),
                                                    packed_a + i * part_depth);
          block_product<T>(c.rows_from(i0, part_rows).columns_from(j0, part_columns), packed_a,
                           packed_b, part_depth, first_panel, last_panel, block_mode);
        }
      };
      if (threads == 1) {
        for (Index panel = 0; panel < panels; ++panel) pack_b(panel);
        compute(0);
      } else {
        parallel_for(panels, width * part_depth, pack_b);
        parallel_for(row_parts * column_parts, serial_product, compute);
      }
    }
  }
}

}  // namespace ops::detail
DROPBP_NAMESPACE_END
