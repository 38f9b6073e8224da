// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Kernels over whole weights and gradients: 4-bit weights have the bits of the CPU's; AdamW and
// norms stay within their accumulated rounding errors.
#include <cmath>
#include <memory>

#include "dropbp/kernels/cuda/adamw.hpp"
#include "dropbp/kernels/cuda/nf4.hpp"
#include "dropbp/kernels/cuda/squared_norms.hpp"
#include "dropbp/ops/adamw.hpp"
#include "dropbp/ops/nf4.hpp"
#include "simt_test.hpp"
#include "support/emulated.hpp"

using namespace dropbp::test;
using dropbp::BFloat16;
using dropbp::Half;

namespace {

namespace ops = dropbp::ops;

dropbp::cuda::Nf4Tables tables() {
  dropbp::cuda::Nf4Tables result;
  std::copy(ops::detail::nf4_values.begin(), ops::detail::nf4_values.end(), result.values);
  std::copy(ops::detail::dynamic_values.begin(), ops::detail::dynamic_values.end(), result.dynamic);
  return result;
}

template <class E>
std::vector<E> host_copy(const ops::Matrix<E>& matrix) {
  return {matrix.data(), matrix.data() + matrix.size()};
}

std::vector<dropbp::cuda::ExactSum> joined_sums(std::vector<dropbp::cuda::ExactSum> a,
                                                const std::vector<dropbp::cuda::ExactSum>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

TEST_CASE("4-bit weights expand to the bits of the CPU's, starting at any row") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    struct Case {
      Index rows, columns;
    };
    // Blocks that end at the end of a row and within a row, odd starts, an odd number of elements,
    // and more than 256 blocks.
    for (const Case c : {Case{1, 1}, Case{3, 64}, Case{5, 33}, Case{7, 96}, Case{9, 31},
                         Case{131, 160}, Case{2, 8256}}) {
      auto values = random_values<float>(c.rows * c.columns, 1, -0.05, 0.05);
      for (std::size_t i = 0; i < values.size(); i += 301)
        values[i] *= 20;  // blocks of different scales
      const ops::Nf4Matrix matrix = ops::Nf4Matrix::quantize({values.data(), c.rows, c.columns});
      for (const Layout& layout : layouts)
        for (const Index first : {Index{0}, Index{1}, c.rows / 2, c.rows}) {
          if (first > c.rows || (c.rows > 100 && layout.gap != 0 && first != 1)) continue;
          const Index rows = c.rows - first;
          INFO("[" << c.rows << ", " << c.columns << "] from row " << first << ", "
                   << text(layout));
          // The codes may start at any byte.
          const simt::Buffer<std::uint8_t> codes(host_copy(matrix.codes()), layout.shift),
              scales(host_copy(matrix.scales()));
          const simt::Buffer<float> group_scales(host_copy(matrix.group_scales()));
          const auto got = in_all_schedules([&](auto& launch) {
            DeviceMatrix<T> y(rows, c.columns, layout);
            dropbp::cuda::nf4_expand(launch, y.rows(), codes.data(), scales.data(),
                                     group_scales.data(), matrix.offset(), tables(), first, rows,
                                     c.columns);
            CHECK(y.gaps_are_poison());
            return y.values();
          });
          std::vector<float> wanted(static_cast<std::size_t>(rows * c.columns));
          matrix.dequantize_rows<float>(first, rows, {wanted.data(), rows, c.columns});
          CHECK(same_bits(got, to_floats(to_scalars<T>(wanted))));
        }
    }
  });
}

TEST_CASE("a copy of 4-bit weights on a device has memory of its own and the same values") {
  auto values = random_values<float>(9 * 33, 1, -0.05, 0.05);
  auto matrix = ops::BasicNf4Matrix<Emulated>::quantize({values.data(), 9, 33});
  const auto expanded = [](const auto& quantized) {
    ops::Matrix<float, Emulated> result(9, 33);
    quantized.dequantize(result.view());
    return std::vector<float>(result.data(), result.data() + result.size());
  };
  const std::vector<float> wanted = expanded(matrix);
  const auto copy = matrix.clone();
  matrix = {};
  CHECK(same_bits(expanded(copy), wanted));
}

