// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The kernels of RMSNorm and LayerNorm: y = w * (x - mean) * rstd + b with rstd = 1 /
// sqrt(mean((x - mean)^2) + eps). RMSNorm has no mean and no b. rms_norm.hpp and layer_norm.hpp
// launch the kernels.
#pragma once

#include <cmath>

#include "dropbp/backend/cuda/context.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

inline constexpr unsigned norm_threads = 256;
// Rows whose contributions to the weight's gradient one block adds. With 16, a GPU has enough
// blocks from some thousand rows on, and the partial sums have one row per 16 rows of the input.
inline constexpr Index norm_rows_of_block = 16;

// Bytes of the scratch memory of block_sum.
inline std::size_t norm_scratch_bytes() { return norm_threads / 32 * sizeof(float); }

// Visits the packs of a row that one thread works on. The first `kept` packs stay in registers from
// the sums to the result, and all their loads are issued together. The other packs of a longer row
// are read twice. Calls f(index of the kept pack, pack) or g(pack).
template <unsigned kept, class F, class G>
DROPBP_DEVICE void for_own_packs(unsigned thread, Index packs, F f, G g) {
  // A row is shorter than 2^32 packs, and 64-bit numbers of packs would take two registers.
  const auto count = static_cast<unsigned>(packs);
  DROPBP_UNROLL
  for (unsigned i = 0; i < kept; ++i)
    if (const unsigned pack = thread + i * norm_threads; pack < count) f(i, Index{pack});
  for (unsigned pack = thread + kept * norm_threads; pack < count; pack += norm_threads)
    g(Index{pack});
}

// sum += branch, added in float and rounded to T. `sum` is read again later, so it is not streamed.
template <unsigned N, class T, class Context>
DROPBP_DEVICE Pack<T, N> add_branch(Context ctx, T* sum, const T* branch) {
  Pack<T, N> v = ctx.template load<T, N>(sum);
  const Pack<T, N> added = ctx.template load_streaming<T, N>(branch);
  DROPBP_UNROLL
  for (unsigned i = 0; i < N; ++i)
    v.values[i] = from_float<T>(to_float(v.values[i]) + to_float(added.values[i]));
  ctx.store(sum, v);
  return v;
}

// Writes elements of a row from `at` on, normalised; `scale` is w from `at` on. b is null unless
// `centered`.
template <bool centered, class T, unsigned N, class Context>
DROPBP_DEVICE void store_normed(Context ctx, T* y, Index at, Pack<T, N> x, Pack<T, N> scale,
                                const T* b, float mean, float rstd) {
  Pack<T, N> shift{}, out;
  if constexpr (centered) shift = ctx.template load<T, N>(b + at);
  DROPBP_UNROLL
  for (unsigned i = 0; i < N; ++i) {
    const float value = to_float(x.values[i]);
    if constexpr (centered)
      out.values[i] = from_float<T>((value - mean) * rstd * to_float(scale.values[i]) +
                                    to_float(shift.values[i]));
    else
      out.values[i] = from_float<T>(value * rstd * to_float(scale.values[i]));
  }
  ctx.store(y + at, out);
}

