// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// How well do the cheaper sensitivities agree with one pass per branch, and what does each cost?
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include <dropbp/dropbp.hpp>
#include <dropbp/ops/adamw.hpp>

#include "benchmark.hpp"
#include "llama/app/data.hpp"
#include "llama/model/model.hpp"

namespace {

using Model = llama::LlamaModel<float>;
using Gradient = dropbp::ops::Matrix<float>;

using bench::median;
using bench::seconds_of;

std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> result(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) result[order[i]] = static_cast<double>(i);
  return result;
}

// Spearman's rank correlation. Measured norms have no ties.
double rank_correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double n = static_cast<double>(a.size());
  double squares = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) squares += (x[i] - y[i]) * (x[i] - y[i]);
  return 1.0 - 6.0 * squares / (n * (n * n - 1.0));
}

// The branchwise measurement, which also records the gradient norm of every branch's output.
class NotingPass : public llama::BranchwisePass<float> {
 public:
  NotingPass(Model& model, const llama::Batch& batch, std::vector<double>& norms)
      : BranchwisePass(model, batch), norms_(norms) {}
  Gradient forward() {
    Gradient gradient = BranchwisePass::forward();
    norms_.assign(1, dropbp::squared_norm(gradient));
    return gradient;
  }
  Gradient backward(std::size_t branch, const Gradient& grad) {
    Gradient gradient = BranchwisePass::backward(branch, grad);
    norms_.push_back(dropbp::squared_norm(gradient));
    return gradient;
  }

 private:
  std::vector<double>& norms_;
};

struct Trained {
  llama::LlamaConfig config;
  Model model;
  dropbp::DropBPHandler<Model> handler;
  llama::Batch batch;

  Trained(const llama::LlamaConfig& shape, std::ptrdiff_t sequences, std::ptrdiff_t sequence,
          std::uint64_t seed = 1)
      : config(shape), model(config, sequence), handler(model, {.drop_rate = 0.5, .seed = seed}) {
    model.initialize(seed);
    batch.shape = {sequences, sequence};
    batch.inputs.resize(static_cast<std::size_t>(sequences * sequence));
    batch.labels.resize(batch.inputs.size());
  }
  void backprop() {
    model.clear_gradients();
    model.loss_and_gradients(batch);
  }
};

struct Settings {
  std::uint64_t steps = 300, points = 5, seed = 1;
  int rounds = 3, batches = 12;
  std::vector<std::ptrdiff_t> layers = {8, 32};  // of the timed models
  std::ptrdiff_t hidden = 128, intermediate = 344, sequence = 128;
};

