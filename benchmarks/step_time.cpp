// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How much time does a step save, and how much can it save? Measures forward pass, backward pass,
// optimizer and whole step of a LLaMA at several drop rates, the limit predicted from the parts at
// rate 0, the library's overhead at rate 0, and the machine's rate of matrix products.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/kernels/cpu/gemm_eigen.hpp>
#include <dropbp/ops/gemm.hpp>

#include "benchmark.hpp"
#include "instructions.hpp"
#include "plain_llama.hpp"
#include "training_step.hpp"

namespace {

using bench::Training, bench::plan_of;
using llama::Index;

using Trainer = bench::Trainer<float>;

struct Settings : Training {
  int rounds = 9;
  std::vector<double> drop_rates = {0.0, 0.5, 0.75, 0.875};
};

Settings default_settings() {
  Settings settings;
  settings.shape = {.hidden = 512, .intermediate = 1376, .layers = 8, .heads = 8, .kv_heads = 8};
  return settings;
}

void fill(Trainer::Model& model) { model.initialize(1); }

// The same trainer without the library.
class PlainTrainer {
 public:
  explicit PlainTrainer(const Settings& settings, Trainer& other)
      : model_(settings.shape, settings.sequence),
        optimizer_(model_.parameters(), bench::adamw),
        batch_(bench::batch_of(settings)) {
    for (std::size_t i = 0; i < model_.parameters().size(); ++i)
      dropbp::ops::copy<float>(model_.parameters()[i]->value(),
                               other.model().parameters()[i]->value());
  }

  double step() {
    return bench::seconds_of([&] {
      for (auto* parameter : model_.parameters()) parameter->drop_gradient();
      loss_ = model_.loss_and_gradients(batch_);
      bench::update(optimizer_);
    });
  }

  double loss() const noexcept { return loss_; }

 private:
  bench::PlainLlama model_;
  dropbp::ops::AdamW<float> optimizer_;
  llama::Batch batch_;
  double loss_ = 0.0;
};

// FLOP/s of C = A B^T for square matrices. Takes the faster of the library's product and Eigen's.
class ProductRate {
 public:
  explicit ProductRate(Index size) : size_(size), a_(size, size), b_(size, size), c_(size, size) {
    const dropbp::CounterRandom random(1, dropbp::RandomStream::user, 1);
    for (std::size_t i = 0; i < a_.size(); ++i) {
      const auto bits = random.pair(static_cast<std::uint32_t>(i));
      a_.data()[i] = static_cast<float>(bits[0] >> 40) * 0x1p-24f - 0.5f;
      b_.data()[i] = static_cast<float>(bits[1] >> 40) * 0x1p-24f - 0.5f;
    }
  }
  double measure() {
    const double ours =
        bench::seconds_of([&] { dropbp::ops::gemm_nt(c_.view(), a_.view(), b_.view()); });
    const double eigen = bench::seconds_of([&] {
      dropbp::ops::detail::eigen_product<float, false, true>(
          c_.view(), std::as_const(a_).view(), std::as_const(b_).view(), size_, size_, size_,
          dropbp::ops::Accumulate::overwrite);
    });
    return 2.0 * std::pow(static_cast<double>(size_), 3) / std::min(ours, eigen);
  }

 private:
  Index size_;
  dropbp::ops::Matrix<float> a_, b_, c_;
};

// The program that --count-instructions runs under valgrind. The model is tiny, because the
// library's overhead does not depend on the sizes.
int count(const std::string& trainer, int steps) {
  Settings settings = default_settings();
  settings.shape.hidden = 32;
  settings.shape.intermediate = 48;
  settings.sequence = 8;
  settings.batch = 1;
  dropbp::ops::set_thread_count(1);
  Trainer with(settings, fill);
  PlainTrainer without(settings, with);
  const dropbp::DropPlan plan = plan_of(settings, 0.0, 0);
  for (int step = 0; step < steps; ++step)
    trainer == "plain" ? void(without.step()) : void(with.step(plan));
  return 0;
}

std::int64_t status_bytes(std::string_view name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(name)) return 1024 * std::stoll(line.substr(name.size() + 1));
  return 0;
}