// One block per row. The input is sum += branch if `added`, else x.
template <class T, unsigned N, bool centered, bool added>
struct NormForward {
  static constexpr const char* name =
      centered ? (added ? "add_layer_norm_forward" : "layer_norm_forward")
               : (added ? "add_rms_norm_forward" : "rms_norm_forward");
  static constexpr unsigned threads = norm_threads, min_blocks = 4;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<T> y, float* means, float* rstds, Rows<const T> x,
                                Rows<T> sum, Rows<const T> branch, const T* w, const T* b,
                                Index columns, float eps) const {
    constexpr unsigned kept =
        sizeof(T) == 4 ? 2 : 4;  // 4 packs of float spill registers (nvcc 13, sm_90)
    auto* const scratch = reinterpret_cast<float*>(ctx.shared());
    const Index row = ctx.block(), packs = columns / N;
    const T* const in = added ? sum.row(row) : x.row(row);
    // The first packs of w arrive with the row, not after its sum. More would spill registers.
    constexpr unsigned early = 2 - (centered ? 1 : 0) - (added ? 1 : 0);
    Pack<T, N> own[kept] = {}, scale[early > 0 ? early : 1] = {};
    const auto load_scale = [&](Index pack) { return ctx.template load<T, N>(w + pack * N); };
    const auto load = [&](Index pack) {
      if constexpr (added)
        return add_branch<N>(ctx, sum.row(row) + pack * N, branch.row(row) + pack * N);
      else
        return ctx.template load<T, N>(in + pack * N);
    };
    for_own_packs<kept>(
        ctx.thread(), packs,
        [&](unsigned i, Index pack) {
          own[i] = load(pack);
          if (i + 1 <= early) scale[i] = load_scale(pack);
        },
        [&](Index pack) {
          if constexpr (added) load(pack);
        });
    // In a longer row, each thread reads again only what it has read or written itself, so there is
    // no barrier.
    const auto sum_of = [&](auto term) {
      float total = 0.0f;
      const auto take = [&](const Pack<T, N>& v) {
        DROPBP_UNROLL
        for (unsigned k = 0; k < N; ++k) total += term(to_float(v.values[k]));
      };
      for_own_packs<kept>(
          ctx.thread(), packs, [&](unsigned i, Index) { take(own[i]); },
          [&](Index pack) { take(ctx.template load<T, N>(in + pack * N)); });
      return block_sum<threads>(ctx, total, scratch);
    };
    float mean = 0.0f;
    if constexpr (centered)
      mean = sum_of([](float value) { return value; }) / static_cast<float>(columns);
    const float squares = sum_of([mean](float value) { return (value - mean) * (value - mean); });
    const float rstd = 1.0f / std::sqrt(squares / static_cast<float>(columns) + eps);
    if (ctx.thread() == 0) {
      rstds[row] = rstd;
      if constexpr (centered) means[row] = mean;
    }
    const auto store = [&](Index pack, const Pack<T, N>& v, const Pack<T, N>& by) {
      store_normed<centered>(ctx, y.row(row), pack * N, v, by, b, mean, rstd);
    };
    for_own_packs<kept>(
        ctx.thread(), packs,
        [&](unsigned i, Index pack) {
          store(pack, own[i], i + 1 <= early ? scale[i] : load_scale(pack));
        },
        [&](Index pack) { store(pack, ctx.template load<T, N>(in + pack * N), load_scale(pack)); });
  }
};

template <class T, unsigned N, bool centered>
struct NormRecompute {
  static constexpr const char* name = centered ? "layer_norm_recompute" : "rms_norm_recompute";
  static constexpr unsigned threads = norm_threads, min_blocks = 4;

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<T> y, Rows<const T> x, const T* w, const T* b,
                                const float* means, const float* rstds, Index columns) const {
    constexpr unsigned kept = 4;
    const Index row = ctx.block(), packs = columns / N;
    Pack<T, N> own[kept] = {};
    const auto load = [&](Index pack) {
      return ctx.template load_streaming<T, N>(x.row(row) + pack * N);
    };
    for_own_packs<kept>(
        ctx.thread(), packs, [&](unsigned i, Index pack) { own[i] = load(pack); }, [](Index) {});
    const float mean = centered ? means[row] : 0.0f, rstd = rstds[row];
    const auto store = [&](Index pack, const Pack<T, N>& v) {
      store_normed<centered>(ctx, y.row(row), pack * N, v, ctx.template load<T, N>(w + pack * N), b,
                             mean, rstd);
    };
    for_own_packs<kept>(
        ctx.thread(), packs, [&](unsigned i, Index pack) { store(pack, own[i]); },
        [&](Index pack) { store(pack, load(pack)); });
  }
};

