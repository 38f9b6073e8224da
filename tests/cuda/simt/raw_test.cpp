// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Every function of raw.hpp and each of its cases, beside plain loops in double; and what it
// refuses. examples/cuda/llmc_style.cu, which simt.raw_cuda runs, uses only some of them.
#include "dropbp/kernels/cuda/raw_kernels.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "support/catch.hpp"
#include "support/emulated.hpp"
#include "support/throws.hpp"

DROPBP_INSTANTIATE_RAW(float, Emulated)
DROPBP_INSTANTIATE_RAW(__nv_bfloat16, Emulated)
DROPBP_INSTANTIATE_RAW(__half, Emulated)

namespace {

namespace raw = dropbp::raw;
using Floats = std::vector<float>;

constexpr std::size_t rows = 5, columns = 24, elements = rows * columns;
constexpr double eps = 0.25;  // large enough to be seen in the results

Floats numbers(std::size_t count, int seed) {
  Floats result;
  for (std::size_t i = 0; i < count; ++i)
    result.push_back(static_cast<float>(std::sin(0.7 * static_cast<double>(i) + seed)) + 0.25f);
  return result;
}
double at(const Floats& x, std::size_t i) { return static_cast<double>(x[i]); }

void check_close(const Floats& got, const std::vector<double>& wanted) {
  REQUIRE(got.size() == wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO(i << ": " << got[i] << ", not " << wanted[i]);
    CHECK(std::abs(at(got, i) - wanted[i]) <= 2e-5 * (1 + std::abs(wanted[i])));
  }
}
std::vector<double> wide(const Floats& x) { return {x.begin(), x.end()}; }

/// The norm of each row: a LayerNorm, or an RMSNorm.
struct Norm {
  std::vector<double> mean, rstd;

  Norm(const std::vector<double>& x, bool layer_norm) : mean(rows), rstd(rows) {
    for (std::size_t row = 0; row < rows; ++row) {
      double square = 0.0;
      for (std::size_t c = 0; layer_norm && c < columns; ++c)
        mean[row] += x[row * columns + c] / columns;
      for (std::size_t c = 0; c < columns; ++c)
        square += std::pow(x[row * columns + c] - mean[row], 2) / columns;
      rstd[row] = 1 / std::sqrt(square + eps);
    }
  }
  double normed(const std::vector<double>& x, std::size_t i) const {
    return (x[i] - mean[i / columns]) * rstd[i / columns];
  }
};

}  // namespace

TEST_CASE("raw: the join adds in each type") {
  Floats y = numbers(elements, 1);
  const Floats x = numbers(elements, 2), before = y;
  raw::residual_join(y.data(), x.data(), elements, nullptr);
  for (std::size_t i = 0; i < elements; ++i) CHECK(y[i] == before[i] + x[i]);
  const auto check = [&](auto scalar, auto name) {
    using T = decltype(scalar);
    using Name = decltype(name);
    std::vector<T> to, from;
    for (std::size_t i = 0; i < elements; ++i) {
      to.push_back(dropbp::cuda::from_float<T>(before[i]));
      from.push_back(dropbp::cuda::from_float<T>(x[i]));
    }
    const std::vector<T> old = to;
    raw::residual_join(reinterpret_cast<Name>(to.data()), reinterpret_cast<Name>(from.data()),
                       elements, nullptr);
    for (std::size_t i = 0; i < elements; ++i)
      CHECK(dropbp::cuda::to_float(to[i]) ==
            dropbp::cuda::to_float(dropbp::cuda::from_float<T>(dropbp::cuda::to_float(old[i]) +
                                                               dropbp::cuda::to_float(from[i]))));
  };
  check(dropbp::BFloat16{}, static_cast<__nv_bfloat16*>(nullptr));
  check(dropbp::Half{}, static_cast<__half*>(nullptr));
}

TEST_CASE("raw: norms with and without a branch, a mean and trained weights") {
  const Floats branch = numbers(elements, 3), w = numbers(columns, 4), b = numbers(columns, 5),
               dy = numbers(elements, 6);
  for (const bool layer_norm : {true, false})
    for (const bool adds : {true, false}) {
      INFO("LayerNorm " << layer_norm << ", branch " << adds);
      Floats residual = numbers(elements, 7), out(elements), mean(rows), rstd(rows);
      std::vector<double> sum = wide(residual);
      for (std::size_t i = 0; adds && i < elements; ++i) sum[i] += at(branch, i);
      raw::add_norm_forward(out.data(), layer_norm ? mean.data() : nullptr, rstd.data(),
                            residual.data(), adds ? branch.data() : nullptr, w.data(),
                            layer_norm ? b.data() : nullptr, rows, columns, static_cast<float>(eps),
                            nullptr);
      const Norm norm(sum, layer_norm);
      std::vector<double> wanted(elements);
      for (std::size_t i = 0; i < elements; ++i)
        wanted[i] =
            norm.normed(sum, i) * at(w, i % columns) + (layer_norm ? at(b, i % columns) : 0.0);
      check_close(residual, sum);
      check_close(out, wanted);
      check_close(rstd, norm.rstd);
      if (layer_norm) check_close(mean, norm.mean);

      for (const bool trained : {true, false}) {
        INFO("trained " << trained);
        Floats dx = numbers(elements, 8), dw = numbers(columns, 9), db = numbers(columns, 10);
        std::vector<double> wanted_dx = wide(dx), wanted_dw = wide(dw), wanted_db = wide(db);
        for (std::size_t row = 0; row < rows; ++row) {
          double total = 0.0, dot = 0.0;
          for (std::size_t c = 0; c < columns; ++c) {
            const std::size_t i = row * columns + c;
            const double down = at(dy, i) * at(w, c);
            if (layer_norm) total += down / columns;
            dot += down * norm.normed(sum, i) / columns;
            if (!trained) continue;
            wanted_dw[c] += at(dy, i) * norm.normed(sum, i);
            if (layer_norm) wanted_db[c] += at(dy, i);
          }
          for (std::size_t i = row * columns; i < (row + 1) * columns; ++i)
            wanted_dx[i] += norm.rstd[row] *
                            (at(dy, i) * at(w, i % columns) - total - norm.normed(sum, i) * dot);
        }
        raw::norm_backward_join(
            dx.data(), dy.data(), residual.data(), w.data(), layer_norm ? mean.data() : nullptr,
            rstd.data(), trained ? dw.data() : nullptr, trained && layer_norm ? db.data() : nullptr,
            rows, columns, nullptr);
        check_close(dx, wanted_dx);
        check_close(dw, wanted_dw);
        check_close(db, wanted_db);
      }
    }
}

