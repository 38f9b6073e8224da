// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Kernels over rows in 8 bits give the codes, scales and values of the CPU's, and linear maps over
// such a base its outputs, with and without products in 8 bits.
#include <cmath>
#include <limits>
#include <utility>

#include "dropbp/kernels/cuda/fp8.hpp"
#include "dropbp/ops/projection.hpp"
#include "simt_test.hpp"
#include "support/emulated.hpp"

using namespace dropbp::test;
using dropbp::BFloat16;
using dropbp::Half;

namespace {

namespace ops = dropbp::ops;

// Rows of different sizes; one of zeros, and some that are not finite.
template <class T>
std::vector<float> rows_of_values(Index rows, Index columns, bool finite) {
  auto values = random_values<T>(rows * columns, 1);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < columns; ++j) {
      float& value = values[static_cast<std::size_t>(i * columns + j)];
      value = i == 3 ? 0.0f : std::ldexp(value, static_cast<int>(i * 5 % 17) - 9);
      value = dropbp::cuda::to_float(dropbp::cuda::from_float<T>(value));
    }
  if (finite) return values;
  for (const auto& [row, bad] : {std::pair<Index, float>{1, std::nanf("")},
                                 {2, std::numeric_limits<float>::infinity()},
                                 {5, -std::numeric_limits<float>::infinity()}})
    if (row < rows && columns > 0)
      values[static_cast<std::size_t>(row * columns + columns / 2)] = bad;
  return values;
}

Index padded(Index columns) { return (columns + 15) / 16 * 16; }

std::vector<float> as_floats(const std::vector<std::uint8_t>& codes) {
  return {codes.begin(), codes.end()};
}

struct Rounded {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
};

// By the CPU.
Rounded rounded_rows(const std::vector<float>& values, Index rows, Index columns) {
  const Index stride = padded(columns);
  Rounded result{std::vector<std::uint8_t>(static_cast<std::size_t>(rows * stride)),
                 std::vector<float>(static_cast<std::size_t>(rows))};
  ops::kernels<ops::op::fp8, float, dropbp::Cpu>::quantize(
      {result.codes.data(), rows, stride}, result.scales.data(), {values.data(), rows, columns});
  return result;
}

struct Shape {
  Index rows, columns;
};
constexpr Shape shapes[] = {{1, 1}, {6, 5}, {2, 64}, {9, 24}, {3, 9000}, {0, 8}, {4, 0}};

}  // namespace

TEST_CASE("rows in 8 bits have the codes and scales of the CPU's, a row with NaN too") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for (const auto& [rows, columns] : shapes)
      for (const Layout& layout : layouts) {
        INFO("[" << rows << ", " << columns << "], " << text(layout));
        const auto values = rows_of_values<T>(rows, columns, false);
        const Rounded wanted = rounded_rows(values, rows, columns);
        const Index stride = padded(columns);
        const auto got = in_all_schedules([&](auto& launch) {
          DeviceMatrix<T> x(rows, columns, layout, values);
          simt::Buffer<std::uint8_t> codes(wanted.codes.size());
          simt::Buffer<float> scales(wanted.scales.size());
          dropbp::cuda::fp8_quantize<T>(launch, {codes.data(), stride}, scales.data(), x.rows(),
                                        rows, columns, stride);
          return joined(as_floats(codes.host()), scales.host());
        });
        CHECK(same_bits(got, joined(as_floats(wanted.codes), wanted.scales)));
      }
  });
}

TEST_CASE("rows in 8 bits expand to the CPU's values, from any row on") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for (const auto& [rows, columns] : shapes)
      for (const Layout& layout : layouts) {
        INFO("[" << rows << ", " << columns << "], " << text(layout));
        const auto values = rows_of_values<T>(rows, columns, true);
        const Rounded rounded = rounded_rows(values, rows, columns);
        const Index stride = padded(columns), first = rows / 2, count = rows - first;
        // The codes may start at any byte.
        const simt::Buffer<std::uint8_t> codes(rounded.codes, layout.shift);
        const simt::Buffer<float> scales(rounded.scales);
        const auto got = in_all_schedules([&](auto& launch) {
          DeviceMatrix<T> y(count, columns, layout);
          dropbp::cuda::fp8_expand(launch, y.rows(), {codes.data() + first * stride, stride},
                                   scales.data() + first, count, columns);
          CHECK(y.gaps_are_poison());
          return y.values();
        });
        std::vector<float> wanted(static_cast<std::size_t>(count * columns));
        ops::kernels<ops::op::fp8, float, dropbp::Cpu>::expand(
            {wanted.data(), count, columns}, {rounded.codes.data() + first * stride, count, stride},
            rounded.scales.data() + first);
        CHECK(same_bits(got, to_floats(to_scalars<T>(wanted))));
      }
  });
}