// share [N] += values, with four elements per access to shared memory.
template <unsigned N, class Context>
DROPBP_DEVICE void add_to_share(Context ctx, float* share, const float (&values)[N]) {
  constexpr unsigned step = N % 4 == 0 ? 4 : 1;
  DROPBP_UNROLL
  for (unsigned i = 0; i < N; i += step) {
    Pack<float, step> part = ctx.template load_shared<float, step>(share + i);
    DROPBP_UNROLL
    for (unsigned k = 0; k < step; ++k) part.values[k] += values[i + k];
    ctx.store_shared(share + i, part);
  }
}

// One block per `rows_of_block` rows. `shares` [blocks, columns] receives each block's gradient of
// w; if `centered`, `blocks` further rows receive the gradients of b. `shares` is null if w and b
// are frozen; dx.data is null if only their gradients are wanted.
template <class T, unsigned N, bool centered>
struct NormBackward {
  static constexpr const char* name = centered ? "layer_norm_backward" : "rms_norm_backward";
  // With three blocks, LayerNorm spills registers (nvcc 13, sm_90).
  static constexpr unsigned threads = norm_threads, min_blocks = centered ? 2 : 3;

  // One long function, because all steps share the registers of a thread.
  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, Rows<T> dx, bool add, Rows<const T> dy,
                                Rows<const T> x, const T* w, const float* means, const float* rstds,
                                float* shares, Index rows, Index columns,
                                Index rows_of_block) const {
    constexpr unsigned kept = 2;
    auto* const scratch = reinterpret_cast<float*>(ctx.shared());
    float* const share =
        scratch + threads / 32;  // [columns] for w, then for b; one thread owns an element
    const Index packs = columns / N, first = ctx.block() * rows_of_block;
    const Index last = first + rows_of_block < rows ? first + rows_of_block : rows;
    if (shares != nullptr)
      for (Index pack = ctx.thread(); pack < packs; pack += threads) {
        DROPBP_UNROLL
        for (unsigned i = 0; i < N; ++i) {
          share[pack * N + i] = 0.0f;
          if constexpr (centered) share[columns + pack * N + i] = 0.0f;
        }
      }
    struct Operands {
      Pack<T, N> dy, x;
    };
    for (Index row = first; row < last; ++row) {
      Operands own[kept] = {};
      Pack<T, N> old[kept] = {}, early = {};  // early: w of the first pack
      const auto load_scale = [&](Index pack) { return ctx.template load<T, N>(w + pack * N); };
      const auto load = [&](Index pack) {
        return Operands{ctx.template load<T, N>(dy.row(row) + pack * N),
                        ctx.template load<T, N>(x.row(row) + pack * N)};
      };
      for_own_packs<kept>(
          ctx.thread(), packs,
          [&](unsigned i, Index pack) {
            own[i] = load(pack);
            if (i == 0) early = load_scale(pack);
            if (add && dx.data != nullptr)
              old[i] = ctx.template load_streaming<T, N>(dx.row(row) + pack * N);
          },
          [](Index) {});
      const float mean = centered ? means[row] : 0.0f, rstd = rstds[row];
      float dot = 0.0f, sum = 0.0f;  // sums of dy * w * (x - mean) and of dy * w
      const auto take = [&](Index pack, const Operands& v, const Pack<T, N>& scale) {
        float of_w[N], of_b[N];
        DROPBP_UNROLL
        for (unsigned k = 0; k < N; ++k) {
          const float gradient = to_float(v.dy.values[k]), value = to_float(v.x.values[k]) - mean;
          const float scaled = gradient * to_float(scale.values[k]);
          dot += scaled * value;
          sum += scaled;
          of_w[k] = gradient * (value * rstd);
          of_b[k] = gradient;
        }
        if (shares == nullptr) return;
        add_to_share(ctx, share + pack * N, of_w);
        if constexpr (centered) add_to_share(ctx, share + columns + pack * N, of_b);
      };
      for_own_packs<kept>(
          ctx.thread(), packs,
          [&](unsigned i, Index pack) { take(pack, own[i], i == 0 ? early : load_scale(pack)); },
          [&](Index pack) { take(pack, load(pack), load_scale(pack)); });
      if (dx.data == nullptr) continue;
      dot = block_sum<threads>(ctx, dot, scratch);
      float down = 0.0f;
      if constexpr (centered)
        down = rstd * block_sum<threads>(ctx, sum, scratch) / static_cast<float>(columns);
      // dx = r * (w dy) - (x - mean) * r^3 * mean((x - mean) * w * dy); if `centered`, minus r *
      // mean(w dy).
      const float back = rstd * rstd * rstd * dot / static_cast<float>(columns);
      // w is in the cache by now; in registers it would leave room for fewer blocks.
      const auto store = [&](Index pack, const Operands& v, Pack<T, N> out) {
        const Pack<T, N> scale = ctx.template load<T, N>(w + pack * N);
        DROPBP_UNROLL
        for (unsigned k = 0; k < N; ++k) {
          float gradient = rstd * (to_float(scale.values[k]) * to_float(v.dy.values[k])) -
                           (to_float(v.x.values[k]) - mean) * back;
          if constexpr (centered) gradient -= down;
          out.values[k] = from_float<T>(add ? to_float(out.values[k]) + gradient : gradient);
        }
        ctx.store(dx.row(row) + pack * N, out);
      };
      for_own_packs<kept>(
          ctx.thread(), packs, [&](unsigned i, Index pack) { store(pack, own[i], old[i]); },
          [&](Index pack) {
            Pack<T, N> before{};
            if (add) before = ctx.template load_streaming<T, N>(dx.row(row) + pack * N);
            store(pack, load(pack), before);
          });
    }
    if (shares == nullptr) return;
    for (Index pack = ctx.thread(); pack < packs; pack += threads) {
      DROPBP_UNROLL
      for (unsigned i = 0; i < N; ++i) {
        ctx.store(shares + ctx.block() * columns + pack * N + i,
                  Pack<float, 1>{{share[pack * N + i]}});
        if constexpr (centered)
          ctx.store(shares + (Index{ctx.blocks()} + ctx.block()) * columns + pack * N + i,
                    Pack<float, 1>{{share[columns + pack * N + i]}});
      }
    }
  }
};

