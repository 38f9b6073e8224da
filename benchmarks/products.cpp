// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How fast are the library's matrix products, in float compared with Eigen's, and in bfloat16
// compared with those in float? Times the three products of a linear map's forward and backward
// pass at the trainer's shapes, in turn. Also: what does a 4-bit weight add to a product?
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <dropbp/base/philox.hpp>
#include <dropbp/kernels/cpu/gemm_eigen.hpp>
#include <dropbp/ops/elementwise.hpp>
#include <dropbp/ops/gemm.hpp>
#include <dropbp/ops/nf4.hpp>

#include "benchmark.hpp"

namespace {

using namespace dropbp::ops;

struct Shape {
  const char* what;
  Index tokens, output, input;
};

Matrix<float> random_matrix(Index rows, Index columns, std::uint64_t step) {
  const dropbp::CounterRandom random(1, dropbp::RandomStream::user, step);
  Matrix<float> matrix(rows, columns);
  for (std::size_t i = 0; i < matrix.size(); ++i)
    matrix.data()[i] = static_cast<float>(random(i) >> 40) * 0x1p-23f - 1.0f;
  return matrix;
}

using dropbp::BFloat16;

Matrix<BFloat16> narrowed(const Matrix<float>& from) {
  Matrix<BFloat16> to(from.rows(), from.columns());
  upload(to.view(), from.view());
  return to;
}

using bench::seconds_of;
using bench::Spread;
using bench::spread_of;

// Times the expansion of a 4-bit weight, which comes before each of its products.
bench::Json measure_expansion(const Shape& shape, int rounds) {
  const Matrix<float> x = random_matrix(shape.tokens, shape.input, 1),
                      w = random_matrix(shape.output, shape.input, 2);
  const Nf4Matrix quantised = Nf4Matrix::quantize(w.view());
  Matrix<float> expanded(shape.output, shape.input), y(shape.tokens, shape.output);
  std::vector<double> rate, share;
  for (int round = -2; round < rounds; ++round) {  // the first two warm up
    const double expansion = seconds_of([&] { quantised.dequantize(expanded.view()); });
    const double product = seconds_of([&] { gemm_nt(y.view(), x.view(), expanded.view()); });
    if (round < 0) continue;
    rate.push_back(4e-9 * static_cast<double>(expanded.size()) / expansion),
        share.push_back(expansion / product);
  }
  const Spread gigabytes = spread_of(rate), part = spread_of(share);
  fmt::print(
      "{:<13} {:>6} {:>5} {:>5} {:>8.1f} ({:>4.1f} to {:>4.1f}) {:>8.3f} ({:.3f} to {:.3f})\n",
      shape.what, shape.tokens, shape.output, shape.input, gigabytes.median, gigabytes.least,
      gigabytes.most, part.median, part.least, part.most);
  std::fflush(stdout);
  return {{"layer", shape.what},
          {"tokens", shape.tokens},
          {"n", shape.output},
          {"k", shape.input},
          {"gigabytes_per_second", gigabytes.median},
          {"share_of_product", part.median}};
}

int run(int argc, char** argv) {
  CLI::App app(
      "Times the library's matrix products in float and bfloat16, and Eigen's in float, in turn.");
  int rounds = 15;
  bench::Options common(app, "3 rounds of an eighth of the tokens");
  app.add_option("--rounds", rounds, "timings of each product; the median is reported")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (common.quick) rounds = 3;
  common.begin();

  const Shape shapes[] = {{"qkv 256", 1024, 768, 256},      {"gate+up 256", 1024, 1376, 256},
                          {"down 256", 1024, 256, 688},     {"qkv 512", 1024, 1536, 512},
                          {"gate+up 512", 1024, 2752, 512}, {"down 512", 1024, 512, 1376},
                          {"head 32000", 256, 32000, 256},  {"head 49152", 256, 49152, 512}};
  bench::Json rows = bench::Json::array();
  llama::Plot plot{.title = "Matrix products of a linear map, by layer",
                   .x_label = "log2 of the multiply-adds",
                   .y_label = "GFLOP/s",
                   .series = {{"this library", {}}, {"Eigen", {}}, {"bfloat16", {}}}};
  fmt::print(
      "{} threads, {} rounds; GFLOP/s: median (least to most) of each; ratio to Eigen's and to "
      "that "
      "in float: median of the rounds\n"
      "layer         product      m     n     k        this library               Eigen    ratio"
      "            bfloat16    ratio\n",
      thread_count(), rounds);
  for (Shape shape : shapes) {
    if (common.quick) shape.tokens /= 8;
    const Matrix<float> x = random_matrix(shape.tokens, shape.input, 1),
                        w = random_matrix(shape.output, shape.input, 2),
                        dy = random_matrix(shape.tokens, shape.output, 3);
    Matrix<float> y(shape.tokens, shape.output), dx(shape.tokens, shape.input),
        dw(shape.output, shape.input);
    const Matrix<BFloat16> narrow_x = narrowed(x), narrow_w = narrowed(w), narrow_dy = narrowed(dy);
    Matrix<BFloat16> narrow_y(shape.tokens, shape.output), narrow_dx(shape.tokens, shape.input),
        narrow_dw(shape.output, shape.input);
    const auto measure = [&](const char* product, Matrix<float>& c, Index k, const auto& ours,
                             const auto& eigen, const auto& narrow) {
      std::vector<double> our_rate, eigen_rate, ratio, narrow_rate, narrow_ratio;
      const double flops = 2e-9 * static_cast<double>(c.rows()) * static_cast<double>(c.columns()) *
                           static_cast<double>(k);
      for (int round = -2; round < rounds; ++round) {  // the first two warm up
        const double a = seconds_of(ours), b = seconds_of(eigen), d = seconds_of(narrow);
        if (round < 0) continue;
        our_rate.push_back(flops / a), eigen_rate.push_back(flops / b), ratio.push_back(b / a);
        narrow_rate.push_back(flops / d), narrow_ratio.push_back(a / d);
      }
      const Spread us = spread_of(our_rate), them = spread_of(eigen_rate),
                   faster = spread_of(ratio), half = spread_of(narrow_rate),
                   gain = spread_of(narrow_ratio);
      fmt::print(
          "{:<13} {:<8} {:>5} {:>5} {:>5} {:>8.0f} ({:>4.0f} to {:>4.0f}) {:>6.0f} ({:>4.0f} to "
          "{:>4.0f}) {:>6.2f} {:>6.0f} ({:>4.0f} to {:>4.0f}) {:>6.2f}\n",
          shape.what, product, c.rows(), c.columns(), k, us.median, us.least, us.most, them.median,
          them.least, them.most, faster.median, half.median, half.least, half.most, gain.median);
      std::fflush(stdout);
      const double size = std::log2(flops * 0.5e9);
      plot.series[0].points.emplace_back(size, us.median);
      plot.series[1].points.emplace_back(size, them.median);
      plot.series[2].points.emplace_back(size, half.median);
      rows.push_back({{"layer", shape.what},
                      {"product", product},
                      {"m", c.rows()},
                      {"n", c.columns()},
                      {"k", k},
                      {"gflops", us.median},
                      {"eigen_gflops", them.median},
                      {"ratio", faster.median},
                      {"bfloat16_gflops", half.median},
                      {"bfloat16_ratio", gain.median}});
    };
    constexpr auto overwrite = Accumulate::overwrite;
    measure(
        "y=xW^T", y, shape.input, [&] { gemm_nt(y.view(), x.view(), w.view()); },
        [&] {
          detail::eigen_product<float, false, true>(y.view(), x.view(), w.view(), y.rows(),
                                                    y.columns(), shape.input, overwrite);
        },
        [&] { gemm_nt(narrow_y.view(), narrow_x.view(), narrow_w.view()); });
    measure(
        "dx=dyW", dx, shape.output, [&] { gemm_nn(dx.view(), dy.view(), w.view()); },
        [&] {
          detail::eigen_product<float, false, false>(dx.view(), dy.view(), w.view(), dx.rows(),
                                                     dx.columns(), shape.output, overwrite);
        },
        [&] { gemm_nn(narrow_dx.view(), narrow_dy.view(), narrow_w.view()); });
    measure(
        "dW=dy^Tx", dw, shape.tokens, [&] { gemm_tn(dw.view(), dy.view(), x.view()); },
        [&] {
          detail::eigen_product<float, true, false>(dw.view(), dy.view(), x.view(), dw.rows(),
                                                    dw.columns(), shape.tokens, overwrite);
        },
        [&] { gemm_tn(narrow_dw.view(), narrow_dy.view(), narrow_x.view()); });
  }
  for (llama::Series& series : plot.series) std::sort(series.points.begin(), series.points.end());

  fmt::print(
      "\nexpansion of a 4-bit weight: GB/s of floats written, and its time / that of y=xW^T\n"
      "layer         tokens     n     k                 GB/s                share\n");
  bench::Json expansions = bench::Json::array();
  std::vector<Shape> expanded_shapes = {{"gate+up 512", 1024, 2752, 512},
                                        {"LLaMA-7B q", 1024, 4096, 4096}};
  if (common.quick) expanded_shapes.pop_back();
  for (const Shape& shape : expanded_shapes) expansions.push_back(measure_expansion(shape, rounds));

  common.write(bench::Json{{"threads", thread_count()},
                           {"rounds", rounds},
                           {"products", rows},
                           {"expansions", expansions}});
  common.write(plot);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("products", argc, argv, run); }