TEST_CASE(
    "AdamW updates all segments in one launch as the CPU does, and leaves other parameters "
    "unchanged") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    constexpr bool has_master = !std::is_same_v<T, float>;
    const ops::AdamWOptions options{.learning_rate = 3e-3, .weight_decay = 0.1};
    const double factor = 0.37;
    for (const std::size_t shift : {std::size_t{0}, std::size_t{1}}) {
      INFO("shift " << shift);
      const Index sizes[] = {1, 16387, 0, 8192, 333, 8};
      struct Segment {
        std::vector<float> value, gradient, m, v;
        std::uint64_t steps;
      };
      std::vector<Segment> host;
      for (const Index size : sizes) {
        const auto seed = host.size();
        host.push_back({random_values<T>(size, 10 + seed), random_values<T>(size, 20 + seed),
                        random_values<float>(size, 30 + seed, -0.1, 0.1),
                        random_values<float>(size, 40 + seed, 0, 0.01), 3 * seed});
      }
      std::vector<std::vector<float>> values, masters, ms, vs;
      in_all_schedules([&](auto& launch) {
        std::vector<std::unique_ptr<DeviceMatrix<T>>> value, gradient;
        std::vector<std::unique_ptr<simt::Buffer<float>>> master, m, v;
        std::vector<dropbp::ops::AdamWSegment<T>> segments;
        Index chunks = 0;
        for (std::size_t i = 0; i < host.size(); ++i) {
          const Segment& s = host[i];
          const Index size = sizes[i];
          value.push_back(std::make_unique<DeviceMatrix<T>>(1, size, Layout{0, shift}, s.value));
          gradient.push_back(
              std::make_unique<DeviceMatrix<T>>(1, size, Layout{0, shift}, s.gradient));
          master.push_back(std::make_unique<simt::Buffer<float>>(
              has_master ? s.value : std::vector<float>{}, shift));
          m.push_back(std::make_unique<simt::Buffer<float>>(s.m, shift));
          v.push_back(std::make_unique<simt::Buffer<float>>(s.v));
          if (i == 4) continue;  // without a gradient
          const double t = static_cast<double>(s.steps + 1);
          segments.push_back(
              {.value = value[i]->data(),
               .gradient = gradient[i]->data(),
               .master = has_master ? master[i]->data() : nullptr,
               .first_moment = m[i]->data(),
               .second_moment = v[i]->data(),
               .size = size,
               .step_size =
                   static_cast<float>(options.learning_rate / (1 - std::pow(options.beta1, t))),
               .root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(options.beta2, t))),
               .keep = static_cast<float>(1 - options.learning_rate * options.weight_decay),
               .first_chunk = chunks});
          chunks += dropbp::cuda::update_chunks(size);
        }
        const simt::Buffer<dropbp::ops::AdamWSegment<T>> table(segments);
        const std::size_t before = simt::kernels_run()["adamw"];
        dropbp::cuda::adamw(
            launch, table.data(), static_cast<Index>(segments.size()), chunks,
            dropbp::ops::AdamWConstants<float>{.beta1 = static_cast<float>(options.beta1),
                                               .rest1 = static_cast<float>(1 - options.beta1),
                                               .beta2 = static_cast<float>(options.beta2),
                                               .rest2 = static_cast<float>(1 - options.beta2),
                                               .eps = static_cast<float>(options.eps),
                                               .factor = static_cast<float>(factor)});
        CHECK(simt::kernels_run()["adamw"] == before + 1);
        std::vector<float> all;
        values.clear(), masters.clear(), ms.clear(), vs.clear();
        for (std::size_t i = 0; i < host.size(); ++i) {
          CHECK(same_bits(gradient[i]->values(), host[i].gradient));
          values.push_back(value[i]->values()), masters.push_back(master[i]->host()),
              ms.push_back(m[i]->host()), vs.push_back(v[i]->host());
          all = joined(all, values[i], masters[i], ms[i], vs[i]);
        }
        return all;
      });
      for (std::size_t i = 0; i < host.size(); ++i) {
        INFO("segment " << i);
        const Segment& s = host[i];
        if (i == 4) {
          CHECK((same_bits(values[i], s.value) && same_bits(ms[i], s.m) && same_bits(vs[i], s.v)));
          if (has_master) CHECK(same_bits(masters[i], s.value));
          continue;
        }
        if (has_master) CHECK(same_bits(values[i], to_floats(to_scalars<T>(masters[i]))));
        ops::Parameter<float> parameter("w", 1, sizes[i]);
        std::copy(s.value.begin(), s.value.end(), parameter.value().data);
        parameter.begin_gradient();
        std::copy(s.gradient.begin(), s.gradient.end(), parameter.gradient().data);
        ops::AdamWState<float> state;
        state.first_moment = ops::Matrix<float>(1, sizes[i]),
        state.second_moment = ops::Matrix<float>(1, sizes[i]);
        std::copy(s.m.begin(), s.m.end(), state.first_moment.data()),
            std::copy(s.v.begin(), s.v.end(), state.second_moment.data());
        state.steps = s.steps;
        ops::adamw_update(parameter, state, options, factor);
        const auto size = sizes[i];
        const std::vector<float> wanted(parameter.value().data, parameter.value().data + size),
            m = host_copy(state.first_moment), v = host_copy(state.second_moment);
        // Twice the bounds of one element (scalar_test.cpp), because the CPU rounds too.
        const auto g = [&](std::size_t k) {
          return std::abs(0.1 * factor * static_cast<double>(s.gradient[k]));
        };
        const auto m_size = [&](std::size_t k) {
          return 0.9 * std::abs(static_cast<double>(s.m[k])) + g(k);
        };
        const double t = static_cast<double>(s.steps + 1),
                     step = options.learning_rate / (1 - std::pow(options.beta1, t));
        const double root = 1 / std::sqrt(1 - std::pow(options.beta2, t));
        CHECK(worst_share(ms[i], m,
                          [&](std::size_t k) { return 2.02 * 3 * float_unit * m_size(k); }) <= 1);
        CHECK(worst_share(vs[i], v, [&](std::size_t k) {
                return 2.02 * 5 * float_unit * static_cast<double>(v[k]);
              }) <= 1);
        CHECK(worst_share(has_master ? masters[i] : values[i], wanted, [&](std::size_t k) {
                const double down = std::sqrt(static_cast<double>(v[k])) * root + options.eps;
                const double change = std::abs(step * static_cast<double>(m[k]) / down),
                             value = std::abs(static_cast<double>(s.value[k]));
                return 2.02 * float_unit * (step / down * 3 * m_size(k) + 8.5 * change + 2 * value);
              }) <= 1);
      }
    }
  });
}

