// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// RMSNorm has the CPU's bits where all sums are exact. RMSNorm and LayerNorm agree with long double
// within their accumulated rounding errors.
#include <algorithm>
#include <cmath>

#include "dropbp/kernels/cuda/layer_norm.hpp"
#include "dropbp/kernels/cuda/rms_norm.hpp"
#include "dropbp/ops/rms_norm.hpp"
#include "simt_test.hpp"

using namespace dropbp::test;
using dropbp::BFloat16;
using dropbp::Half;

namespace {

constexpr double eps = 1e-5;

// The number of roundings in the longest chain of additions of a block's sum over a row, and of the
// products: a thread's own, then 5 and 8.
template <class T>
double chain(Index columns) {
  const Index packs = (columns + 255) / 256;
  return static_cast<double>(packs) + 8 + 5 + 8 + 2;
}

struct Norm {
  bool centered;
  Index rows, columns;
  std::vector<float> x, w, b;  // b is 0 unless centered

  template <class T>
  static Norm random(bool centered, Index rows, Index columns) {
    Norm norm{centered,
              rows,
              columns,
              random_values<T>(rows * columns, 1, -2, 3),
              random_values<T>(columns, 2, 0.5, 1.5),
              random_values<T>(columns, 3, -1, 1)};
    if (!centered) std::fill(norm.b.begin(), norm.b.end(), 0.0f);
    return norm;
  }

  long double input(Index row, Index column) const {
    return static_cast<long double>(x[static_cast<std::size_t>(row * columns + column)]);
  }
  long double weight(Index column) const {
    return static_cast<long double>(w[static_cast<std::size_t>(column)]);
  }
};

struct Statistics {
  std::vector<long double> mean, rstd;
};

Statistics statistics(const Norm& norm) {
  Statistics result;
  for (Index i = 0; i < norm.rows && norm.columns > 0; ++i) {
    long double sum = 0, squares = 0;
    for (Index j = 0; j < norm.columns; ++j) sum += norm.input(i, j);
    const long double mean = norm.centered ? sum / static_cast<long double>(norm.columns) : 0;
    for (Index j = 0; j < norm.columns; ++j)
      squares += (norm.input(i, j) - mean) * (norm.input(i, j) - mean);
    result.mean.push_back(mean);
    result.rstd.push_back(1 / std::sqrt(squares / static_cast<long double>(norm.columns) +
                                        static_cast<long double>(static_cast<float>(eps))));
  }
  return result;
}

// Both norms behind one function; RMSNorm ignores the means.
template <class T, class Launcher>
void forward(Launcher& launch, const Norm& norm, DeviceMatrix<T>& y, float* mean, float* rstd,
             DeviceMatrix<T>& x, DeviceMatrix<T>& w, DeviceMatrix<T>& b, DeviceMatrix<T>* branch) {
  const T* const weight = w.data();
  const T* const bias = b.data();
  if (branch != nullptr && norm.centered)
    dropbp::cuda::add_layer_norm_forward(launch, y.rows(), mean, rstd, x.rows(), branch->rows(),
                                         weight, bias, norm.rows, norm.columns, eps);
  else if (branch != nullptr)
    dropbp::cuda::add_rms_norm_forward(launch, y.rows(), rstd, x.rows(), branch->rows(), weight,
                                       norm.rows, norm.columns, eps);
  else if (norm.centered)
    dropbp::cuda::layer_norm_forward(launch, y.rows(), mean, rstd, x.rows(), weight, bias,
                                     norm.rows, norm.columns, eps);
  else
    dropbp::cuda::rms_norm_forward(launch, y.rows(), rstd, x.rows(), weight, norm.rows,
                                   norm.columns, eps);
}

struct Shape {
  Index rows, columns;
};
// Rows shorter than a warp, rows of odd length, and rows with more packs than registers hold (at
// most 4 x 256 x 16 bytes).
constexpr Shape shapes[] = {{1, 1},    {3, 5},    {5, 64}, {2, 333},
                            {2, 1032}, {1, 8264}, {0, 16}, {2, 0}};

// Calls f(norm, layout).
template <class T, class F>
void for_each_norm(const F& f) {
  for (const bool centered : {false, true})
    for (const Shape shape : shapes)
      for (const Layout& layout : layouts) {
        if (shape.columns > 500 && layout.gap == 3) continue;
        INFO((centered ? "LayerNorm" : "RMSNorm")
             << " [" << shape.rows << ", " << shape.columns << "], " << text(layout));
        f(Norm::random<T>(centered, shape.rows, shape.columns), layout);
      }
}

}  // namespace