TEST_CASE("products are scaled by rows and columns in place, or added with one rounding") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for (const auto& [rows, columns] : shapes)
      for (const Layout& layout : layouts)
        for (const bool add : {false, true}) {
          INFO("[" << rows << ", " << columns << "], " << text(layout) << ", add " << add);
          const auto product = random_values<T>(rows * columns, 1, -9, 9),
                     old = random_values<T>(rows * columns, 2);
          std::vector<float> row_scales, column_scales, wanted;
          for (Index i = 0; i < rows; ++i)
            row_scales.push_back(std::ldexp(1.0f, static_cast<int>(i % 5) - 3));
          for (Index j = 0; j < columns; ++j)
            column_scales.push_back(std::ldexp(1.0f, static_cast<int>(j % 3) - 1));
          for (Index i = 0; i < rows; ++i)
            for (Index j = 0; j < columns; ++j) {
              const auto at = static_cast<std::size_t>(i * columns + j);
              const float scaled = product[at] * row_scales[static_cast<std::size_t>(i)] *
                                   column_scales[static_cast<std::size_t>(j)];
              wanted.push_back(add ? old[at] + scaled : scaled);
            }
          const simt::Buffer<float> of_rows(row_scales), of_columns(column_scales);
          const auto got = in_all_schedules([&](auto& launch) {
            DeviceMatrix<T> y(rows, columns, layout, add ? old : product),
                from(rows, columns, layout, product);
            dropbp::cuda::fp8_scale(launch, y.rows(), add ? from.rows() : y.rows(), of_rows.data(),
                                    of_columns.data(), rows, columns, add);
            CHECK(y.gaps_are_poison());
            return y.values();
          });
          CHECK(same_bits(got, to_floats(to_scalars<T>(wanted))));
        }
  });
}

namespace {

// Of a linear map in 8 bits.
struct Passes {
  std::vector<float> outputs, dx;  // overwritten and added; the gradient of the input
};
template <class T, class Backend>
Passes passes() {
  const Index rows = 7, columns = 70, outputs = 48;
  ops::Projection<T, Backend> map(
      {{"gate_proj.weight", 32}, {"up_proj.weight", 16}}, columns,
      {.rank = 1, .quantize = true, .format = ops::QuantizedFormat::fp8},
      ops::BasicMemoryPool<Backend>(ops::PoolFill::nan));
  const auto weights = random_values<T>(outputs * columns, 3),
             x = random_values<T>(rows * columns, 4), dy = random_values<T>(rows * outputs, 5),
             a = random_values<T>(columns, 6);
  const auto a2 = random_values<T>(2 * columns, 8);
  map.set_weight(0, {weights.data(), 32, columns});
  map.set_weight(1, {weights.data() + 32 * columns, 16, columns});
  ops::upload<T, Backend>(map.lora_a.value(), {a2.data(), 2, columns});
  ops::upload<T, Backend>(map.lora_b.value(), {a.data(), outputs, 1});
  ops::Matrix<T, Backend> in(rows, columns), y(rows, outputs), sum(rows, outputs), u(rows, 2),
      grad(rows, outputs), dx(rows, columns);
  ops::upload<T, Backend>(in.view(), {x.data(), rows, columns});
  ops::upload<T, Backend>(grad.view(), {dy.data(), rows, outputs});
  ops::upload<T, Backend>(sum.view(), {dy.data(), rows, outputs});
  map.forward(y.view(), in.view(), ops::Accumulate::overwrite, u.view());
  map.forward(sum.view(), in.view(), ops::Accumulate::add, u.view());
  map.backward_input(dx.view(), grad.view(), map.adapter_gradient(grad.view()));
  const auto values_of = [](const ops::Matrix<T, Backend>& one) {
    std::vector<float> values(one.size());
    ops::download<const T, Backend>({values.data(), one.rows(), one.columns()}, one.view());
    return values;
  };
  return {joined(values_of(y), values_of(sum)), values_of(dx)};
}

// The gradient is a sum over three products, in another order than on the CPU.
template <class T>
bool is_close(const std::vector<float>& got, const std::vector<float>& wanted) {
  return worst_share(got, wanted, [&](std::size_t i) {
           return 4 * unit<T> * (4 + std::abs(static_cast<double>(wanted[i])));
         }) <= 1;
}

}  // namespace

TEST_CASE("a linear map in 8 bits has the CPU's bits, with products in 8 bits and without") {
  // Scales are powers of two, so that it is the same to apply them before the sum or after it.
  const auto wanted = passes<float, dropbp::Cpu>();
  for (const bool multiplies : {true, false}) {
    Emulated::multiplies_fp8() = multiplies;
    const std::size_t quantized = simt::kernels_run()["fp8_quantize"],
                      expanded = simt::kernels_run()["fp8_expand"];
    const auto got = passes<float, Emulated>();
    CHECK(same_bits(got.outputs, wanted.outputs));
    CHECK(is_close<float>(got.dx, wanted.dx));
    // Two forward passes, each once for both maps. Expanded are the maps of the backward pass and,
    // without products, inputs and maps of the forward passes.
    CHECK(simt::kernels_run()["fp8_quantize"] == quantized + 2);
    CHECK(simt::kernels_run()["fp8_expand"] == expanded + (multiplies ? 2 : 2 + 2 * 4));
    const auto narrow = passes<BFloat16, Emulated>(), exact = passes<BFloat16, dropbp::Cpu>();
    CHECK(is_close<BFloat16>(narrow.outputs, exact.outputs));
    CHECK(is_close<BFloat16>(narrow.dx, exact.dx));
  }
  Emulated::multiplies_fp8() = true;
}