TEST_CASE("raw: each tensor has its own squared norm") {
  const std::vector<Floats> tensors{numbers(3, 1), numbers(70000, 2), {}, numbers(17, 3)};
  std::vector<raw::Tensor<float>> arguments;
  std::vector<double> wanted;
  for (const Floats& tensor : tensors) {
    arguments.push_back({tensor.data(), tensor.size()});
    double sum = 0.0;
    for (std::size_t i = 0; i < tensor.size(); ++i) sum += at(tensor, i) * at(tensor, i);
    wanted.push_back(sum);
  }
  std::vector<double> norms(tensors.size());
  raw::squared_norms(norms.data(), arguments.data(), arguments.size(), nullptr);
  for (std::size_t i = 0; i < norms.size(); ++i)
    CHECK(std::abs(norms[i] - wanted[i]) <= 1e-6 * wanted[i]);
  raw::squared_norms<float>(nullptr, nullptr, 0, nullptr);
}

TEST_CASE("raw: AdamW updates each part with its own step and decay") {
  constexpr raw::AdamWOptions options{.learning_rate = 0.01f,
                                      .beta1 = 0.9f,
                                      .beta2 = 0.95f,
                                      .eps = 0.05f,
                                      .weight_decay = 0.5f,
                                      .gradient_factor = 0.25f};
  struct Part {
    Floats value, gradient, m, v;
    std::uint64_t step;
    bool decays;
  };
  std::vector<Part> parts{
      {numbers(7, 1), numbers(7, 2), numbers(7, 3), Floats(7, 0.5f), 1, true},
      {numbers(40, 4), numbers(40, 5), numbers(40, 6), Floats(40, 0.125f), 3, false}};
  const std::vector<Part> before = parts;
  std::vector<raw::Update<float>> updates;
  for (Part& part : parts)
    updates.push_back({part.value.data(), part.gradient.data(), nullptr, part.m.data(),
                       part.v.data(), part.value.size(), part.step, part.decays});
  raw::adamw(updates.data(), updates.size(), options, nullptr);
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const Part& old = before[p];
    std::vector<double> value, m, v;
    const auto t = static_cast<double>(old.step);
    for (std::size_t i = 0; i < old.value.size(); ++i) {
      const double g = 0.25 * at(old.gradient, i);
      m.push_back(0.9 * at(old.m, i) + 0.1 * g);
      v.push_back(0.95 * at(old.v, i) + 0.05 * g * g);
      value.push_back(at(old.value, i) * (old.decays ? 1 - 0.01 * 0.5 : 1) -
                      0.01 * (m[i] / (1 - std::pow(0.9, t))) /
                          (std::sqrt(v[i] / (1 - std::pow(0.95, t))) + 0.05));
    }
    check_close(parts[p].value, value);
    check_close(parts[p].m, m);
    check_close(parts[p].v, v);
    CHECK(parts[p].gradient == old.gradient);
  }
  const std::size_t launches = simt::kernels_run()["adamw"];
  raw::adamw<float>(nullptr, 0, options, nullptr);
  CHECK(simt::kernels_run()["adamw"] == launches);
}

TEST_CASE("raw: arguments that do not fit together are refused") {
  Floats x(elements), statistics(rows), w(columns);
  const auto forward = [&](float* mean, const float* b) {
    raw::add_norm_forward<float>(x.data(), mean, statistics.data(), x.data(), nullptr, w.data(), b,
                                 rows, columns, 1e-5f, nullptr);
  };
  for (const bool mean : {true, false})
    test::check_throws<std::invalid_argument>(
        [&] { forward(mean ? statistics.data() : nullptr, mean ? nullptr : w.data()); },
        {"a LayerNorm has mean and b", "one of them is null", "pass both or none"});
  for (const bool of_w : {true, false})
    test::check_throws<std::invalid_argument>(
        [&] {
          raw::norm_backward_join<float>(x.data(), x.data(), x.data(), w.data(), statistics.data(),
                                         statistics.data(), of_w ? w.data() : nullptr,
                                         of_w ? nullptr : w.data(), rows, columns, nullptr);
        },
        {"trained or frozen together", "one of their gradients is null"});
  const raw::Update<float> no_step{x.data(), x.data(), nullptr, x.data(), x.data(), 1, 0, true};
  auto* const narrow = reinterpret_cast<__nv_bfloat16*>(x.data());
  const raw::Update<__nv_bfloat16> no_master{narrow,   narrow, nullptr, x.data(),
                                             x.data(), 1,      1,       true};
  const raw::AdamWOptions options{};
  test::check_throws<std::invalid_argument>([&] { raw::adamw(&no_step, 1, options, nullptr); },
                                            {"its step, at least 1", "update 0", "count"});
  test::check_throws<std::invalid_argument>([&] { raw::adamw(&no_master, 1, options, nullptr); },
                                            {"a master where T has 16 bits", "update 0"});
}
