// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which policies pay off? Compares each policy with ordinary training: validation loss over time
// and over backward FLOPs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <dropbp/kernels/cpu/parallel.hpp>

#include "benchmark.hpp"
#include "llama/app/trainer.hpp"
#include "llama/formats/model_folder.hpp"

namespace {

using llama::AllocationChoice;
using llama::Options;
using llama::SamplingChoice;
using llama::ScalingChoice;
using llama::SensitivityChoice;

struct Policy {
  const char* name;
  void (*choose)(Options&);
};

// Each policy differs in one thing from the one above it or from "greedy".
const Policy policies[] = {
    {"published",
     [](Options& o) {
       o.allocation = AllocationChoice::greedy, o.sampling = SamplingChoice::at_least_target;
     }},
    {"greedy", [](Options& o) { o.allocation = AllocationChoice::greedy; }},
    {"uniform", [](Options& o) { o.allocation = AllocationChoice::uniform; }},
    {"optimal", [](Options& o) { o.allocation = AllocationChoice::optimal; }},
    {"fixed budget",
     [](Options& o) {
       o.allocation = AllocationChoice::optimal, o.sampling = SamplingChoice::fixed_budget;
     }},
    {"running",
     [](Options& o) {
       o.allocation = AllocationChoice::optimal, o.sensitivity = SensitivityChoice::running;
     }},
    {"scaled",
     [](Options& o) {
       o.allocation = AllocationChoice::optimal,
       o.gradient_scaling = ScalingChoice::inverse_keep_rate;
     }},
    {"warm-up",
     [](Options& o) { o.allocation = AllocationChoice::optimal, o.drop_warmup = o.steps / 5; }},
};

// Lengths of the runs of ordinary training, each with a complete learning-rate schedule. They show
// how much time each loss takes.
constexpr double full_lengths[] = {0.35, 0.5, 0.7, 1.0};

struct Run {
  std::string policy;  // "full" means ordinary training
  double drop_rate = 0.0;
  double length = 1.0;
  std::unique_ptr<llama::Trainer> trainer;
  std::uint64_t steps = 0;
  bench::Json curve = bench::Json::array();

