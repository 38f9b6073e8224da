// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Does dropping reach a loss sooner than ordinary training, and which choice of branches does best?
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "benchmark.hpp"
#include "convergence/page.hpp"
#include "convergence/results.hpp"
#include "llama/app/trainer.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/formats/tokenizer.hpp"

namespace {

namespace fs = std::filesystem;
using bench::Method;
using bench::Regime;

struct Settings {
  std::string data = "/usr/include/linux";
  fs::path folder = "build/convergence", page, model;
  std::vector<Regime> regimes;
  std::vector<const Method*> methods;
  int seeds = 3, jobs = 1;
  std::uint64_t steps = 0;  // 0: the regime's
  bool only_report = false;
};

// The folder of the regime's pre-trained model; trains it if it is not there.
fs::path base_of(const Settings& settings, const Regime& regime) {
  if (regime.given) return settings.model;
  const fs::path folder =
      settings.folder / fmt::format("base-{}x{}-{}", regime.shape.layers, regime.shape.hidden,
                                    regime.pretraining_steps);
  if (fs::exists(folder / "config.json")) return folder;
  llama::Options options;
  options.shape = regime.shape;
  options.steps = regime.pretraining_steps;
  options.batch = 16;
  options.sequence = regime.sequence;
  options.learning_rate = 3e-3;
  const auto data = llama::TokenData::from_text(llama::find_default_corpus(),
                                                options.data_options(options.shape.vocabulary));
  llama::Trainer trainer(options, options.shape, data, 0.0);
  for (std::uint64_t step = 0; step < options.steps; ++step) {
    trainer.step();
    if (step % 50 == 49)
      fmt::print(stderr, "pre-training: step {} of {}, loss {:.3f}\n", step + 1, options.steps,
                 trainer.records().back().loss);
  }
  llama::prepare_folder(folder);
  llama::save_weights(folder, trainer.model());
  return folder;
}

llama::TokenData data_of(const Settings& settings, const Regime& regime) {
  llama::DataOptions options = llama::Options{}.data_options(regime.shape.vocabulary);
  if (!regime.given) return llama::TokenData::from_text(settings.data, options);
  options.max_bytes = 4 << 20;
  const llama::Tokenizer tokenizer(settings.model / "tokenizer.json");
  return llama::TokenData::from_text(settings.data, options, &tokenizer);
}

// The parts of a step by the methods' shares of the batch. They are measured once.
std::map<double, bench::StepParts> parts_of(const Settings& settings, const Regime& regime,
                                            const std::string& identity, const fs::path& base,
                                            const llama::TrainingData& data) {
  const fs::path file = settings.folder / "parts.json";
  bench::Json all = bench::Json::object();
  if (std::ifstream in(file); in) all = bench::Json::parse(in);
  std::map<double, bench::StepParts> parts;
  bool changed = false;
  for (const Method& method : bench::methods()) {
    if (parts.contains(method.batch)) continue;
    bench::Json& one = all[identity][fmt::format("{}", method.batch)];
    if (one.is_null()) {
      const bench::StepParts measured = bench::with_scalar(regime, [&]<class T>() {
        return bench::Training<T>(regime, method, base, data, 1)
            .measure_parts(regime.given ? 5 : 20);
      });
      one = {{"fixed", measured.fixed},
             {"branches", measured.branches},
             {"optimizer", measured.optimizer}};
      changed = true;
    }
    parts[method.batch] = {one["fixed"].get<double>(), one["branches"].get<double>(),
                           one["optimizer"].get<double>()};
  }
  if (changed) llama::write_file_atomically(file, all.dump(1) + "\n");
  return parts;
}

// What first steps gain. It is measured once.
bench::FirstSteps first_steps_of(const Settings& settings, const Regime& regime,
                                 const std::string& identity, const fs::path& base,
                                 const llama::TrainingData& data) {
  const fs::path file = settings.folder / "first_steps.json";
  bench::Json all = bench::Json::object();
  if (std::ifstream in(file); in) all = bench::Json::parse(in);
  bench::Json& one = all[identity];
  if (one.is_null()) {
    const bench::FirstSteps measured = bench::with_scalar(regime, [&]<class T>() {
      return bench::Training<T>(regime, bench::methods().front(), base, data, 1)
          .measure_first_steps(regime.given ? 4 : 8);
    });
    one = {{"half", measured.half},
           {"quarter", measured.quarter},
           {"uniform", measured.uniform},
           {"kept", measured.kept}};
    llama::write_file_atomically(file, all.dump(1) + "\n");
  }
  return {one["half"].get<double>(), one["quarter"].get<double>(), one["uniform"].get<double>(),
          one["kept"].get<double>()};
}

// The runs of one regime.
class Work {
 public:
  Work(const Settings& settings, const Regime& regime, std::string identity, fs::path base,
       const llama::TrainingData& data, bench::DoneRuns& runs)
      : settings_(settings),
        regime_(regime),
        identity_(std::move(identity)),
        base_(std::move(base)),
        data_(data),
        runs_(runs) {}

