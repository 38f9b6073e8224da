// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How close do the output layer, attention and linear maps with adapters come to the matrix
// products that they consist of? Times each of them and its products in turn.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include <dropbp/base/philox.hpp>
#include <dropbp/ops/attention.hpp>
#include <dropbp/ops/cross_entropy.hpp>
#include <dropbp/ops/gemm.hpp>
#include <dropbp/ops/projection.hpp>

#include "benchmark.hpp"

namespace {

using namespace dropbp::ops;

void fill(MatrixView<float> matrix, std::uint64_t step, float scale) {
  const dropbp::CounterRandom random(1, dropbp::RandomStream::user, step);
  for (Index i = 0; i < matrix.rows * matrix.columns; ++i)
    matrix.data[i] =
        scale * (static_cast<float>(random(static_cast<std::uint64_t>(i)) >> 40) * 0x1p-23f - 1.0f);
}
Matrix<float> random_matrix(Index rows, Index columns, std::uint64_t step) {
  Matrix<float> matrix(rows, columns);
  fill(matrix.view(), step, 1.0f);
  return matrix;
}

class Benchmark {
 public:
  Benchmark(int rounds, bool processor_time) : rounds_(rounds), processor_time_(processor_time) {}

  /// Prints and records time of `layer` / time of `products`, the rate of the layer's `gigaflops`,
  /// and how many parallel loops, each with a barrier at its end, the layer divides among threads.
  /// Returns the rate.
  double compare(const std::string& what, double gigaflops, const std::function<void()>& layer,
                 const std::function<void()>& products) {
    std::vector<double> ratio, rate;
    for (int round = -1; round < rounds_; ++round) {  // the first one warms up
      const double a = seconds(layer), b = seconds(products);
      if (round < 0) continue;
      ratio.push_back(a / b), rate.push_back(gigaflops / a);
    }
    const auto loops = parallel_loops(layer);
    const bench::Spread r = bench::spread_of(ratio), speed = bench::spread_of(rate);
    fmt::print("{:<58} {:>6.3f} ({:.3f} to {:.3f}) {:>8.1f} {:>6}\n", what, r.median, r.least,
               r.most, speed.median, loops);
    std::fflush(stdout);
    rows_.push_back({{"layer", what},
                     {"ratio", r.median},
                     {"least", r.least},
                     {"most", r.most},
                     {"gflops", speed.median},
                     {"parallel_loops", loops}});
    return speed.median;
  }

  const bench::Json& rows() const noexcept { return rows_; }

 private:
  // With two threads, as one thread opens no parallel loop.
  static std::uint32_t parallel_loops(const std::function<void()>& call) {
    const auto threads = static_cast<int>(thread_count());
    set_thread_count((std::max)(threads, 2));
    const std::uint32_t before = detail::ThreadTeam::instance().jobs();
    call();
    set_thread_count(threads);
    return (detail::ThreadTeam::instance().jobs() - before) % (1u << 20);
  }

  double seconds(const std::function<void()>& call) const {
    if (!processor_time_) return bench::seconds_of(call);
    const auto now = [] {
      std::timespec time{};
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
      return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
    };
    const double start = now();
    call();
    return now() - start;
  }

