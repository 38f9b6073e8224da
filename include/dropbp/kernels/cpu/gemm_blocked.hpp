// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The blocked matrix product of gemm.hpp. Loops and blocks follow Goto and van de Geijn, "Anatomy
// of High-Performance Matrix Multiplication" (ACM TOMS 2008), and BLIS. Panels of B are packed once
// and shared by all threads; each thread packs its own blocks of A; one register tile
// (gemm_tile.hpp) does all the arithmetic, also at the edges. benchmarks/products compares it with
// Eigen.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "dropbp/kernels/cpu/gemm_tile.hpp"
#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/kernels/cpu/scratch.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

// Bytes of a packed block of A; they fit into the second-level cache beside a panel of B. At most
// so many rows.
inline constexpr Index block_bytes = 384 * 1024, most_block_rows = 384;
// Bytes of the packed part of B, in the third-level cache.
inline constexpr Index part_bytes = 4 << 20;
// If C is narrower than its sums and the depth has several blocks, the sums of this part of C are
// kept in float: 8 MiB.
inline constexpr Index kept_rows = 2016, kept_columns = 1024;
// The calling thread computes products with fewer multiply-adds alone: waking other threads takes
// some microseconds.
inline constexpr Index serial_product = 64 * 64 * 64;

inline constexpr Index rounded_up(Index n, Index grain) { return (n + grain - 1) / grain * grain; }
inline constexpr Index rounded_down(Index n, Index grain) { return n / grain * grain; }

// What becomes of the sums over one block of the depth.
template <class Sum>
struct DepthBlock {
  Accumulate mode;    // for the product as a whole
  bool first, last;   // of the blocks of the depth
  Sum* kept;          // [rows of c, stride]: the sums of the blocks so far, if C is narrower
  Index kept_stride;  // elements
};

// c (=|+=) one tile. The element type of c is that of the sums, or narrower.
template <class Tile, class T>
DROPBP_FORCE_INLINE inline void tile_product(Index words, const typename Tile::Words::Word* a,
                                             const typename Tile::Words::Word* b, MatrixView<T> c,
                                             Index row, Index column,
                                             const DepthBlock<typename Tile::Sum>& block) noexcept {
  using Sum = typename Tile::Sum;
  constexpr Index n = Tile::lanes_of_sum;
  const Index rows = (std::min)(Tile::rows, c.rows - row),
              columns = (std::min)(Tile::columns, c.columns - column);
  T* const to = c.row(row) + column;
  const Accumulate mode = block.first ? block.mode : Accumulate::add;
  if constexpr (std::is_same_v<T, Sum>)
    if (rows == Tile::rows && columns == Tile::columns)
      return Tile::product(words, a, b, to, c.stride, mode);
  alignas(64) Sum tile[Tile::rows * Tile::columns];
  Tile::product(words, a, b, tile, Tile::columns, Accumulate::overwrite);
  for (Index i = 0; i < rows; ++i)
    for_each_piece<n>(columns, [&](Index j, auto piece) DROPBP_FORCE_INLINE {
      auto sum = load_piece(tile + i * Tile::columns + j, piece, Sum(0));
      T* const at = to + i * c.stride + j;
      if constexpr (std::is_same_v<T, Sum>) {
        if (mode == Accumulate::add) sum += load_piece(at, piece, Sum(0));
        store_piece(at, sum, piece);
      } else {
        // There is no memory to keep sums in if the depth is one block.
        const Index kept = (row + i) * block.kept_stride + column + j;
        if (!block.first) sum += load_piece(block.kept + kept, piece, Sum(0));
        if (!block.last) return store_piece(block.kept + kept, sum, piece);
        if (block.mode == Accumulate::add) sum += load_piece(at, piece, Sum(0));
        store_piece(at, sum, piece);
      }
    });
}

// c (=|+=) a packed block of A times the packed panels [first_panel, last_panel) of B.
template <class Tile, class T>
DROPBP_FORCE_INLINE inline void block_product(
    MatrixView<T> c, const typename Tile::Words::Word* packed_a,
    const typename Tile::Words::Word* packed_b, Index words, Index first_panel, Index last_panel,
    const DepthBlock<typename Tile::Sum>& block) noexcept {
  for (Index panel = first_panel; panel < last_panel; ++panel)
    for (Index i = 0; i < c.rows; i += Tile::rows)
      tile_product<Tile>(words, packed_a + i * words, packed_b + panel * Tile::columns * words, c,
                         i, panel * Tile::columns, block);
}

