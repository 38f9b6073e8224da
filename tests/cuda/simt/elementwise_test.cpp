// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Each of these kernels rounds once, so every bit is known: the operation in float, rounded to the
// type.
#include "dropbp/kernels/cuda/elementwise.hpp"
#include "dropbp/kernels/cuda/dropout.hpp"

#include "dropbp/backend/cpu/kernels.hpp"
#include "dropbp/ops/dropout.hpp"
#include "simt_test.hpp"

using namespace dropbp::test;
using dropbp::BFloat16;
using dropbp::Half;

namespace {

struct Shape {
  Index rows, columns;
};
// One element; odd sizes; 16-byte packs, fewer and more than a block's 4 x 256; one element less
// than that.
constexpr Shape shapes[] = {{1, 1},    {3, 5},    {2, 64}, {19, 24},
                            {2, 8232}, {1, 4099}, {0, 8},  {4, 0}};

// Calls f(shape, layout of y, layout of x): all layouts for both, and two pairs of different
// layouts.
template <class F>
void for_each_case(const F& f) {
  for (const Shape shape : shapes)
    for (std::size_t i = 0; i < 6; ++i) {
      const Layout of_y = layouts[i % 4], of_x = i < 4 ? of_y : layouts[6 - i];
      if (shape.rows * shape.columns > 2000 && i % 4 == 3) continue;
      INFO("[" << shape.rows << ", " << shape.columns << "], y: " << text(of_y)
               << ", x: " << text(of_x));
      f(shape, of_y, of_x);
    }
}

template <class T>
std::vector<float> rounded(std::vector<float> values) {
  for (float& value : values) value = dropbp::cuda::to_float(dropbp::cuda::from_float<T>(value));
  return values;
}

}  // namespace

TEST_CASE("rows are copied, zeroed, added and scaled") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for_each_case([](Shape shape, Layout of_y, Layout of_x) {
      const Index rows = shape.rows, columns = shape.columns, size = rows * columns;
      const auto y0 = random_values<T>(size, 1), x0 = random_values<T>(size, 2, -300, 300);
      DeviceMatrix<T> x(rows, columns, of_x, x0);
      const auto check = [&](auto run, std::vector<float> wanted, bool starts_as_poison) {
        const auto got = in_all_schedules([&](auto& launch) {
          DeviceMatrix<T> y = starts_as_poison ? DeviceMatrix<T>(rows, columns, of_y)
                                               : DeviceMatrix<T>(rows, columns, of_y, y0);
          run(launch, y);
          CHECK(y.gaps_are_poison());
          return y.values();
        });
        CHECK(same_bits(got, rounded<T>(wanted)));
        CHECK(same_bits(x.values(), x0));
      };
      check([&](auto& launch,
                auto& y) { dropbp::cuda::copy(launch, y.rows(), x.rows(), rows, columns); },
            x0, true);
      check([&](auto& launch, auto& y) { dropbp::cuda::set_zero(launch, y.rows(), rows, columns); },
            std::vector<float>(y0.size(), 0.0f), true);
      auto sum = y0;
      dropbp::backend_kernels<dropbp::Cpu, float>::accumulate(sum.data(), x0.data(), sum.size());
      check([&](auto& launch,
                auto& y) { dropbp::cuda::accumulate(launch, y.rows(), x.rows(), rows, columns); },
            sum, false);
      auto scaled = y0;
      dropbp::backend_kernels<dropbp::Cpu, float>::scale(scaled.data(), 1.0 / 3.0, scaled.size());
      check(
          [&](auto& launch, auto& y) {
            dropbp::cuda::scale(launch, y.rows(), static_cast<float>(1.0 / 3.0), rows, columns);
          },
          scaled, false);
    });
  });
}

TEST_CASE("parts are added in float, in their order") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for (const Index count : {1, 2, 5})
      for (const Shape shape : shapes)
        for (const Layout layout : layouts)
          for (const std::size_t shift : {0u, 1u}) {
            const Index size = shape.rows * shape.columns;
            if (size > 2000 && shift == 1) continue;
            INFO(count << " parts of [" << shape.rows << ", " << shape.columns
                       << "], y: " << text(layout) << ", shift " << shift);
            const auto x0 = random_values<T>(count * size, 7, -300, 300);
            DeviceMatrix<T> parts(1, count * size, {0, shift}, x0);
            std::vector<float> sum(static_cast<std::size_t>(size), 0.0f);
            for (std::size_t i = 0; i < x0.size(); ++i) sum[i % sum.size()] += x0[i];
            const auto got = in_all_schedules([&](auto& launch) {
              DeviceMatrix<T> y(shape.rows, shape.columns, layout);
              dropbp::cuda::add_parts(launch, y.rows(), parts.data(), count, shape.rows,
                                      shape.columns);
              CHECK(y.gaps_are_poison());
              return y.values();
            });
            CHECK(same_bits(got, rounded<T>(sum)));
          }
  });
}