  double seconds() const { return trainer->training_seconds() + trainer->measurement_seconds(); }
  double backward_flops() const {  // in units of one complete backward pass of the branches
    return trainer->summary().backward_flops_fraction * static_cast<double>(trainer->steps_done());
  }
};

// The reported values of one run.
struct Result {
  double loss = 0.0, seconds = 0.0, backward_flops = 0.0;
  double time = 0.0;     // as a fraction of the longest full run
  double flops = 0.0;    // as a fraction of the longest full run
  double speedup = 0.0;  // seconds of a full run to the same loss / seconds of this run
  int beyond = 0;  // -1: worse than the shortest full run, so the speed-up is an upper bound; 1:
                   // better than the longest full run
};

struct Figure {
  double mean = 0.0, deviation = 0.0;
};

Figure figure_of(const std::vector<Result>& results, double Result::* member) {
  Figure figure;
  for (const Result& result : results)
    figure.mean += result.*member / static_cast<double>(results.size());
  for (const Result& result : results)
    figure.deviation += (result.*member - figure.mean) * (result.*member - figure.mean);
  if (results.size() > 1)
    figure.deviation = std::sqrt(figure.deviation / static_cast<double>(results.size() - 1));
  return figure;
}

// Seconds that ordinary training needs to reach a loss: interpolates linearly between the full
// runs.
std::pair<double, int> full_seconds(std::vector<Result> full, double loss) {
  std::sort(full.begin(), full.end(),
            [](const Result& a, const Result& b) { return a.seconds < b.seconds; });
  if (loss > full.front().loss) return {full.front().seconds, -1};
  for (std::size_t i = 1; i < full.size(); ++i) {
    if (loss < full[i].loss) continue;
    const double share = (full[i - 1].loss - loss) / (full[i - 1].loss - full[i].loss);
    return {full[i - 1].seconds + share * (full[i].seconds - full[i - 1].seconds), 0};
  }
  return {full.back().seconds, 1};
}

struct Settings {
  std::string data = "/usr/include/linux", folder = "build/convergence";
  std::uint64_t steps = 200, pretraining_steps = 600;
  double learning_rate = 5e-4;
  int seeds = 3, threads = 0, evaluations = 4;
  llama::LlamaConfig shape{
      .hidden = 128, .intermediate = 344, .layers = 8, .heads = 4, .kv_heads = 4};
  std::set<std::string> policies;  // empty: all
  bool includes(const char* policy) const { return policies.empty() || policies.contains(policy); }
};

Options base_options(const Settings& settings) {
  Options options;
  options.shape = settings.shape;
  options.batch = 4;
  options.sequence = 128;
  options.eval_batches = 24;
  options.quiet = true;
  options.threads = settings.threads;
  return options;
}

void pretrain(const Settings& settings, const std::filesystem::path& model) {
  if (std::filesystem::exists(model / "config.json")) return;
  Options options = base_options(settings);
  options.steps = settings.pretraining_steps;
  const auto data = llama::TokenData::from_text(llama::find_default_corpus(),
                                                options.data_options(options.shape.vocabulary));
  llama::Trainer trainer(options, options.shape, data, 0.0);
  for (std::uint64_t step = 0; step < options.steps; ++step) {
    trainer.step();
    if (step % 50 == 49)
      fmt::print(stderr, "pre-training: step {} of {}, loss {:.3f}\n", step + 1, options.steps,
                 trainer.records().back().loss);
  }
  llama::prepare_folder(model);
  llama::save_weights(model, trainer.model());
}

// Runs all trainings of one seed, one step of each in turn, so that changes of the machine's speed
// affect all of them equally.
std::vector<Run> train(const Settings& settings, const llama::TokenData& data,
                       const std::filesystem::path& model, const std::vector<double>& drop_rates,
                       std::uint64_t seed) {
  const llama::LlamaConfig config = llama::load_config(model);
  std::vector<Run> runs;
  const auto add = [&](const char* policy, double drop_rate, double length,
                       void (*choose)(Options&)) {
    Options options = base_options(settings);
    options.model = model;
    options.learning_rate = settings.learning_rate;
    options.seed = seed;
    options.steps =
        static_cast<std::uint64_t>(std::lround(length * static_cast<double>(settings.steps)));
    options.drop_rate = drop_rate;
    options.sensitivity = SensitivityChoice::gradient_norm;
    if (choose != nullptr) choose(options);
    Run run;
    run.policy = policy;
    run.drop_rate = drop_rate;
    run.length = length;
    run.steps = options.steps;
    run.trainer = std::make_unique<llama::Trainer>(options, config, data, drop_rate);
    runs.push_back(std::move(run));
  };
  for (const double length : full_lengths) add("full", 0.0, length, nullptr);
  for (const Policy& policy : policies)
    if (settings.includes(policy.name))
      for (const double drop_rate : drop_rates) add(policy.name, drop_rate, 1.0, policy.choose);

  const std::uint64_t every =
      std::max<std::uint64_t>(1, settings.steps / static_cast<std::uint64_t>(settings.evaluations));
  for (std::uint64_t step = 0; step < settings.steps; ++step) {
    for (std::size_t i = 0; i < runs.size(); ++i) {
      Run& run = runs[(i + step) % runs.size()];
      if (step >= run.steps) continue;
      run.trainer->step();
      if ((step + 1) % every == 0 || step + 1 == run.steps)
        run.curve.push_back({{"step", step + 1},
                             {"seconds", run.seconds()},
                             {"backward_flops", run.backward_flops()},
                             {"validation_loss", run.trainer->validate()}});
    }
    if (step % 10 == 9)
      fmt::print(stderr, "seed {}: step {} of {}\n", seed, step + 1, settings.steps);
  }
  return runs;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Fine-tunes one small pre-trained LLaMA without dropping and with every policy at several "
      "drop rates, and compares validation losses by time and by backward FLOPs. Two cores need "
      "about half an hour.");
  Settings settings;
  bench::Options common(
      app, "a tiny model, 20 steps, one seed, two policies at rate 0.5: the results mean nothing");
  std::vector<std::string> chosen;
  std::vector<double> drop_rates = {0.5, 0.75, 0.875};
  app.add_option("--data", settings.data, "text for fine-tuning: a file or a folder")
      ->capture_default_str();
  app.add_option("--folder", settings.folder,
                 "folder of the pre-trained model, the table, the JSON and the SVGs")
      ->capture_default_str();
  app.add_option("--steps", settings.steps, "steps of each fine-tuning run")
      ->check(CLI::Range(20, 1000000))
      ->capture_default_str();
  app.add_option("--learning-rate", settings.learning_rate, "peak learning rate of fine-tuning")
      ->check(CLI::Range(1e-8, 1.0))
      ->capture_default_str();
  app.add_option("--pretraining-steps", settings.pretraining_steps,
                 "steps of pre-training, if the folder has no model")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--seeds", settings.seeds, "seeds; each runs everything once")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  std::vector<std::string> names;
  for (const Policy& policy : policies) names.push_back(policy.name);
  app.add_option("--policies", chosen, "policies to compare with full backward; default: all")
      ->check(CLI::IsMember(names))
      ->delimiter(',');
  app.add_option("--drop-rates", drop_rates, "target drop rates up to 0.9")
      ->check(CLI::Range(0.0, 0.9))
      ->delimiter(',')
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  settings.threads = common.threads;
  settings.policies = {chosen.begin(), chosen.end()};
  if (common.quick) {
    settings.shape = {.hidden = 32, .intermediate = 88, .layers = 4, .heads = 2, .kv_heads = 2};
    settings.steps = settings.pretraining_steps = 20;
    settings.seeds = settings.evaluations = 1;
    settings.folder += "-quick";
    settings.policies = {"published", "running"};
    drop_rates = {0.5};
  }
  common.begin();
  const std::filesystem::path folder = settings.folder;
  std::filesystem::create_directories(folder);
  llama::check_writable(folder / "convergence.json");
  const std::filesystem::path model = folder / "base";
  pretrain(settings, model);
  const auto data =
      llama::TokenData::from_text(settings.data, base_options(settings).data_options(256));