// Answers each line "RATE STEPS" of standard input with a line of JSON: the times of so many steps
// and the peak of the resident memory beyond that at the start. For versus_pytorch.py.
template <class T>
int serve(const Settings& settings) {
  const std::int64_t before = status_bytes("VmRSS");
  bench::Trainer<T> trainer(settings, [](auto& model) { model.initialize(1); });
  double drop_rate = 0.0;
  for (int steps = 0; std::cin >> drop_rate >> steps;) {
    if (!(drop_rate >= 0.0 && drop_rate <= 1.0) || steps < 1)
      throw std::runtime_error(fmt::format(
          "--serve takes lines of a drop rate in [0, 1] and a number of steps, but got '{} {}'",
          drop_rate, steps));
    std::ofstream("/proc/self/clear_refs") << 5;  // the peak starts anew
    std::vector<double> milliseconds;
    for (int step = 0; step < steps; ++step)
      milliseconds.push_back(1e3 * trainer.step(plan_of(settings, drop_rate, step)).step);
    fmt::print("{}\n", bench::Json{{"step_ms", milliseconds},
                                   {"peak_bytes", status_bytes("VmHWM") - before}}
                           .dump());
    std::fflush(stdout);
  }
  return 0;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Times training steps of a LLaMA at several drop rates, in turn, and compares the time saved "
      "with the most that can be saved.");
  Settings settings = default_settings();
  bench::Options common(app, "a smaller model, 5 rounds");
  const auto size = [&](const char* flag, Index& target, const char* help) {
    app.add_option(flag, target, help)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  };
  size("--layers", settings.shape.layers, "transformer blocks, of two branches each");
  size("--hidden", settings.shape.hidden, "width of the residual stream");
  size("--intermediate", settings.shape.intermediate, "width inside the MLP");
  size("--heads", settings.shape.heads, "attention heads");
  size("--sequence", settings.sequence, "tokens per sequence");
  size("--batch", settings.batch, "sequences per step");
  app.add_option("--rounds", settings.rounds, "timings of each rate; the median is reported")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--drop-rates", settings.drop_rates,
                 "drop rates besides 0, rounded to whole blocks")
      ->check(CLI::Range(0.0, 1.0))
      ->delimiter(',')
      ->capture_default_str();
  app.add_option(
         "--mode", settings.mode,
         "what trains: all weights, adapters of rank 8, or such adapters over 4-bit weights")
      ->check(CLI::IsMember({"full", "lora", "qlora"}))
      ->capture_default_str();
  size("--vocabulary", settings.shape.vocabulary, "tokens of the vocabulary");
  std::string precision = "float";
  app.add_option("--precision", precision, "with --serve: of weights and activations")
      ->check(CLI::IsMember({"float", "bfloat16"}))
      ->capture_default_str();
  bool serves = false;
  app.add_flag("--serve", serves,
               "run the steps that lines 'RATE STEPS' of the standard input ask for; print their "
               "times and the peak memory as JSON");
  std::string counted;
  int counted_steps = 1;
  app.add_option("--count", counted)->group("");
  app.add_option("--count-steps", counted_steps)->group("");
  CLI11_PARSE(app, argc, argv);
  if (!counted.empty()) return count(counted, counted_steps);
  if (common.quick) {
    settings.shape = {.hidden = 32, .intermediate = 48, .layers = 8, .heads = 2, .kv_heads = 2};
    settings.sequence = 16;
    settings.rounds = 2;
  }
  common.begin();
  settings.shape.kv_heads = settings.shape.heads;
  settings.shape.max_positions = std::max(settings.shape.max_positions, settings.sequence);
  if (serves)
    return precision == "float" ? serve<float>(settings) : serve<dropbp::BFloat16>(settings);
  std::erase(settings.drop_rates, 0.0);
  settings.drop_rates.insert(settings.drop_rates.begin(), 0.0);

  Trainer trainer(settings, fill);
  std::optional<PlainTrainer> plain;
  if (settings.full()) plain.emplace(settings, trainer);
  ProductRate product(common.quick ? 64 : 2048);
  bench::RateTable table(trainer, settings, settings.drop_rates);
  std::vector<double> plain_seconds, overheads, product_rates;

  // Run both once first: this allocates the memory and checks that they compute the same.
  trainer.step(plan_of(settings, 0.0, 0));
  if (plain) plain->step();
  if (plain && trainer.loss() != plain->loss())
    throw std::runtime_error(fmt::format(
        "the trainers with and without the library must have the same loss, but it is {} and {}",
        trainer.loss(), plain->loss()));
  std::size_t allocations = 0;
  for (int round = -1; round < settings.rounds; ++round) {
    if (round == 0) allocations = trainer.allocations();
    double of_plain = 0.0;
    table.run_round(round, [&] {
      if (plain) of_plain = plain->step();
    });
    const double rate = product.measure();
    if (round < 0) continue;
    if (plain)
      overheads.push_back(table.last_seconds() / of_plain - 1.0), plain_seconds.push_back(of_plain);
    product_rates.push_back(rate);
    fmt::print(stderr, "round {} of {}\n", round + 1, settings.rounds);
  }
  allocations = trainer.allocations() - allocations;

  fmt::print("{}; float, {} threads\n", settings.text(), dropbp::ops::thread_count());
  const auto [rows, plot] = table.print();
  const bench::StepFlops flops = table.flops();
  const bench::Spread rate = bench::spread_of(product_rates);
  const double step_seconds = table.seconds();
  const double fraction = flops.all() / step_seconds / rate.median;
  const double tokens_per_second = static_cast<double>(settings.tokens()) / step_seconds;
  bench::Json json{{"rows", rows},
                   {"mode", settings.mode},
                   {"sgemm_fraction", fraction},
                   {"tokens_per_second", tokens_per_second}};
  if (plain) {
    const bench::Spread overhead = bench::spread_of(overheads);
    fmt::print(
        "without the library: {:.1f} ms; overhead of the library at rate 0: {:.2f} % ({:.2f} % to "
        "{:.2f} %)\n",
        1e3 * bench::median(plain_seconds), 100.0 * overhead.median, 100.0 * overhead.least,
        100.0 * overhead.most);
    json["overhead_at_zero"] = overhead.median;
    if (common.quick) {
      fmt::print("by instructions: left out by --quick, valgrind alone takes a minute\n");
    } else if (const auto extra = bench::extra_instructions(argv[0])) {
      // A lower bound of a step's own instructions: one per vector of multiply-adds.
      const double share =
          *extra / (flops.all() / (2.0 * static_cast<double>(dropbp::ops::detail::lanes<float>)));
      fmt::print("by instructions: {:.0f} more a step, at most {:.4f} % of a step's\n", *extra,
                 100.0 * share);
      json["extra_instructions_a_step"] = *extra;
      json["overhead_by_instructions"] = share;
    } else {
      fmt::print("by instructions: not counted, valgrind is not installed\n");
    }
  }
  fmt::print(
      "{:.1f} GFLOP a step at rate 0 in {:.3f} s: {:.1f} GFLOP/s, {:.3f} of the {:.1f} GFLOP/s of "
      "a large matrix product; {:.0f} tokens/s; allocations in {} rounds: {}\n",
      flops.all() / 1e9, step_seconds, flops.all() / step_seconds / 1e9, fraction,
      rate.median / 1e9, tokens_per_second, settings.rounds, allocations);
  json["sgemm_gflops"] = rate.median / 1e9;
  json["allocations"] = allocations;
  json["threads"] = dropbp::ops::thread_count();
  common.write(json);
  common.write(plot);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("step_time", argc, argv, run); }