// Compensated addition (Kahan 1965): sums of floats become as accurate as in twice the precision.
// `lost` is the amount by which the sum is too large.
DROPBP_DEVICE void add_compensated(float& sum, float& lost, float value) {
  value -= lost;
  const float next = sum + value;
  lost = (next - sum) - value;
  sum = next;
}

// Adds the columns of partial sums. Each block adds 32 columns, each in 8 slices of the rows. The
// rows of a slice are added in order, then the slices in order.
template <class T>
struct SumShares {
  static constexpr const char* name = "sum_shares";
  static constexpr unsigned threads = 256, min_blocks = 2, columns_of_block = 32,
                            slices = threads / columns_of_block;
  static constexpr std::size_t shared_bytes = 2 * threads * sizeof(float);

  template <class Context>
  DROPBP_DEVICE void operator()(Context ctx, T* to, bool add, const float* shares, Index count,
                                Index columns) const {
    constexpr unsigned in_flight = 8;
    auto* const sums = reinterpret_cast<float*>(ctx.shared());
    float* const losses = sums + threads;
    const Index column = Index{ctx.block()} * columns_of_block + ctx.thread() % columns_of_block;
    const Index rows = divide_up(count, slices), first = ctx.thread() / columns_of_block * rows;
    const Index last = column >= columns ? 0 : first + rows < count ? first + rows : count;
    float sum = 0.0f, lost = 0.0f;
    for (Index i = first; i < last; i += in_flight) {
      float values[in_flight];
      DROPBP_UNROLL
      for (unsigned k = 0; k < in_flight; ++k)
        values[k] = i + k < last
                        ? ctx.template load_streaming<float, 1>(shares + (i + k) * columns + column)
                              .values[0]
                        : 0.0f;
      DROPBP_UNROLL
      for (unsigned k = 0; k < in_flight; ++k) add_compensated(sum, lost, values[k]);
    }
    sums[ctx.thread()] = sum, losses[ctx.thread()] = lost;
    ctx.sync();
    if (ctx.thread() >= columns_of_block || column >= columns) return;
    sum = add ? to_float(ctx.template load<T, 1>(to + column).values[0]) : 0.0f, lost = 0.0f;
    DROPBP_UNROLL
    for (unsigned k = 0; k < slices; ++k) {
      add_compensated(sum, lost, sums[k * columns_of_block + ctx.thread()]);
      add_compensated(sum, lost, -losses[k * columns_of_block + ctx.thread()]);
    }
    ctx.store(to + column, Pack<T, 1>{{from_float<T>(sum)}});
  }
};