  int rounds_;
  bool processor_time_;
  bench::Json rows_ = bench::Json::array();
};

double product_gigaflops(Index m, Index n, Index k) {
  return 2e-9 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

// The loss and its gradients, with a trained and a frozen head, with all and with half of the
// tokens labelled, relative to the products of all tokens.
void measure_head(Benchmark& benchmark, Index tokens, Index hidden, Index vocabulary) {
  const Matrix<float> x = random_matrix(tokens, hidden, 1);
  Parameter<float> weight("lm_head.weight", vocabulary, hidden);
  fill(weight.value(), 2, 0.05f);
  Matrix<float> grad_x(tokens, hidden), logits(tokens, vocabulary), grad_weight(vocabulary, hidden);
  CrossEntropy<float> loss{MemoryPool()};
  for (const bool trained : {true, false})
    for (const bool half : {false, true}) {
      std::vector<std::int32_t> targets;
      for (Index t = 0; t < tokens; ++t)
        targets.push_back(half && t % 64 < 32 ? CrossEntropy<float>::ignore_index
                                              : static_cast<std::int32_t>(t * 977 % vocabulary));
      weight.trained = trained;
      benchmark.compare(
          fmt::format("output layer {} x {} x {}, {}{}", tokens, hidden, vocabulary,
                      trained ? "trained" : "frozen", half ? ", half labelled" : ""),
          (trained ? 3.0 : 2.0) * (half ? 0.5 : 1.0) *
              product_gigaflops(tokens, vocabulary, hidden),
          [&] { loss.loss_and_gradient(grad_x.view(), x.view(), weight, targets); },
          [&] {
            gemm_nt(logits.view(), x.view(), weight.value());
            if (trained) gemm_tn(grad_weight.view(), logits.view(), x.view());
            gemm_nn(grad_x.view(), logits.view(), weight.value());
          });
    }
}

// The causal half of the scores, relative to square products with as many multiply-adds.
void measure_attention(Benchmark& benchmark, llama::Plot& plot, Index sequence,
                       const HeadLayout& layout) {
  const SequenceShape shape{1, sequence};
  const Matrix<float> qkv = random_matrix(sequence, layout.qkv_width(), 1),
                      grad_o = random_matrix(sequence, layout.q_width(), 2);
  Matrix<float> o(sequence, layout.q_width()), lse(layout.heads, sequence),
      grad_qkv(sequence, layout.qkv_width());
  const double pairs = 0.5 * static_cast<double>(sequence) * static_cast<double>(sequence + 1);
  const double one = 2e-9 * pairs * static_cast<double>(layout.q_width());
  const Index size = 512;
  const Matrix<float> a = random_matrix(size, size, 3), b = random_matrix(size, size, 4);
  Matrix<float> c(size, size);
  const auto products = [&](double count) {
    // Whole products; the rest of the multiply-adds in one with fewer rows.
    const double all = count * one / product_gigaflops(size, size, size);
    const auto whole = static_cast<int>(all);
    for (int i = 0; i < whole; ++i) gemm_nt(c.view(), a.view(), b.view());
    const auto rest = static_cast<Index>((all - whole) * static_cast<double>(size));
    gemm_nt(c.view().rows_from(0, rest), a.view().rows_from(0, rest), b.view());
  };
  const std::string what = fmt::format("attention, {} tokens, {} / {} heads of {}", sequence,
                                       layout.heads, layout.kv_heads, layout.head_size);
  const double size_of_point = std::log2(static_cast<double>(sequence));
  const double forward = benchmark.compare(
      what + ", forward", 2 * one,
      [&] { attention_forward(o.view(), lse.data(), qkv.view(), layout, shape); },
      [&] { products(2); });
  const double backward = benchmark.compare(
      what + ", backward", 5 * one,
      [&] {
        attention_backward(grad_qkv.view(), grad_o.view(), qkv.view(), o.view(), lse.data(), layout,
                           shape);
      },
      [&] { products(5); });
  plot.series[0].points.emplace_back(size_of_point, forward);
  plot.series[1].points.emplace_back(size_of_point, backward);
}

// Forward pass and input gradient of a frozen map with an adapter of rank 16, relative to the two
// products of the map.
void measure_adapters(Benchmark& benchmark, Index tokens, Index output, Index input) {
  const Matrix<float> x = random_matrix(tokens, input, 1), w = random_matrix(output, input, 2),
                      grad_y = random_matrix(tokens, output, 3);
  Matrix<float> y(tokens, output), grad_x(tokens, input);
  for (const bool quantize : {false, true}) {
    MemoryPool pool;
    Projection<float> projection({{"q_proj.weight", output}}, input,
                                 {.rank = 16, .quantize = quantize}, pool);
    projection.set_weight(0, w.view());
    fill(projection.lora_a.value(), 4, 0.1f);
    Matrix<float> u(tokens, projection.adapter_width());
    benchmark.compare(
        fmt::format("{} {} x {} x {}", quantize ? "QLoRA" : "LoRA", tokens, output, input),
        2 * product_gigaflops(tokens, output, input),
        [&] {
          projection.forward(y.view(), x.view(), Accumulate::overwrite, u.view());
          const Matrix<float> grad_u = projection.adapter_gradient(grad_y.view());
          projection.backward_input(grad_x.view(), grad_y.view(), grad_u);
        },
        [&] {
          gemm_nt(y.view(), x.view(), w.view());
          gemm_nn(grad_x.view(), grad_y.view(), w.view());
        });
  }
}

int run(int argc, char** argv) {
  CLI::App app(
      "Times the output layer, attention and linear maps with adapters in float, each in turn with "
      "the matrix products that it consists of.");
  int rounds = 7;
  bool processor_time = false;
  bench::Options common(app, "3 rounds of small layers");
  app.add_option("--rounds", rounds, "timings of each; the median is reported")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_flag(
      "--processor-time", processor_time,
      "the time of one thread on its processor in place of the clock's, for busy machines; "
      "sets --threads 1");
  CLI11_PARSE(app, argc, argv);
  if (common.quick) rounds = 3;
  if (processor_time) common.threads = 1;
  common.begin();

  fmt::print(
      "{} threads, {} rounds; time / time of the products: median (least to most); GFLOP/s; "
      "parallel loops\n",
      thread_count(), rounds);
  Benchmark benchmark(rounds, processor_time);
  llama::Plot plot{.title = "Attention with two heads of 64",
                   .x_label = "log2 of the tokens",
                   .y_label = "GFLOP/s",
                   .series = {{"forward", {}}, {"backward", {}}}};
  if (common.quick) {
    measure_head(benchmark, 64, 32, 500);
    for (const Index sequence : {64, 128}) measure_attention(benchmark, plot, sequence, {2, 1, 16});
    measure_adapters(benchmark, 64, 96, 64);
  } else {
    measure_head(benchmark, 256, 512, 32000);
    measure_head(benchmark, 256, 576, 49152);
    for (const Index sequence : {256, 1024, 4096, 8192})
      measure_attention(benchmark, plot, sequence, {2, 2, 64});
    measure_adapters(benchmark, 256, 1536, 576);
    measure_adapters(benchmark, 1024, 2752, 512);
  }
  common.write(
      bench::Json{{"threads", thread_count()}, {"rounds", rounds}, {"layers", benchmark.rows()}});
  common.write(plot);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("layers", argc, argv, run); }