TEST_CASE(
    "norms agree with long double in the forward pass, recomputed, and fused with an addition") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for_each_norm<T>([](const Norm& norm, Layout layout) {
      const Index rows = norm.rows, columns = norm.columns;
      const std::size_t shift = layout.shift;
      const auto count = static_cast<std::size_t>(columns == 0 ? 0 : rows);
      DeviceMatrix<T> w(1, columns, {0, shift}, norm.w), b(1, columns, {0, shift}, norm.b);
      std::vector<float> means, rstds, ys;
      in_all_schedules([&](auto& launch) {
        DeviceMatrix<T> x(rows, columns, layout, norm.x), y(rows, columns, layout);
        simt::Buffer<float> mean(count), rstd(count);
        forward<T>(launch, norm, y, mean.data(), rstd.data(), x, w, b, nullptr);
        CHECK(y.gaps_are_poison());
        CHECK(same_bits(x.values(), norm.x));
        means = mean.host(), rstds = rstd.host(), ys = y.values();
        // In place.
        simt::Buffer<float> again(count);
        forward<T>(launch, norm, x, mean.data(), again.data(), x, w, b, nullptr);
        CHECK(same_bits(x.values(), ys));
        return norm.centered ? joined(means, rstds, ys) : joined(rstds, ys);
      });

      const Statistics exact = statistics(norm);
      const double u = float_unit, links = chain<T>(columns);
      const auto row_of = [&](std::size_t i) { return i / static_cast<std::size_t>(columns); };
      const auto column_of = [&](std::size_t i) { return i % static_cast<std::size_t>(columns); };
      // |x - mean| has the error of the mean, a sum of `columns` terms of size 3 at most, and one
      // rounding of its own.
      const double of_mean = norm.centered ? (links + 2) * u * 3 : 0;
      if (norm.centered)
        CHECK(worst_share(means, exact.mean, [&](std::size_t) { return of_mean; }) <= 1);
      // Squaring doubles the relative error, of_mean * rstd + u in root mean square. A sum of
      // positive terms follows, then the division, eps, the root and the reciprocal. The root
      // halves all errors before it.
      const auto of_rstd = [&](std::size_t i) {
        const double r = static_cast<double>(exact.rstd[i]);
        return ((links + 3) / 2 * u + of_mean * r + 3 * u) * 1.01;
      };
      CHECK(worst_share(rstds, exact.rstd, [&](std::size_t i) {
              return of_rstd(i) * static_cast<double>(exact.rstd[i]);
            }) <= 1);
      std::vector<long double> wanted;
      for (std::size_t i = 0; i < ys.size(); ++i) {
        const auto row = row_of(i), column = column_of(i);
        wanted.push_back((static_cast<long double>(norm.x[i]) - exact.mean[row]) * exact.rstd[row] *
                             static_cast<long double>(norm.w[column]) +
                         static_cast<long double>(norm.b[column]));
      }
      CHECK(worst_share(ys, wanted, [&](std::size_t i) {
              const double r = static_cast<double>(exact.rstd[row_of(i)]),
                           scale = std::abs(static_cast<double>(norm.w[column_of(i)]));
              const double value = std::abs(static_cast<double>(wanted[i])),
                           bias = std::abs(static_cast<double>(norm.b[column_of(i)]));
              return ((value + bias) * (of_rstd(row_of(i)) + 4 * u) + of_mean * r * scale) * 1.01 +
                     value * unit<T> + least<T>;
            }) <= 1);

      // Recomputed, and fused with a preceding addition of another matrix.
      simt::Launcher launch(3);
      DeviceMatrix<T> x(rows, columns, layout, norm.x), y(rows, columns, layout);
      const simt::Buffer<float> mean(means), rstd(rstds);
      const T* const weight = w.data();
      const T* const bias = b.data();
      if (norm.centered)
        dropbp::cuda::layer_norm_recompute(launch, y.rows(), x.rows(), weight, bias, mean.data(),
                                           rstd.data(), rows, columns);
      else
        dropbp::cuda::rms_norm_recompute(launch, y.rows(), x.rows(), weight, rstd.data(), rows,
                                         columns);
      CHECK(y.gaps_are_poison());
      CHECK(same_bits(y.values(), ys));

      const auto values = random_values<T>(rows * columns, 4, -1, 1);
      std::vector<float> sums = norm.x;
      for (std::size_t i = 0; i < sums.size(); ++i)
        sums[i] = dropbp::cuda::to_float(dropbp::cuda::from_float<T>(sums[i] + values[i]));
      DeviceMatrix<T> sum(rows, columns, layout, sums);
      simt::Buffer<float> wanted_mean(count), wanted_rstd(count);
      forward<T>(launch, norm, y, wanted_mean.data(), wanted_rstd.data(), sum, w, b, nullptr);
      in_all_schedules([&](auto& fused) {
        DeviceMatrix<T> stream(rows, columns, layout, norm.x),
            branch(rows, columns, layout, values), out(rows, columns, layout);
        simt::Buffer<float> got_mean(count), got_rstd(count);
        forward<T>(fused, norm, out, got_mean.data(), got_rstd.data(), stream, w, b, &branch);
        CHECK((out.gaps_are_poison() && stream.gaps_are_poison()));
        CHECK(same_bits(stream.values(), sums));
        CHECK(same_bits(branch.values(), values));
        CHECK(same_bits(out.values(), y.values()));
        CHECK(same_bits(got_rstd.host(), wanted_rstd.host()));
        if (norm.centered) CHECK(same_bits(got_mean.host(), wanted_mean.host()));
        return out.values();
      });
    });
  });
}