template <class T>
void product_over_nothing(MatrixView<T> c, Accumulate mode) {
  if (mode == Accumulate::add) return;
  for (Index i = 0; i < c.rows; ++i) std::fill_n(c.row(i), c.columns, T{});
}

// At least two parts per thread: if another process delays a thread, the others wait for less than
// half of its work.
inline Index parts_of_rows(Index rows, Index row_tiles, Index threads) {
  constexpr Index part_rows = 192;
  if (threads == 1) return 1;
  return (std::min)((std::max)(threads, (rows + part_rows - 1) / part_rows), row_tiles);
}
inline Index parts_of_columns(Index row_parts, Index panels, Index threads) {
  return threads == 1 ? 1 : (std::min)((2 * threads + row_parts - 1) / row_parts, panels);
}

// An operand [rows, depth] as a product sees it; element (i, p) is at `data + i * row + p * depth`,
// and one of the two distances is 1.
template <class T>
struct Operand {
  const T* data;
  Index stride;
  bool along;  // the depth runs along the rows of memory
  const T* at(Index i, Index p) const noexcept {
    return along ? data + i * stride + p : data + p * stride + i;
  }
  // Packs the rows [i, i + width) as far as there are `count`, and the depth [p, p + depth).
  template <class Tile, Index width, bool spills = false>
  DROPBP_FORCE_INLINE void pack(Index i, Index p, Index depth, Index count,
                                typename Tile::Words::Word* to) const noexcept {
    pack_panel<typename Tile::Words, width, spills>(at(i, p), stride, along, depth, count, to);
  }
};

// c (=|+=) one block of the depth of A times the packed B. Divides the rows among the threads; also
// the columns, if there are too few rows.
template <class Tile, class T>
void part_product(MatrixView<T> c, const Operand<typename Tile::Element>& a, Index p0, Index depth,
                  const typename Tile::Words::Word* packed_b, Index threads,
                  const DepthBlock<typename Tile::Sum>& block) {
  using Word = typename Tile::Words::Word;
  const Index words = (depth + Tile::Words::depth - 1) / Tile::Words::depth;
  const Index panels = (c.columns + Tile::columns - 1) / Tile::columns;
  const Index row_tiles = (c.rows + Tile::rows - 1) / Tile::rows;
  const Index row_parts = parts_of_rows(c.rows, row_tiles, threads);
  const Index column_parts = parts_of_columns(row_parts, panels, threads);
  const Index most_rows =
      rounded_down(std::clamp(block_bytes / (words * static_cast<Index>(sizeof(Word))), Tile::rows,
                              most_block_rows),
                   Tile::rows);
  const auto compute = [&](Index part) {
    const Index row_part = part / column_parts, column_part = part % column_parts;
    const Index first_row = row_part * row_tiles / row_parts * Tile::rows;
    const Index last_row = (std::min)(c.rows, (row_part + 1) * row_tiles / row_parts * Tile::rows);
    const Index first_panel = column_part * panels / column_parts;
    const Index last_panel = (column_part + 1) * panels / column_parts;
    const Index blocks = (last_row - first_row + most_rows - 1) / most_rows;
    const Index row_step = rounded_up((last_row - first_row + blocks - 1) / blocks, Tile::rows);
    Word* const packed_a = scratch<Word>(Scratch::packed_a, row_step * words + 8);
    Tile::Set::run([&]() DROPBP_FORCE_INLINE {
      for (Index i0 = first_row; i0 < last_row; i0 += row_step) {
        const Index part_rows = (std::min)(row_step, last_row - i0);
        for (Index i = 0; i < part_rows; i += Tile::rows)
          a.template pack<Tile, Tile::rows, true>(
              i0 + i, p0, depth, (std::min)(Tile::rows, part_rows - i), packed_a + i * words);
        DepthBlock<typename Tile::Sum> of_rows = block;
        if (block.kept != nullptr) of_rows.kept += i0 * block.kept_stride;
        block_product<Tile>(c.rows_from(i0, part_rows), packed_a, packed_b, words, first_panel,
                            last_panel, of_rows);
      }
    });
  };
  if (threads == 1)
    compute(0);
  else
    parallel_for(row_parts * column_parts, serial_product, compute);
}