TEST_CASE("a sum of partial sums keeps the digits that float rounds off") {
  dropbp::cuda::ExactSum sum{0.0f, 0.0f};
  dropbp::cuda::detail::add_exactly(sum, 1e8f);  // here floats are 8 apart
  for (int i = 0; i < 1000; ++i) dropbp::cuda::detail::add_exactly(sum, 1.0f);
  CHECK(sum.value() == 100001000.0);
}

TEST_CASE("squared norms of many tensors and a squared distance take two launches") {
  for_each_scalar([](auto zero) {
    using T = decltype(zero);
    for (const bool integers : {true, false})
      for (const std::size_t shift : {std::size_t{0}, std::size_t{1}}) {
        INFO("integers " << integers << ", shift " << shift);
        // Includes empty tensors. A chunk has 65,536 elements.
        const Index sizes[] = {0, 1, 65536, 0, 65539, 7, 65545, 0};
        constexpr std::size_t count = std::size(sizes);
        std::vector<std::unique_ptr<DeviceMatrix<T>>> tensors;
        std::vector<std::vector<float>> values;
        std::vector<dropbp::cuda::NormSegment<T>> segments;
        std::vector<std::int64_t> starts;
        Index chunks = 0;
        for (std::size_t i = 0; i < count; ++i) {
          values.push_back(integers ? random_integers(sizes[i], i, 8)
                                    : random_values<T>(sizes[i], i, -3, 3));
          tensors.push_back(
              std::make_unique<DeviceMatrix<T>>(1, sizes[i], Layout{0, shift}, values[i]));
          segments.push_back({tensors[i]->data(), sizes[i], chunks});
          starts.push_back(chunks);
          chunks += dropbp::cuda::norm_chunks(sizes[i]);
        }
        starts.push_back(chunks);
        const simt::Buffer<dropbp::cuda::NormSegment<T>> table(segments);
        const simt::Buffer<std::int64_t> bounds(starts), two(std::vector<std::int64_t>{0, 2});
        const Index n = sizes[4];
        std::vector<double> got;
        in_all_schedules([&](auto& launch) {
          simt::Buffer<dropbp::cuda::ExactSum> sums(count), distance(1);
          simt::Buffer<float> partial(static_cast<std::size_t>(chunks)), partial_distance(2);
          const std::size_t before = simt::kernels_run()["squared_norms"];
          dropbp::cuda::squared_norms(launch, sums.data(), table.data(), bounds.data(),
                                      static_cast<Index>(count), chunks, partial.data());
          CHECK(simt::kernels_run()["squared_norms"] == before + 1);
          const T* const x = tensors[4]->data();
          const T* const y = tensors[6]->data();
          dropbp::cuda::squared_distance(launch, distance.data(), x, y, n, two.data(),
                                         partial_distance.data());
          got.clear();
          std::vector<float> bits;
          for (const auto& sum : joined_sums(sums.host(), distance.host()))
            got.push_back(sum.value()), bits.push_back(sum.high), bits.push_back(sum.low);
          return bits;
        });
        std::vector<long double> wanted;
        for (const auto& tensor : values) {
          wanted.push_back(0);
          for (const float x : tensor)
            wanted.back() += static_cast<long double>(x) * static_cast<long double>(x);
        }
        wanted.push_back(0);
        for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
          const long double difference =
              static_cast<long double>(values[4][i]) - static_cast<long double>(values[6][i]);
          wanted.back() += difference * difference;
        }
        // Additions in a row: in a thread 65,536 / 512, or packs and then their elements; in the
        // block 5 and 16; plus the product, and the difference, which is squared. All terms are
        // positive. The sum over chunks is exact to 2^-44.
        const double links = (shift == 0 ? 65536.0 / 512 / 4 / dropbp::cuda::full_width<T> +
                                               dropbp::cuda::full_width<T> + 3
                                         : 128) +
                             21 + 1 + 2;
        CHECK(worst_share(got, wanted, [&](std::size_t i) {
                return integers ? 0.0 : 1.01 * static_cast<double>(wanted[i]) * links * float_unit;
              }) <= 1);
      }
  });
}