TEST_CASE("norm gradients agree with long double, overwritten and accumulated") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    constexpr Shape few[] = {{1, 1}, {17, 40}, {3, 333}, {1, 4104}, {0, 16}};
    for (const bool centered : {false, true})
      for (const Shape shape : few)
        for (const Layout& layout : layouts) {
          if (shape.columns > 300 && layout.gap != 0) continue;
          INFO((centered ? "LayerNorm" : "RMSNorm")
               << " [" << shape.rows << ", " << shape.columns << "], " << text(layout));
          const Norm norm = Norm::random<T>(centered, shape.rows, shape.columns);
          const Index rows = norm.rows, columns = norm.columns;
          const auto gradients = random_values<T>(rows * columns, 5),
                     before = random_values<T>(rows * columns, 6),
                     before_w = random_values<T>(columns, 7),
                     before_b = random_values<T>(columns, 8);
          const Statistics exact = statistics(norm);
          const std::vector<float> means(exact.mean.begin(), exact.mean.end()),
              rstds(exact.rstd.begin(), exact.rstd.end());
          const simt::Buffer<float> mean(means), rstd(rstds);
          DeviceMatrix<T> x(rows, columns, layout, norm.x), dy(rows, columns, layout, gradients),
              w(1, columns, {0, layout.shift}, norm.w);
          const T* const weight = w.data();

          // All requests: dx overwritten, accumulated or not wanted; the weight's gradient
          // overwritten, accumulated or frozen.
          std::vector<float> dx, dw, db;
          const auto run = [&](auto& launch, bool add, bool with_dx, bool with_dw) {
            DeviceMatrix<T> to = add ? DeviceMatrix<T>(rows, columns, layout, before)
                                     : DeviceMatrix<T>(rows, columns, layout);
            DeviceMatrix<T> to_w = add ? DeviceMatrix<T>(1, columns, {0, layout.shift}, before_w)
                                       : DeviceMatrix<T>(1, columns, {0, layout.shift});
            DeviceMatrix<T> to_b = add ? DeviceMatrix<T>(1, columns, {0, layout.shift}, before_b)
                                       : DeviceMatrix<T>(1, columns, {0, layout.shift});
            simt::Buffer<float> workspace(static_cast<std::size_t>(
                !with_dw   ? 0
                : centered ? dropbp::cuda::layer_norm_backward_workspace(rows, columns)
                           : dropbp::cuda::rms_norm_backward_workspace(rows, columns)));
            const Rows<T> wanted_dx = with_dx ? to.rows() : Rows<T>{};
            T* const wanted_dw = with_dw ? to_w.data() : nullptr;
            if (centered)
              dropbp::cuda::layer_norm_backward(
                  launch, wanted_dx, add, dy.rows(), x.rows(), weight, mean.data(), rstd.data(),
                  wanted_dw, with_dw ? to_b.data() : nullptr, add, workspace.data(), rows, columns);
            else
              dropbp::cuda::rms_norm_backward(launch, wanted_dx, add, dy.rows(), x.rows(), weight,
                                              rstd.data(), wanted_dw, add, workspace.data(), rows,
                                              columns);
            CHECK(to.gaps_are_poison());
            dx = to.values(), dw = to_w.values(), db = to_b.values();
          };

          for (const bool add : {false, true}) {
            INFO("add " << add);
            in_all_schedules([&](auto& launch) {
              run(launch, add, true, true);
              return centered ? joined(dx, dw, db) : joined(dx, dw);
            });
            const auto all_dx = dx, all_dw = dw, all_db = db;
            simt::Launcher launch(4);
            run(launch, add, true, false);
            CHECK(same_bits(dx, all_dx));
            run(launch, add, false, true);
            CHECK(same_bits(dw, all_dw));
            if (centered) CHECK(same_bits(db, all_db));
            dx = all_dx, dw = all_dw, db = all_db;

            const double u = float_unit, links = chain<T>(columns);
            std::vector<long double> wanted, wanted_w(dw.size()), wanted_b(db.size());
            std::vector<double> bound, size_w(dw.size()), size_b(db.size());
            for (Index i = 0; i < rows; ++i) {
              const auto r = static_cast<long double>(rstds[static_cast<std::size_t>(i)]);
              const auto m =
                  centered ? static_cast<long double>(means[static_cast<std::size_t>(i)]) : 0.0L;
              const auto gradient = [&](Index j) {
                return static_cast<long double>(
                    gradients[static_cast<std::size_t>(i * columns + j)]);
              };
              long double dot = 0, sum = 0, dot_size = 0, sum_size = 0;
              for (Index j = 0; j < columns; ++j) {
                const long double scaled = gradient(j) * norm.weight(j);
                dot += scaled * (norm.input(i, j) - m),
                    dot_size += std::abs(scaled * (norm.input(i, j) - m));
                sum += scaled, sum_size += std::abs(scaled);
              }
              const auto n = static_cast<long double>(columns);
              const long double back = r * r * r * dot / n, down = centered ? r * sum / n : 0;
              // The difference with the mean rounds once, the products twice, then the chain of the
              // sum.
              const long double back_error =
                  r * r * r / n * dot_size * (links + 4) * static_cast<long double>(u) +
                  4 * std::abs(back) * static_cast<long double>(u);
              const long double down_error =
                  centered ? r / n * sum_size * (links + 3) * static_cast<long double>(u) +
                                 2 * std::abs(down) * static_cast<long double>(u)
                           : 0;
              for (Index j = 0; j < columns; ++j) {
                const auto at = static_cast<std::size_t>(i * columns + j),
                           column = static_cast<std::size_t>(j);
                const long double value = norm.input(i, j) - m,
                                  direct = r * norm.weight(j) * gradient(j);
                const long double old = add ? static_cast<long double>(before[at]) : 0;
                const long double result = old + direct - value * back - down;
                const long double sizes =
                    std::abs(direct) + std::abs(value * back) + std::abs(down);
                wanted.push_back(result);
                // Two products, two differences of at most `sizes`, one addition.
                bound.push_back(
                    1.01 * static_cast<double>(std::abs(value) * back_error + down_error +
                                               sizes * 5 * static_cast<long double>(u) +
                                               std::abs(result) * static_cast<long double>(u)) +
                    static_cast<double>(std::abs(result)) * unit<T> + least<T>);
                wanted_w[column] += gradient(j) * value * r,
                    size_w[column] += static_cast<double>(std::abs(gradient(j) * value * r));
                wanted_b[column] += gradient(j),
                    size_b[column] += static_cast<double>(std::abs(gradient(j)));
              }
            }
            CHECK(worst_share(dx, wanted, [&](std::size_t i) { return bound[i]; }) <= 1);
            const auto check_weight = [&](const auto& got, auto exact_sum, const auto& size,
                                          const auto& start) {
              for (std::size_t j = 0; add && j < exact_sum.size(); ++j)
                exact_sum[j] += static_cast<long double>(start[j]);
              // A difference and two products, 16 rows, and 2 units of all sizes for each of two
              // compensated sums: over slices and over their results.
              CHECK(worst_share(got, exact_sum, [&](std::size_t j) {
                      const double all =
                          size[j] + (add ? std::abs(static_cast<double>(start[j])) : 0);
                      return 1.01 * all * (3 + 16 + 2 + 2) * u +
                             std::abs(static_cast<double>(exact_sum[j])) * unit<T> + least<T>;
                    }) <= 1);
            };
            check_weight(dw, wanted_w, size_w, before_w);
            if (centered) check_weight(db, wanted_b, size_b, before_b);
          }
        }
  });
}