// c [rows, columns] (=|+=) A [rows, depth] B [columns, depth]^T. B is an Operand, or another type
// that can pack its panels.
template <class Tile, class T, class B>
void blocked_product(MatrixView<T> c, const Operand<typename Tile::Element>& a, const B& b,
                     Index depth, Accumulate mode) {
  using Word = typename Tile::Words::Word;
  using Sum = typename Tile::Sum;
  constexpr Index width = Tile::columns, pair = Tile::Words::depth;
  if (c.rows == 0 || c.columns == 0) return;
  if (depth == 0) return product_over_nothing(c, mode);

  // Equal blocks along the depth. They determine the order of additions, so they depend on the
  // depth alone.
  const Index depth_blocks = (depth + Tile::block_depth - 1) / Tile::block_depth;
  const Index depth_step = rounded_up((depth + depth_blocks - 1) / depth_blocks, pair);
  const Index words_step = depth_step / pair;
  const Index threads = c.rows * c.columns * depth < serial_product ? 1 : thread_count();

  const bool keeps_sums = !std::is_same_v<T, Sum> && depth_blocks > 1;
  const Index row_step = keeps_sums ? (std::min)(kept_rows, c.rows) : c.rows;
  const Index most_columns =
      rounded_down(part_bytes / (words_step * static_cast<Index>(sizeof(Word))), width);
  const Index column_step =
      (std::min)(rounded_up(c.columns, width),
                 keeps_sums ? (std::min)(kept_columns, most_columns) : most_columns);
  Word* const packed_b = scratch<Word>(Scratch::packed_b, column_step * words_step);
  Sum* const kept =
      keeps_sums ? scratch<Sum>(Scratch::sums, row_step * column_step) : static_cast<Sum*>(nullptr);

  for (Index i0 = 0; i0 < c.rows; i0 += row_step)
    for (Index j0 = 0; j0 < c.columns; j0 += column_step) {
      const Index part_columns = (std::min)(column_step, c.columns - j0);
      const Index panels = (part_columns + width - 1) / width;
      for (Index p0 = 0; p0 < depth; p0 += depth_step) {
        const Index part_depth = (std::min)(depth_step, depth - p0);
        const Index words = (part_depth + pair - 1) / pair;
        const auto pack_b = [&](Index panel) {
          Tile::Set::run([&]() DROPBP_FORCE_INLINE {
            b.template pack<Tile, width>(j0 + panel * width, p0, part_depth,
                                         (std::min)(width, part_columns - panel * width),
                                         packed_b + panel * width * words);
          });
        };
        if (threads == 1)
          for (Index panel = 0; panel < panels; ++panel) pack_b(panel);
        else
          parallel_for(panels, width * part_depth, pack_b);
        part_product<Tile>(
            c.rows_from(i0, (std::min)(row_step, c.rows - i0)).columns_from(j0, part_columns),
            Operand<typename Tile::Element>{a.at(i0, 0), a.stride, a.along}, p0, part_depth,
            packed_b, threads,
            DepthBlock<Sum>{mode, p0 == 0, p0 + part_depth == depth, kept, column_step});
      }
    }
}

// The same with the best instructions of the machine.
template <class T, class C, class B>
void machine_product(MatrixView<C> c, const Operand<T>& a, const B& b, Index depth,
                     Accumulate mode) {
#if defined(DROPBP_X86_VECTORS)
  if constexpr (std::is_same_v<T, BFloat16>)
    if (instruction_set() >= InstructionSet::avx512_bf16)
      return blocked_product<DotTile>(c, a, b, depth, mode);
#endif
  with_instructions(
      [&](auto set) { blocked_product<MultiplyAddTile<T, decltype(set)>>(c, a, b, depth, mode); });
}

}  // namespace ops::detail
DROPBP_NAMESPACE_END