  // Several threads take one method after the other.
  void run() {
    std::atomic<std::size_t> next{0};
    std::exception_ptr failure;
    std::mutex mutex;
    const auto take = [&] {
      try {
        for (std::size_t i = next++; i < settings_.methods.size(); i = next++)
          run_method(*settings_.methods[i]);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
        next = settings_.methods.size();
      }
    };
    std::vector<std::thread> others;
    for (int i = 1; i < settings_.jobs; ++i) others.emplace_back(take);
    take();
    for (std::thread& one : others) one.join();
    if (failure) std::rethrow_exception(failure);
  }

 private:
  void run_method(const Method& method) {
    const double learning_rate = tune(method);
    for (int seed = 1; seed <= settings_.seeds; ++seed)
      for (const double length : method.lengths) run_one(method, learning_rate, length, seed);
  }

  // Doubles or halves the learning rate until the loss on the first seed rises on both sides.
  double tune(const Method& method) {
    const auto loss = [&](double learning_rate) {
      return run_one(method, learning_rate, method.lengths.front(), 1);
    };
    double best = regime_.learning_rate, least = loss(best);
    const double start = best;
    for (const double factor : {2.0, 0.5}) {
      if (best != start) break;  // the loss fell in the first direction, so it rises in the other
      for (double at = start * factor, here = loss(at); here < least; here = loss(at *= factor))
        best = at, least = here;
    }
    return best;
  }

  double run_one(const Method& method, double learning_rate, double length, int seed) {
    const bench::RunKey key =
        bench::key_of(regime_, identity_, method, learning_rate, length, seed);
    if (const auto done = runs_.find(key)) return done->validation_loss;
    const auto steps =
        static_cast<std::uint64_t>(std::lround(length * static_cast<double>(regime_.steps)));
    const bench::Outcome outcome = bench::with_scalar(regime_, [&]<class T>() {
      bench::Training<T> training(regime_, method, base_, data_, key.seed);
      const auto plans = method.plans(training.setup(steps));
      return training.run(*plans, steps, learning_rate);
    });
    runs_.add(key, outcome);
    fmt::print(stderr, "{}: {}, learning rate {:g}, length {:g}, seed {}: loss {:.4f}\n",
               regime_.name, method.name, learning_rate, length, seed, outcome.validation_loss);
    return outcome.validation_loss;
  }

  const Settings& settings_;
  const Regime& regime_;
  std::string identity_;
  fs::path base_;
  const llama::TrainingData& data_;
  bench::DoneRuns& runs_;
};

void make_quick(Settings& settings) {
  settings.folder += "-quick";
  settings.seeds = 2;
  Regime quick;
  quick.name = "quick";
  quick.shape = {.hidden = 16, .intermediate = 32, .layers = 4, .heads = 2, .kv_heads = 2};
  quick.pretraining_steps = 5;
  quick.batch = 2, quick.sequence = 16, quick.micro_steps = 2, quick.steps = 20;
  settings.regimes = {quick};
}

// As it is typed, from the program's folder in a build of benchmarks/run.sh.
std::string command_of(int argc, char** argv) {
  std::string command = "build/benchmark/benchmarks/convergence";
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--only-report") continue;  // what it reports on came from the rest
    const bool plain = word.find_first_of(" ;'\"$") == std::string::npos;
    command += plain ? " " + word : fmt::format(" '{}'", word);
  }
  return command;
}