void agreement(const Settings& settings, bench::Json& json, llama::Plot& plot) {
  Trained trained({.hidden = settings.hidden,
                   .intermediate = settings.intermediate,
                   .layers = 8,
                   .heads = 4,
                   .kv_heads = 4},
                  4, settings.sequence, settings.seed);
  auto& [config, model, handler, batch] = trained;
  const auto data = llama::TokenData::from_text(
      llama::find_default_corpus(), {.vocabulary = config.vocabulary, .max_bytes = 4 << 20});
  const llama::BatchSampler sampler(data.train(), 4, settings.sequence, settings.seed);
  dropbp::ops::AdamW<float> optimizer(model.parameters(), {.learning_rate = 1e-3});
  const std::size_t size = handler.size();

  const std::vector<double> decays = {0.0, 0.7, 0.9};
  std::vector<dropbp::RunningSensitivity> running;
  for (const double decay : decays) running.emplace_back(size, decay);
  struct Row {
    std::uint64_t step;
    double own, lifted, sample;
    std::vector<double> running;
  };
  std::vector<Row> rows;
  std::vector<double> step_seconds, norm_seconds, look_seconds;
  Gradient stream(batch.shape.tokens(), config.hidden);
  std::fill_n(stream.data(), stream.size(), 1.0f);
  double unused_norm = 0.0;
  for (std::uint64_t step = 0; step < settings.steps; ++step) {
    sampler.fill(step, 0, batch.inputs, batch.labels);
    double observing = 0.0;
    step_seconds.push_back(seconds_of([&] {
      handler.begin_step(step);
      trained.backprop();
      observing = seconds_of([&] { handler.observe_gradients(running.front()); });
      // Clipping and warm-up are those of llama-finetune.
      const double norm = dropbp::ops::global_gradient_norm<float>(optimizer.parameters());
      optimizer.step(dropbp::ops::clip_factor(norm, 1.0),
                     std::min(1.0, static_cast<double>(step + 1) / 20.0));
    }));
    // In their backward passes the layers compute norms of the residual stream's gradient: two per
    // kept branch.
    const double looking = seconds_of([&] {
      for (std::size_t i = 0; i < 2 * handler.plan().kept_count(); ++i)
        unused_norm += dropbp::squared_norm(stream);
    });
    norm_seconds.push_back(observing), look_seconds.push_back(looking);
    for (std::size_t i = 1; i < running.size(); ++i) handler.observe_gradients(running[i]);
    if ((step + 1) % (settings.steps / settings.points) != 0) continue;

    // Average the exact value over several batches: a single batch is as noisy as a step.
    std::vector<double> exact(size), exact_of_one, own(size), lifted(size);
    for (int b = 0; b < settings.batches; ++b) {
      sampler.fill(1'000'000 + step, static_cast<std::uint32_t>(b), batch.inputs, batch.labels);
      const std::vector<double> one = handler.measure_sensitivities([&] { trained.backprop(); });
      if (b == 0) exact_of_one = one;
      for (std::size_t i = 0; i < size; ++i) exact[i] += one[i];
      // What a running estimate can observe in a step that keeps all branches. It estimates the
      // lower branches' share from the ratio of the residual stream's gradient norms below and
      // above the branch: without the branch all lower gradients would shrink by that ratio.
      std::vector<double> norms, own_one;
      NotingPass pass(model, batch, norms);
      handler.measure_sensitivities_branchwise(pass);
      handler.begin_step(dropbp::DropPlan(std::vector<std::uint8_t>(size)));
      trained.backprop();
      model.for_each_layer([&](auto& layer) { own_one.push_back(layer.squared_gradient_norm()); });
      double below = dropbp::backend_kernels<dropbp::Cpu, float>::squared_norm(
          model.parameters()[0]->gradient().data, model.parameters()[0]->size());
      for (std::size_t i = 0; i < size; ++i) {
        const double shrinks = 1.0 - std::sqrt(norms[size - 1 - i] / norms[size - i]);
        own[i] += own_one[i];
        lifted[i] += own_one[i] + below * shrinks * shrinks;
        below += own_one[i];
      }
    }
    Row row{.step = step + 1,
            .own = rank_correlation(own, exact),
            .lifted = rank_correlation(lifted, exact),
            .sample = rank_correlation(exact_of_one, exact),
            .running = {}};
    for (const auto& one : running)
      row.running.push_back(rank_correlation(one.sensitivities(), exact));
    rows.push_back(row);
    fmt::print(stderr, "step {}\n", step + 1);
  }

  fmt::print(
      "Spearman's rank correlation with one pass a branch (mean of {} batches), {} branches, drop "
      "rate 0.5:\n"
      "  running: from the training steps; own share: the branches' own gradients on the same "
      "batches; lifted: with "
      "the\n"
      "  lower branches' share estimated from the stream's gradient norms; one batch: one pass a "
      "branch on one of "
      "them\n"
      "  step  running (decay 0)  (0.7)   (0.9)  own share  lifted  one batch\n",
      settings.batches, size);
  const auto mean = [&](auto member) {
    double sum = 0.0;
    for (const Row& row : rows) sum += member(row) / static_cast<double>(rows.size());
    return sum;
  };
  bench::Json points = bench::Json::array();
  for (const Row& row : rows) {
    fmt::print("{:>6} {:>18.3f} {:>6.3f} {:>7.3f} {:>10.3f} {:>7.3f} {:>10.3f}\n", row.step,
               row.running[0], row.running[1], row.running[2], row.own, row.lifted, row.sample);
    points.push_back({{"step", row.step},
                      {"running", row.running},
                      {"own", row.own},
                      {"lifted", row.lifted},
                      {"one_batch", row.sample}});
  }
  fmt::print("  mean {:>18.3f} {:>6.3f} {:>7.3f} {:>10.3f} {:>7.3f} {:>10.3f}\n",
             mean([](const Row& r) { return r.running[0]; }),
             mean([](const Row& r) { return r.running[1]; }),
             mean([](const Row& r) { return r.running[2]; }),
             mean([](const Row& r) { return r.own; }), mean([](const Row& r) { return r.lifted; }),
             mean([](const Row& r) { return r.sample; }));
  const double norms = median(norm_seconds) / median(step_seconds),
               looks = median(look_seconds) / median(step_seconds);
  const double cost = norms + looks;
  fmt::print(
      "observe_gradients: {:.2f} % of a step, {:.2f} % of it for the norms of the stream's "
      "gradient, the rest for those of the parameters, which clipping needs anyway\n\n",
      100.0 * cost, 100.0 * looks);
  if (!std::isfinite(unused_norm)) fmt::print("\n");
  for (const Row& row : rows) {
    const double step = static_cast<double>(row.step);
    plot.series[0].points.emplace_back(step, row.running[1]);
    plot.series[1].points.emplace_back(step, row.own);
    plot.series[2].points.emplace_back(step, row.lifted);
    plot.series[3].points.emplace_back(step, row.sample);
  }
  json["running_spearman"] = mean([](const Row& r) { return r.running[1]; });
  json["running_overhead"] = cost;
  json["points"] = points;
}

