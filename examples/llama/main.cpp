// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// llama-finetune: trains a LLaMA-style model on the CPU with the backward passes of random branches
// dropped.
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <fmt/format.h>
#include <dropbp/ops/parallel.hpp>
#include <dropbp/version.hpp>

#include "adapter.hpp"
#include "atomic_file.hpp"
#include "checkpoint.hpp"
#include "corpus.hpp"
#include "data.hpp"
#include "errors.hpp"
#include "options.hpp"
#include "plot.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "trainer.hpp"
#include "training_checkpoint.hpp"

namespace {

using namespace llama;

volatile std::sig_atomic_t interrupted = 0;

// The first signal ends the training after the current step, so that nothing is lost; the second
// ends the program.
extern "C" void on_interrupt(int signal) {
  interrupted = 1;
  std::signal(signal, SIG_DFL);
}

std::string adapter_text(const Options& options, auto& model) {
  if (options.mode == ModeChoice::full) return "";
  std::size_t trained = 0;
  for (const auto* parameter : model.parameters())
    if (parameter->trained) trained += parameter->size();
  return fmt::format(" in {:.1f} MiB, of adapters {}",
                     static_cast<double>(model.base_bytes()) / (1 << 20), trained);
}

std::string optional_number(const std::optional<double>& value) {
  return value ? fmt::format("{:.4f}", *value) : "-";
}

std::string table_row(const std::string& name, const auto& trainer) {
  const Summary summary = trainer.summary();
  if (trainer.records().empty())
    return fmt::format("{:<16} {:>8} {:>10} {:>9} {:>10} {:>11} {:>12} {:>15}\n", name, "-",
                       optional_number(summary.validation_loss), "-", "-", "-", "-", "-");
  const auto mean = [&](double StepRecord::* figure) {
    double sum = 0.0;
    for (const StepRecord& record : trainer.records()) sum += record.*figure;
    return sum / static_cast<double>(trainer.records().size());
  };
  return fmt::format("{:<16} {:>8.4f} {:>10} {:>9.0f} {:>10.1f} {:>11.1f} {:>12.1f} {:>15.1f}\n",
                     name, summary.final_loss, optional_number(summary.validation_loss),
                     summary.tokens_per_second, mean(&StepRecord::forward_ms),
                     mean(&StepRecord::backward_ms), mean(&StepRecord::optimizer_ms),
                     static_cast<double>(summary.peak_activation_bytes) / (1 << 20));
}

template <class T, class B>
void print_result(const Options& options, const BasicTrainer<T, B>& run,
                  const BasicTrainer<T, B>* baseline) {
  std::string text =
      "                     loss validation  tokens/s forward ms backward ms optimizer ms "
      "activations MiB\n";
  if (baseline != nullptr) text += table_row("drop rate 0", *baseline);
  text += table_row(fmt::format("drop rate {:g}", options.drop_rate), run);
  const Summary summary = run.summary();
  if (run.records().empty()) return void(std::fputs(text.c_str(), stdout));
  text +=
      fmt::format("dropped: {:.1f} % of the branches' backward passes, {:.1f} % of their FLOPs\n",
                  100.0 * summary.mean_drop_rate, 100.0 * (1.0 - summary.backward_flops_fraction));
  if (baseline != nullptr) {
    const Comparison c = compare(run.records(), baseline->records());
    const auto saved = [](double ratio) { return 100.0 * (1.0 - ratio); };
    text += fmt::format(
        "saved:   backward time {:.1f} % (limit {:.1f} %), whole step {:.1f} % (limit {:.1f} %), "
        "activations {:.1f} % (limit {:.1f} %)\n"
        "loss of the first step: difference {:g}\n",
        saved(c.backward_ratio), saved(c.backward_limit), saved(c.step_ratio), saved(c.step_limit),
        saved(c.activation_ratio), saved(c.activation_limit), c.loss_difference);
  }
  std::fputs(text.c_str(), stdout);
}

template <class T, class B>
Plot loss_plot(const Options& options, const BasicTrainer<T, B>& run,
               const BasicTrainer<T, B>* baseline) {
  Plot plot{.title = "Loss while training, with and without dropped backward passes",
            .x_label = "training time (s)",
            .y_label = "loss (nats per token)",
            .series = {}};
  const auto add = [&](const std::string& name, const BasicTrainer<T, B>& trainer) {
    Series loss{.name = name + ", training (mean of 10 steps)", .points = {}};
    Series validation{.name = name + ", validation", .points = {}};
    double seconds = 0.0, sum = 0.0;
    for (const StepRecord& record : trainer.records()) {
      seconds += 1e-3 * record.step_ms;
      sum += record.loss;
      if (record.step % 10 == 9) loss.points.emplace_back(seconds, sum / 10.0), sum = 0.0;
      if (record.validation_loss) validation.points.emplace_back(seconds, *record.validation_loss);
    }
    plot.series.push_back(std::move(loss));
    if (!validation.points.empty()) plot.series.push_back(std::move(validation));
  };
  if (baseline != nullptr) add("drop rate 0", *baseline);
  add(fmt::format("drop rate {:g}", options.drop_rate), run);
  return plot;
}

/// Runs what may fail; the first failure of all is thrown at the end.
class Attempts {
 public:
  /// Whether `run` did not throw.
  template <class Run>
  bool operator()(const Run& run) {
    try {
      run();
      return true;
    } catch (...) {
      if (!first_) first_ = std::current_exception();
      return false;
    }
  }
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::exception_ptr first_;
};

template <class T, class B>
void train(const Options& options, BasicTrainer<T, B>& trainer, BasicTrainer<T, B>* baseline,
           TrainingCheckpoints* checkpoints, Progress& progress, Attempts& attempts) {
  if (options.steps == 0 && trainer.can_validate()) {
    if (baseline != nullptr) baseline->validate();
    trainer.validate();
  }
  while (trainer.steps_done() < options.steps) {
    // In turn, and each first in every other step: drifts of the machine's speed meet both alike.
    const bool baseline_first = trainer.steps_done() % 2 == 0;
    if (baseline != nullptr && baseline_first) baseline->step();
    trainer.step();
    if (baseline != nullptr && !baseline_first) baseline->step();

    const std::uint64_t done = trainer.steps_done();
    const bool planned =
        done == options.steps || (options.eval_every > 0 && done % options.eval_every == 0);
    ProgressUpdate update{.steps_done = done,
                          .loss = trainer.records().back().loss,
                          .validation_loss = std::nullopt,
                          .tokens_per_second = trainer.summary().tokens_per_second,
                          .drop_rate = trainer.drop_report().mean_drop_rate()};
    const auto validate = [&] {
      if (!trainer.can_validate()) return;
      if (baseline != nullptr) baseline->validate();
      update.validation_loss = trainer.validate();
    };
    if (planned) validate();
    const bool stop = interrupted != 0;
    const bool due = options.checkpoint_every > 0 && done % options.checkpoint_every == 0;
    bool saved = true;
    if (checkpoints != nullptr && (due || stop || done == options.steps))
      saved = attempts([&] { checkpoints->save(trainer); });
    // After the checkpoint, which must not hold what an uninterrupted run would not have measured.
    if (stop && !planned) validate();
    progress.update(update);
    if (stop || !saved) break;
  }
}

/// Null without --checkpoint. With --resume the trainer stands where the run was interrupted.
std::unique_ptr<TrainingCheckpoints> open_checkpoints(const Options& options,
                                                      const LlamaConfig& config,
                                                      const TokenData& data, auto& trainer) {
  if (!options.checkpoint) return nullptr;
  auto checkpoints = std::make_unique<TrainingCheckpoints>(
      *options.checkpoint, identity_of(options, config, data, trainer.model()));
  const auto note = [](std::string_view text) { fmt::print(stderr, "llama-finetune: {}\n", text); };
  if (!options.resume && !checkpoints->empty())
    throw UsageError(
        fmt::format("a new run needs a folder without checkpoints, but '{}' has some; add --resume "
                    "or give another one",
                    options.checkpoint->string()));
  if (options.resume && !checkpoints->resume(trainer, note))
    note(fmt::format("no intact checkpoint is in '{}'; starting from the beginning",
                     options.checkpoint->string()));
  return checkpoints;
}

template <class T, class Backend>
int run(const Options& options) {
  using Trainer = BasicTrainer<T, Backend>;
  // Whatever cannot be written is found out now, not after the training.
  if (options.report) check_writable(*options.report);
  if (options.plot) check_writable(*options.plot);
  const FolderFormat& out_format = options.mode == ModeChoice::full ? model_format : adapter_format;
  if (options.out) prepare_checkpoint_folder(*options.out, out_format);
  if (options.merge_out) prepare_checkpoint_folder(*options.merge_out);
  if (std::error_code none; options.merge_out && options.model &&
                            std::filesystem::equivalent(*options.merge_out, *options.model, none))
    throw UsageError(
        fmt::format("--merge-out must not replace the model that adapters belong to, but it is "
                    "'{}', as --model is; give another folder",
                    options.merge_out->string()));
  dropbp::ops::set_thread_count(options.threads);

  LlamaConfig config = options.model ? load_config(*options.model) : options.shape;
  const Corpus corpus = load_corpus(options, config);
  const TokenData& data = corpus.data;
  Trainer trainer(options, config, data, options.drop_rate);
  std::unique_ptr<TrainingCheckpoints> checkpoints =
      open_checkpoints(options, config, data, trainer);
  std::unique_ptr<Trainer> baseline;
  if (options.baseline) baseline = std::make_unique<Trainer>(options, config, data, 0.0);

  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
  const ProgressStyle style =
      choose_progress_style(options.progress, options.quiet, is_terminal(stderr));
  Progress::Settings settings;
  settings.style = style;
  settings.steps = options.steps;
  settings.first_step = trainer.steps_done();
  settings.log_every = options.log_every;
  Progress progress(settings);
  if (!options.quiet) {
    for (const std::string& note : corpus.notes) progress.message(note);
    progress.message(fmt::format(
        "{} parameters{}, {} training tokens, {} steps of {} tokens, drop rate {:g}{}",
        parameter_count(config), adapter_text(options, trainer.model()), data.train().size(),
        options.steps, options.batch * options.sequence * options.micro_steps, options.drop_rate,
        trainer.steps_done() > 0 ? fmt::format(", resumed after step {}", trainer.steps_done())
                                 : ""));
  }
  // What goes wrong is thrown at the end: hours of training may be in whatever can still be
  // written.
  Attempts attempts;
  const bool trained = attempts([&] {
    train<T, Backend>(options, trainer, baseline.get(), checkpoints.get(), progress, attempts);
  });
  progress.clear();
  if (trained) {
    if (options.out && options.mode == ModeChoice::full)
      attempts([&] {
        save_weights(*options.out, trainer.model(), options.out_dtype, options.max_shard_size);
      });
    if (options.out && options.mode != ModeChoice::full)
      attempts([&] {
        save_adapter(*options.out, trainer.model(),
                     options.model ? options.model->string() : std::string(), options.out_dtype);
      });
    if (options.merge_out)
      attempts([&] {
        save_weights(*options.merge_out, trainer.model(), options.out_dtype,
                     options.max_shard_size);
      });
  }
  if (options.report)
    attempts([&] {
      Options used = options;
      used.tokenizer = corpus.tokenizer;
      write_report(*options.report, used, config, trainer.model().adaptation(),
                   {trainer.records(), trainer.summary()},
                   baseline ? std::optional(RunReport{baseline->records(), baseline->summary()})
                            : std::nullopt);
    });
  if (trained) print_result<T, Backend>(options, trainer, baseline.get());
  if (trained && options.plot)
    attempts(
        [&] { write_svg(*options.plot, loss_plot<T, Backend>(options, trainer, baseline.get())); });
  attempts.rethrow();
  if (trainer.steps_done() < options.steps) {
    fmt::print(
        stderr,
        "llama-finetune: interrupted after step {} of {}; everything up to there was written{}\n",
        trainer.steps_done(), options.steps, checkpoints ? ", go on with --resume" : "");
    return 1;
  }
  return 0;
}

int run(const Options& options) {
  if (options.device == DeviceChoice::cpu) return run<float, dropbp::Cpu>(options);
#if defined(DROPBP_LLAMA_CUDA)
  if (const std::string why = dropbp::device_runtime<dropbp::Cuda>::missing(); !why.empty())
    throw std::runtime_error(why);
  return options.precision == PrecisionChoice::bfloat16
             ? run<dropbp::BFloat16, dropbp::Cuda>(options)
             : run<float, dropbp::Cuda>(options);
#else
  throw std::runtime_error(
      "--device cuda needs a program that was built with CUDA, but this one was built without; "
      "configure with -DDROPBP_ENABLE_CUDA=ON where nvcc is, or use --device cpu");
#endif
}

}  // namespace

int main(int argc, char** argv) {
  const std::string version =
      fmt::format("{}.{}.{}", DROPBP_VERSION_MAJOR, DROPBP_VERSION_MINOR, DROPBP_VERSION_PATCH);
  const CommandLine command_line = parse_options(argc, argv, version);
  if (!command_line.options) {
    std::fputs(command_line.text.c_str(), command_line.exit_code == 0 ? stdout : stderr);
    return command_line.exit_code;
  }
  try {
    return run(*command_line.options);
  } catch (const UsageError& error) {
    fmt::print(stderr, "llama-finetune: {}\n", error.what());
    return 2;
  } catch (const std::bad_alloc&) {
    fmt::print(
        stderr,
        "llama-finetune: the model and its activations must fit the memory, but there is not "
        "enough: lower --batch, --sequence or the model's sizes, or raise --drop-rate\n");
  } catch (const std::exception& error) {
    fmt::print(stderr, "llama-finetune: {}\n", error.what());
  }
  return 1;
}