TEST_CASE("partial sums of many rows have the accuracy of twice the precision") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for (const Index count : {0, 1, 9, 150})
      for (const bool add : {false, true}) {
        INFO(count << " rows, add " << add);
        const Index columns = 45;
        // Even columns are random. In odd columns every row but the first is half a unit of the
        // first, so that a plain sum would lose it.
        auto values = random_values<float>(count * columns, 1);
        for (std::size_t i = 0; i < values.size(); ++i)
          if (i % 45 % 2 == 1) values[i] = i < 45 ? 16.0f : 0x1p-20f;
        const auto before = random_values<T>(columns, 2);
        const simt::Buffer<float> shares(values);
        const auto got = in_all_schedules([&](auto& launch) {
          DeviceMatrix<T> to =
              add ? DeviceMatrix<T>(1, columns, {0, 0}, before) : DeviceMatrix<T>(1, columns);
          dropbp::cuda::detail::sum_shares(launch, to.data(), add, shares.data(), count, columns);
          return to.values();
        });
        std::vector<long double> wanted(got.size());
        std::vector<double> sizes(got.size());
        for (std::size_t j = 0; j < wanted.size(); ++j) {
          if (add)
            wanted[j] = static_cast<long double>(before[j]),
            sizes[j] = std::abs(static_cast<double>(before[j]));
          for (std::size_t i = j; i < values.size(); i += wanted.size())
            wanted[j] += static_cast<long double>(values[i]),
                sizes[j] += std::abs(static_cast<double>(values[i]));
        }
        // Two compensated sums, each with 2 units of all sizes for any number of rows.
        CHECK(worst_share(got, wanted, [&](std::size_t j) {
                return 1.01 * 4 * float_unit * sizes[j] +
                       std::abs(static_cast<double>(wanted[j])) * unit<T> + least<T>;
              }) <= 1);
      }
  });
}