  using Key = std::pair<std::string, double>;
  std::map<Key, std::vector<Result>> results;
  std::map<double, std::vector<Result>> full;  // by length
  bench::Json json, runs_json = bench::Json::array();
  for (int number = 0; number < settings.seeds; ++number) {
    const std::uint64_t seed = static_cast<std::uint64_t>(number) + 1;
    const std::vector<Run> runs = train(settings, data, model, drop_rates, seed);
    std::vector<Result> of_full;
    const auto result_of = [](const Run& run) {
      return Result{.loss = run.curve.back()["validation_loss"].get<double>(),
                    .seconds = run.seconds(),
                    .backward_flops = run.backward_flops()};
    };
    for (const Run& one : runs)
      if (one.policy == "full") of_full.push_back(result_of(one));
    for (const Run& one : runs) {
      Result result = result_of(one);
      result.time = result.seconds / of_full.back().seconds;
      result.flops = result.backward_flops / of_full.back().backward_flops;
      const auto [seconds, beyond] = full_seconds(of_full, result.loss);
      result.speedup = seconds / result.seconds;
      result.beyond = beyond;
      if (one.policy == "full")
        full[one.length].push_back(result);
      else
        results[{one.policy, one.drop_rate}].push_back(result);
      const auto rates = one.trainer->drop_rates();
      runs_json.push_back({{"name", one.policy},
                           {"drop_rate", one.drop_rate},
                           {"seed", seed},
                           {"steps", one.steps},
                           {"validation_loss", result.loss},
                           {"seconds", result.seconds},
                           {"backward_flops_fraction", result.flops},
                           {"training_seconds", one.trainer->training_seconds()},
                           {"measurement_seconds", one.trainer->measurement_seconds()},
                           {"backward_flops", result.backward_flops},
                           {"peak_activation_bytes", one.trainer->summary().peak_activation_bytes},
                           {"drop_rates", std::vector<double>(rates.begin(), rates.end())},
                           {"curve", one.curve}});
    }
    // Write after each seed, so that an interrupted benchmark keeps its results.
    json = {{"data", settings.data},
            {"steps", settings.steps},
            {"learning_rate", settings.learning_rate},
            {"seeds", number + 1},
            {"threads", dropbp::ops::thread_count()},
            {"runs", runs_json}};
    llama::write_file_atomically(folder / "convergence.json", json.dump(1) + "\n");
  }