void branchwise(const Settings& settings, bench::Json& json) {
  fmt::print(
      "One forward pass with branchwise backwards against one pass a branch, one sequence of {} "
      "tokens, {} rounds in turn:\n"
      "branches  largest difference   seconds, branchwise    one a branch   ratio   peak MiB saved "
      "and in use, branchwise   one a branch\n",
      2 * settings.sequence, settings.rounds);
  for (const std::ptrdiff_t layers : settings.layers) {
    Trained trained({.hidden = settings.hidden,
                     .intermediate = settings.intermediate,
                     .layers = layers,
                     .heads = 4,
                     .kv_heads = 4},
                    1, 2 * settings.sequence);
    for (std::size_t i = 0; i < trained.batch.inputs.size(); ++i) {
      trained.batch.inputs[i] = static_cast<std::int32_t>((i * 7 + i * i * 3 + 1) % 256);
      trained.batch.labels[i] = static_cast<std::int32_t>((i * 5 + 2) % 256);
    }
    std::vector<double> fast, slow, ratios, fast_seconds, slow_seconds;
    double fast_bytes = 0.0, slow_bytes = 0.0;
    const auto bytes = [&] {
      return static_cast<double>(trained.model.saved_memory().peak_bytes() +
                                 trained.model.workspace().peak_bytes()) /
             0x1p20;
    };
    const auto reset = [&] {
      trained.model.saved_memory().reset_peak(), trained.model.workspace().reset_peak();
    };
    for (int round = -1; round < settings.rounds; ++round) {
      reset();
      const double a = seconds_of([&] {
        fast = trained.handler.measure_sensitivities_branchwise(
            llama::BranchwisePass<float>(trained.model, trained.batch));
      });
      fast_bytes = bytes();
      reset();
      const double b = seconds_of(
          [&] { slow = trained.handler.measure_sensitivities([&] { trained.backprop(); }); });
      slow_bytes = bytes();
      if (round < 0) continue;
      fast_seconds.push_back(a), slow_seconds.push_back(b), ratios.push_back(b / a);
    }
    double worst = 0.0;
    for (std::size_t i = 0; i < fast.size(); ++i)
      worst = std::max(worst, std::abs(fast[i] / slow[i] - 1.0));
    fmt::print("{:>8} {:>19.1e} {:>21.3f} {:>15.3f} {:>7.2f} {:>39.1f} {:>14.1f}\n", fast.size(),
               worst, median(fast_seconds), median(slow_seconds), median(ratios), fast_bytes,
               slow_bytes);
    std::fflush(stdout);
    json["rows"].push_back({{"branches", fast.size()},
                            {"cost_ratio", median(ratios)},
                            {"max_relative_error", worst},
                            {"seconds", median(fast_seconds)},
                            {"seconds_one_a_branch", median(slow_seconds)},
                            {"peak_mib", fast_bytes},
                            {"peak_mib_one_a_branch", slow_bytes}});
  }
}

int run(int argc, char** argv) {
  CLI::App app(
      "Trains a small LLaMA and compares running and branchwise sensitivities with the published "
      "measurement.");
  Settings settings;
  bench::Options common(app, "10 training steps, one timed model of 2 blocks, one round, all tiny");
  app.add_option("--steps", settings.steps, "training steps")
      ->check(CLI::Range(5, 1000000))
      ->capture_default_str();
  app.add_option("--seed", settings.seed, "seed of weights, data order and plans")
      ->capture_default_str();
  app.add_option("--rounds", settings.rounds, "timings, median taken")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (common.quick)
    settings = {.steps = 10,
                .points = 2,
                .rounds = 1,
                .batches = 1,
                .layers = {2},
                .hidden = 32,
                .intermediate = 48,
                .sequence = 16};
  common.begin();
  bench::Json json;
  json["rows"] = bench::Json::array();
  llama::Plot plot{
      .title = "Rank correlation with one pass a branch",
      .x_label = "step",
      .y_label = "Spearman's coefficient",
      .series = {{"running, decay 0.7", {}}, {"own share", {}}, {"lifted", {}}, {"one batch", {}}}};
  agreement(settings, json, plot);
  branchwise(settings, json);
  json["steps"] = settings.steps;
  json["threads"] = dropbp::ops::thread_count();
  common.write(json);
  common.write(plot);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("sensitivity_cost", argc, argv, run); }