TEST_CASE("arrays without rows are accumulated and scaled, including elements that fill no pack") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for (const Index n : {0, 1, 3, 8, 31, 1024, 8192, 8197, 16411})
      for (const std::size_t shift : {0u, 1u}) {
        INFO(n << " elements, shift " << shift);
        const auto y0 = random_values<T>(n, 3), x0 = random_values<T>(n, 4);
        DeviceMatrix<T> x(1, n, {0, shift}, x0);
        const auto got = in_all_schedules([&](auto& launch) {
          DeviceMatrix<T> y(1, n, {0, 0}, y0), z(1, n, {0, shift}, y0);
          dropbp::cuda::accumulate(launch, y.data(), x.data(), static_cast<std::size_t>(n));
          dropbp::cuda::scale(launch, z.data(), 0.7f, static_cast<std::size_t>(n));
          return joined(y.values(), z.values());
        });
        auto sum = y0, scaled = y0;
        dropbp::backend_kernels<dropbp::Cpu, float>::accumulate(sum.data(), x0.data(), sum.size());
        dropbp::backend_kernels<dropbp::Cpu, float>::scale(scaled.data(), 0.7, scaled.size());
        CHECK(same_bits(got, rounded<T>(joined(sum, scaled))));
      }
  });
}

TEST_CASE("kernels with no rows or no columns are not launched") {
  const std::size_t before =
      simt::kernels_run()["add"] + simt::kernels_run()["dropout"] + simt::kernels_run()["convert"];
  simt::Launcher launch;
  float* const none = nullptr;
  dropbp::cuda::accumulate(launch, none, none, 0);
  dropbp::cuda::accumulate(launch, Rows<float>{none, 4}, Rows<float>{none, 4}, 0, 4);
  dropbp::cuda::accumulate(launch, Rows<float>{none, 0}, Rows<float>{none, 0}, 4, 0);
  dropbp::cuda::dropout(launch, Rows<float>{none, 0}, Rows<float>{none, 0}, 4, 0, 0.5, 1, 1, 1);
  dropbp::cuda::convert(launch, Rows<float>{none, 0}, Rows<const Half>{nullptr, 0}, 4, 0);
  CHECK(simt::kernels_run()["add"] + simt::kernels_run()["dropout"] +
            simt::kernels_run()["convert"] ==
        before);
}

TEST_CASE("conversion to another type and back") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for_each_case([](Shape shape, Layout of_y, Layout of_x) {
      const Index rows = shape.rows, columns = shape.columns;
      const auto values = random_values<float>(rows * columns, 5, -100, 100);
      DeviceMatrix<float> x(rows, columns, of_x, values);
      const auto got = in_all_schedules([&](auto& launch) {
        DeviceMatrix<T> y(rows, columns, of_y);
        DeviceMatrix<float> back(rows, columns, of_x);
        dropbp::cuda::convert(launch, y.rows(), Rows<const float>(x.rows()), rows, columns);
        dropbp::cuda::convert(launch, back.rows(), Rows<const T>(y.rows()), rows, columns);
        CHECK((y.gaps_are_poison() && back.gaps_are_poison()));
        CHECK(same_bits(back.values(), y.values()));
        return y.values();
      });
      CHECK(same_bits(got, rounded<T>(values)));
    });
  });
}

TEST_CASE("the device's Philox equals the library's") {
  std::mt19937 random(7);
  for (int i = 0; i < 10000; ++i) {
    const auto word = [&] { return static_cast<std::uint32_t>(random()); };
    const dropbp::PhiloxCounter counter{word(), word(), word(), word()};
    const dropbp::PhiloxKey key{word(), word()};
    const auto wanted = dropbp::philox4x32(counter, key);
    const auto got = dropbp::cuda::detail::philox(counter[0], counter[1], counter[2], counter[3],
                                                  key[0], key[1]);
    for (std::size_t k = 0; k < 4; ++k) REQUIRE(got.words[k] == wanted[k]);
  }
}

TEST_CASE("dropout has the CPU's masks bit for bit, also in place") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for_each_case([](Shape shape, Layout of_y, Layout of_x) {
      const Index rows = shape.rows, columns = shape.columns;
      const auto x0 = random_values<T>(rows * columns, 6, 0.5, 2);
      const dropbp::ops::MicroStepId id{
          .seed = 0x123456789ABCDEFu, .step = 0x1FFFFFFFFu, .micro_step = 3};
      const std::uint64_t stream = 0xFEDCBA9876543210u;
      for (const double rate : {0.0, 0.75}) {
        auto wanted = x0;
        dropbp::ops::dropout<float>({wanted.data(), rows, columns}, {x0.data(), rows, columns},
                                    rate, id, stream);
        const auto got = in_all_schedules([&](auto& launch) {
          DeviceMatrix<T> x(rows, columns, of_x, x0), y(rows, columns, of_y);
          const auto drop = [&](auto& to) {
            dropbp::cuda::dropout(launch, to.rows(), x.rows(), rows, columns, rate,
                                  id.seed ^ stream, id.step, id.micro_step);
            CHECK(to.gaps_are_poison());
            return to.values();
          };
          const auto apart = drop(y);
          CHECK(same_bits(x.values(), x0));
          CHECK(same_bits(drop(x), apart));
          return apart;
        });
        CHECK(same_bits(got, rounded<T>(wanted)));
      }
    });
  });
}