  std::string table = fmt::format(
      "{} steps of 512 tokens, {} seeds: mean +- standard deviation. Time and FLOPs are relative "
      "to full backward with as many\n"
      "steps; speed-up: time of a full run to the same loss / time (< and >: the loss is outside "
      "the range of the full runs)\n"
      "policy         drop rate     validation loss              time    backward FLOPs           "
      "speed-up\n",
      settings.steps, settings.seeds);
  llama::Plot by_time{.title = "Validation loss by training time",
                      .x_label = "time / full backward's",
                      .y_label = "validation loss (nats per token)",
                      .series = {}};
  llama::Plot by_flops{.title = "Validation loss by backward FLOPs",
                       .x_label = "backward FLOPs / full backward's",
                       .y_label = "validation loss (nats per token)",
                       .series = {}};
  const auto row = [&](const std::string& name, const std::string& rate,
                       const std::vector<Result>& of) {
    const Figure loss = figure_of(of, &Result::loss), time = figure_of(of, &Result::time),
                 flops = figure_of(of, &Result::flops), speedup = figure_of(of, &Result::speedup);
    int beyond = 0;
    for (const Result& result : of) beyond = result.beyond != 0 ? result.beyond : beyond;
    table += fmt::format(
        "{:<14} {:>9}   {:.4f} +- {:.4f}   {:.3f} +- {:.3f}   {:.3f} +- {:.3f}   {:>2}{:.2f} +- "
        "{:.2f}\n",
        name, rate, loss.mean, loss.deviation, time.mean, time.deviation, flops.mean,
        flops.deviation,
        beyond < 0   ? "<"
        : beyond > 0 ? ">"
                     : "",
        speedup.mean, speedup.deviation);
    by_time.series.back().points.emplace_back(time.mean, loss.mean);
    by_flops.series.back().points.emplace_back(flops.mean, loss.mean);
  };
  const auto begin = [&](const std::string& name) {
    by_time.series.push_back({name, {}});
    by_flops.series.push_back({name, {}});
  };
  begin("full");
  for (const auto& [length, of] : full) row(fmt::format("full x {:g}", length), "0", of);
  for (const Policy& policy : policies) {
    if (!settings.includes(policy.name)) continue;
    begin(policy.name);
    double best = 0.0;
    for (const double rate : drop_rates) {
      const std::vector<Result>& of = results[{policy.name, rate}];
      row(policy.name, fmt::format("{:g}", rate), of);
      best = std::max(best, figure_of(of, &Result::speedup).mean);
    }
    json["speedup_to_baseline_loss"][policy.name] = best;  // at the best rate
  }
  std::fputs(table.c_str(), stdout);
  llama::write_file_atomically(folder / "convergence.txt", table);
  llama::write_file_atomically(folder / "convergence.json", json.dump(1) + "\n");
  llama::write_svg(folder / "loss_by_time.svg", by_time);
  llama::write_svg(folder / "loss_by_flops.svg", by_flops);
  common.write(json);
  common.write(by_time);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("convergence", argc, argv, run); }
