// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Elementwise operations on CUDA: the residual addition, copies, scaling, conversions. See
// ops/elementwise.hpp.
#pragma once

#include <algorithm>
#include <cstddef>

#include "dropbp/kernels/cuda/maps.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

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
struct AccumulateMap {
  static constexpr const char* name = "accumulate";
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

template <class T, unsigned N>
struct AddPartsMap {
  static constexpr const char* name = "add_parts";
  using Values = Pack<float, N>;
  Rows<T> to;
  const T* parts;
  Index count, rows, columns;
  template <class Context>
  DROPBP_DEVICE Values load(Context ctx, Index row, Index pack) const {
    Values sum{};
    for (Index part = 0; part < count; ++part) {
      const Pack<T, N> x =
          ctx.template load_streaming<T, N>(parts + (part * rows + row) * columns + pack * N);
      DROPBP_UNROLL
      for (unsigned i = 0; i < N; ++i) sum.values[i] += to_float(x.values[i]);
    }
    return sum;
  }
  template <class Context>
  DROPBP_DEVICE void store(Context ctx, Index row, Index pack, Values sum) const {
    Pack<T, N> y;
    DROPBP_UNROLL
    for (unsigned i = 0; i < N; ++i) y.values[i] = from_float<T>(sum.values[i]);
    ctx.store(to.row(row) + pack * N, y);
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
void accumulate(Launcher& launch, Rows<T> y, std::type_identity_t<Rows<const T>> x, Index rows,
                Index columns) {
  detail::choose_width<T>(
      rows, columns,
      [&](auto width, Index r, Index c) {
        detail::map_packs(launch, detail::AccumulateMap<T, width>{y, x}, r, c / width);
      },
      y, x);
}

/// y [rows, columns] = the sum of parts [count, rows, columns], in their order, added in float and
/// rounded to T.
template <class Launcher, class T>
void add_parts(Launcher& launch, Rows<T> y, const T* parts, Index count, Index rows,
               Index columns) {
  const auto run = [&](auto width) {
    detail::map_packs(launch, detail::AddPartsMap<T, width>{y, parts, count, rows, columns}, rows,
                      columns / Index{width});
  };
  if (is_vectorizable(y, rows, columns) &&
      is_vectorizable(Rows<const T>{parts, columns}, count * rows, columns))
    run(std::integral_constant<unsigned, full_width<T>>{});
  else
    run(std::integral_constant<unsigned, 1>{});
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

/// y += x for n contiguous elements: adds the gradient of a residual branch.
template <class Launcher, class T>
void accumulate(Launcher& launch, T* y, const T* x, std::size_t n) {
  // The second launch adds the elements after the last full pack; all elements, if x or y is
  // unaligned.
  const Index all = static_cast<Index>(n), main = all / Index{full_width<T>} * Index{full_width<T>};
  const bool aligned = is_vectorizable(y) && is_vectorizable(x);
  const Index first = aligned ? main : 0;
  if (first > 0)
    detail::map_packs(launch, detail::AccumulateMap<T, full_width<T>>{{y, 0}, {x, 0}}, 1,
                      first / Index{full_width<T>});
  detail::map_packs(launch, detail::AccumulateMap<T, 1>{{y + first, 0}, {x + first, 0}}, 1,
                    all - first);
}

/// y *= factor for n contiguous elements.
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

}  // namespace cuda

namespace ops {

/// See kernels/cpu/elementwise.hpp. Launches into the current CUDA stream.
template <cuda::Scalar T, cuda::BodyBackend Backend>
struct kernels<op::elementwise, T, Backend> {
  using View = MatrixView<T, Backend>;             ///< of outputs
  using ConstView = MatrixView<const T, Backend>;  ///< of inputs

  static void copy(View to, ConstView from);    ///< to = from
  static void set_zero(View y);                 ///< y = 0
  static void accumulate(View y, ConstView x);  ///< y += x
  static void scale(View y, double factor);     ///< y *= factor, with the factor rounded to float
  /// to = from, rounded to T.
  static void convert_from(View to, MatrixView<const float, Backend> from);
  /// to = from, converted to float.
  static void convert_to(MatrixView<float, Backend> to, ConstView from);
  /// y += x for n contiguous elements.
  static void accumulate(T* y, const T* x, std::size_t n);
  /// y *= factor for n contiguous elements.
  static void scale(T* y, double factor, std::size_t n);
};

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::elementwise, T, Backend>::copy(View to, ConstView from) {
  auto launch = device_launcher<Backend>::current();
  cuda::copy(launch, cuda::rows_of(to), cuda::rows_of(from), to.rows, to.columns);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::elementwise, T, Backend>::set_zero(View y) {
  auto launch = device_launcher<Backend>::current();
  cuda::set_zero(launch, cuda::rows_of(y), y.rows, y.columns);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::elementwise, T, Backend>::accumulate(View y, ConstView x) {
  auto launch = device_launcher<Backend>::current();
  cuda::accumulate(launch, cuda::rows_of(y), cuda::rows_of(x), y.rows, y.columns);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::elementwise, T, Backend>::scale(View y, double factor) {
  auto launch = device_launcher<Backend>::current();
  cuda::scale(launch, cuda::rows_of(y), static_cast<float>(factor), y.rows, y.columns);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::elementwise, T, Backend>::convert_from(View to,
                                                        MatrixView<const float, Backend> from) {
  auto launch = device_launcher<Backend>::current();
  cuda::convert(launch, cuda::rows_of(to), cuda::rows_of(from), to.rows, to.columns);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::elementwise, T, Backend>::convert_to(MatrixView<float, Backend> to,
                                                      ConstView from) {
  auto launch = device_launcher<Backend>::current();
  cuda::convert(launch, cuda::rows_of(to), cuda::rows_of(from), to.rows, to.columns);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::elementwise, T, Backend>::accumulate(T* y, const T* x, std::size_t n) {
  auto launch = device_launcher<Backend>::current();
  cuda::accumulate(launch, y, x, n);
}

template <cuda::Scalar T, cuda::BodyBackend Backend>
void kernels<op::elementwise, T, Backend>::scale(T* y, double factor, std::size_t n) {
  auto launch = device_launcher<Backend>::current();
  cuda::scale(launch, y, static_cast<float>(factor), n);
}

}  // namespace ops
DROPBP_NAMESPACE_END