TEST_CASE("RMSNorm has the CPU's bits where every sum is exact") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    namespace ops = dropbp::ops;
    for (const Shape shape : {Shape{3, 64}, Shape{19, 16}, Shape{2, 4096}})
      for (const Layout& layout : {layouts[0], layouts[2]}) {
        const Index rows = shape.rows, columns = shape.columns;
        // All elements are 2 or -2, so rstd is 1/2.
        auto x = random_integers(rows * columns, 1, 100);
        for (float& value : x) value = value < 0 ? -2.0f : 2.0f;
        const auto w = random_integers(columns, 2, 4), dy = random_integers(rows * columns, 3, 8),
                   before = random_integers(rows * columns, 4, 8);

        ops::Parameter<float> weight("w", 1, columns);
        std::copy(w.begin(), w.end(), weight.value().data);
        std::vector<float> y(x.size()), rstd(static_cast<std::size_t>(rows)), dx = before;
        ops::MemoryPool pool;
        ops::rms_norm_forward<float>({y.data(), rows, columns}, rstd.data(),
                                     {x.data(), rows, columns}, w.data(), 0.0);
        ops::rms_norm_backward<float>({dx.data(), rows, columns}, ops::Accumulate::add,
                                      {dy.data(), rows, columns}, {x.data(), rows, columns}, weight,
                                      rstd.data(), pool);
        const std::vector<float> dw(weight.gradient().data, weight.gradient().data + columns);

        simt::Launcher launch(9);
        DeviceMatrix<T> x_device(rows, columns, layout, x), y_device(rows, columns, layout),
            w_device(1, columns, {0, layout.shift}, w), dy_device(rows, columns, layout, dy),
            dx_device(rows, columns, layout, before), dw_device(1, columns, {0, 0});
        simt::Buffer<float> rstd_device(rstd.size()),
            workspace(
                static_cast<std::size_t>(dropbp::cuda::rms_norm_backward_workspace(rows, columns)));
        const T* const weights = w_device.data();
        dropbp::cuda::rms_norm_forward(launch, y_device.rows(), rstd_device.data(), x_device.rows(),
                                       weights, rows, columns, 0.0);
        dropbp::cuda::rms_norm_backward(launch, dx_device.rows(), true, dy_device.rows(),
                                        x_device.rows(), weights, rstd_device.data(),
                                        dw_device.data(), false, workspace.data(), rows, columns);
        CHECK(same_bits(rstd_device.host(), rstd));
        CHECK(same_bits(y_device.values(), to_floats(to_scalars<T>(y))));
        CHECK(same_bits(dx_device.values(), to_floats(to_scalars<T>(dx))));
        CHECK(same_bits(dw_device.values(), to_floats(to_scalars<T>(dw))));
      }
  });
}