template <class Launcher, class T>
void sum_shares(Launcher& launch, T* to, bool add, const float* shares, Index count,
                Index columns) {
  launch(Grid{.x = static_cast<unsigned>(divide_up(columns, Index{SumShares<T>::columns_of_block})),
              .shared_bytes = SumShares<T>::shared_bytes},
         SumShares<T>{}, to, add, shares, count, columns);
}

// Calls use(width) with a constant width: the elements of 16 bytes if all operands allow it, or 1.
// w and b have a single row.
template <class T, class Use, class... Operands>
void choose_norm_width(Index rows, Index columns, const T* w, const T* b, const Use& use,
                       Rows<Operands>... operands) {
  const bool vectorizable =
      ((operands.data == nullptr || is_vectorizable(operands, rows, columns)) && ...) &&
      is_vectorizable(w) && (b == nullptr || is_vectorizable(b));
  if (vectorizable)
    use(std::integral_constant<unsigned, full_width<T>>{});
  else
    use(std::integral_constant<unsigned, 1>{});
}

template <bool centered, bool added, class Launcher, class T>
void norm_forward(Launcher& launch, Rows<T> y, float* means, float* rstds, Rows<const T> x,
                  Rows<T> sum, Rows<const T> branch, const T* w, const T* b, Index rows,
                  Index columns, double eps) {
  if (rows <= 0 || columns <= 0) return;
  const Grid grid{.x = static_cast<unsigned>(rows), .shared_bytes = norm_scratch_bytes()};
  choose_norm_width(
      rows, columns, w, b,
      [&](auto width) {
        launch(grid, NormForward<T, width, centered, added>{}, y, means, rstds, x, sum, branch, w,
               b, columns, static_cast<float>(eps));
      },
      y, x, sum, branch);
}

template <bool centered, class Launcher, class T>
void norm_recompute(Launcher& launch, Rows<T> y, Rows<const T> x, const T* w, const T* b,
                    const float* means, const float* rstds, Index rows, Index columns) {
  if (rows <= 0 || columns <= 0) return;
  choose_norm_width(
      rows, columns, w, b,
      [&](auto width) {
        launch(Grid{.x = static_cast<unsigned>(rows)}, NormRecompute<T, width, centered>{}, y, x, w,
               b, means, rstds, columns);
      },
      y, x);
}

inline Index norm_backward_blocks(Index rows) { return divide_up(rows, norm_rows_of_block); }

// `shares` is null if the gradients of w and b are not wanted.
template <bool centered, class Launcher, class T>
void norm_backward(Launcher& launch, Rows<T> dx, bool add, Rows<const T> dy, Rows<const T> x,
                   const T* w, const float* means, const float* rstds, float* shares, Index rows,
                   Index columns) {
  if (rows <= 0 || columns <= 0 || (dx.data == nullptr && shares == nullptr)) return;
  const Index rows_of_block = shares != nullptr ? norm_rows_of_block : Index{1};
  const std::size_t share_bytes =
      shares != nullptr ? static_cast<std::size_t>(columns) * sizeof(float) * (centered ? 2 : 1)
                        : 0;
  const Grid grid{.x = static_cast<unsigned>(divide_up(rows, rows_of_block)),
                  .shared_bytes = norm_scratch_bytes() + share_bytes};
  choose_norm_width(
      rows, columns, w, static_cast<const T*>(nullptr),
      [&](auto width) {
        launch(grid, NormBackward<T, width, centered>{}, dx, add, dy, x, w, means, rstds, shares,
               rows, columns, rows_of_block);
      },
      dx, dy, x);
}

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