template <class T>
std::vector<std::string> names_of(const std::vector<T>& table) {
  std::vector<std::string> names;
  for (const T& one : table) names.emplace_back(one.name);
  return names;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Fine-tunes a small pre-trained LLaMA by several methods, each at its best learning rate, "
      "and "
      "compares validation losses over modelled time: the processor time of the parts of a step, "
      "measured once, times what each run did. A run that is done is a line in runs.jsonl of "
      "--folder and is not repeated.");
  Settings settings;
  bench::Options common(app, "a tiny model and 20 steps: the results mean nothing", false);
  std::vector<std::string> regimes = {"full"}, chosen;
  app.add_option("--data", settings.data, "text for fine-tuning: a file or a folder")
      ->capture_default_str();
  app.add_option("--folder", settings.folder, "folder of the pre-trained models and the runs")
      ->capture_default_str();
  app.add_option("--model", settings.model,
                 "folder of a LLaMA with tokenizer.json, for the regimes that need one: as "
                 "examples/llama/real/get_smollm2.sh writes")
      ->check(CLI::ExistingDirectory);
  app.add_option("--page", settings.page,
                 "page to write, as Markdown; default: convergence.md in --folder");
  app.add_option("--regimes", regimes, "what is trained, and on what")
      ->check(CLI::IsMember(names_of(bench::regimes())))
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--methods", chosen, "default: all")
      ->check(CLI::IsMember(names_of(bench::methods())))
      ->delimiter(';');
  app.add_option("--steps", settings.steps, "steps of a run; default: the regime's")
      ->check(CLI::Range(1, 1000000));
  app.add_option("--seeds", settings.seeds, "seeds of each method")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--jobs", settings.jobs, "runs at a time, each on one thread")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_flag("--only-report", settings.only_report,
               "train nothing: report on the runs that are done");
  CLI11_PARSE(app, argc, argv);
  for (const Regime& regime : bench::regimes())
    if (std::find(regimes.begin(), regimes.end(), regime.name) != regimes.end())
      settings.regimes.push_back(regime);
  for (const Method& method : bench::methods())
    if (chosen.empty() || std::find(chosen.begin(), chosen.end(), method.name) != chosen.end())
      settings.methods.push_back(&method);
  for (Regime& regime : settings.regimes) {
    if (settings.steps > 0) regime.steps = settings.steps;
    if (!regime.given) continue;
    if (settings.model.empty())
      throw std::invalid_argument("the regime '" + std::string(regime.name) +
                                  "' needs a model; pass its folder with --model");
    regime.shape = llama::load_config(settings.model);
  }
  if (common.quick) make_quick(settings);
  if (settings.page.empty()) settings.page = settings.folder / "convergence.md";
  common.threads = 1;
  common.begin();
  fs::create_directories(settings.folder);
  llama::check_writable(settings.page);

  bench::DoneRuns runs(settings.folder / "runs.jsonl");
  bench::Page page;
  for (const Regime& regime : settings.regimes) {
    const std::string identity = regime.identity(settings.data);
    const fs::path base = base_of(settings, regime);
    const auto data = data_of(settings, regime);
    const auto parts = parts_of(settings, regime, identity, base, data);
    if (!settings.only_report) Work(settings, regime, identity, base, data, runs).run();
    page.add(regime, identity, parts, first_steps_of(settings, regime, identity, base, data),
             bench::Analysis(regime, identity, runs, parts, settings.seeds));
  }
  const std::string text = page.text(command_of(argc, argv), common.svg_name());
  std::fputs(text.c_str(), stdout);
  llama::write_file_atomically(settings.page, text);
  common.write(page.json());
  common.write(page.plots());
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("convergence", argc, argv, run); }
