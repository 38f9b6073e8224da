// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// llama-finetune: trains a LLaMA-style model on the CPU with the backward passes of random branches
// dropped.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <dropbp/kernels/cpu/parallel.hpp>
#include <dropbp/version.hpp>

#include "llama/app/corpus.hpp"
#include "llama/app/data.hpp"
#include "llama/app/errors.hpp"
#include "llama/app/options.hpp"
#include "llama/app/plot.hpp"
#include "llama/app/progress.hpp"
#include "llama/app/report.hpp"
#include "llama/app/trainer.hpp"
#include "llama/app/training_checkpoint.hpp"
#include "llama/formats/adapter.hpp"
#include "llama/formats/atomic_file.hpp"
#include "llama/formats/checkpoint.hpp"
#include "llama/formats/output_lock.hpp"

namespace {

using namespace llama;

volatile std::sig_atomic_t interrupted = 0;  // by which signal; 0 is by none

constexpr std::string_view stopping =
    "\nllama-finetune: stopping after this step; Ctrl-C once more ends at once\n";

// The first signal ends the training after the current step, so that nothing is lost. A second
// Ctrl-C ends the program; SIGTERM and SIGHUP do not, because timeout(1), shells and job
// schedulers send them twice.
extern "C" void on_interrupt(int signal) {
  if (interrupted == 0) {
    interrupted = signal;
    const int error = errno;
    if (signal == SIGINT && ::write(STDERR_FILENO, stopping.data(), stopping.size()) < 0) {
    }
    errno = error;
  } else if (signal == SIGINT) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
  }
}

void catch_interrupts() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction now{};
    // What was ignored from the start, as by nohup, stays so.
    if (::sigaction(signal, nullptr, &now) == 0 && now.sa_handler != SIG_IGN)
      std::signal(signal, on_interrupt);
  }
}

/// A file that is opened must not become what is printed to: a model, where stdout or stderr was
/// closed. Each is opened for the wrong direction, so that its use still fails.
void open_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(stream, F_GETFD) < 0 && errno == EBADF)
      if (::open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY) != stream) std::abort();
}

/// Nobody may be there to read it.
void say(std::string_view text) {
  const std::string line = fmt::format("llama-finetune: {}\n", text);
  std::fwrite(line.data(), 1, line.size(), stderr);
}

/// Whether a write failed because nobody is there any more: a closed pipe or terminal.
bool nobody_reads(int error) {
  struct stat status{};
  return error == EPIPE ||
         (error == EIO && ::fstat(STDOUT_FILENO, &status) == 0 && S_ISCHR(status.st_mode));
}

/// Throws where it cannot be written, though somebody would read it.
void print(std::string_view text) {
  const bool written =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  const int error = errno;
  if (!written && !nobody_reads(error))
    throw std::runtime_error(
        fmt::format("what is printed must be written to the standard output, but that failed: {}; "
                    "print to a terminal, a pipe or a file with room",
                    std::generic_category().message(error)));
}

/// The locks on all that a run writes, until it ends.
class OutputLocks {
 public:
  void add(Output kind, const std::optional<std::filesystem::path>& output) {
    if (!output) return;
    if (kind == Output::folder) create_folder(*output);
    if (OutputLock::held_here(kind, *output)) return;  // one folder for two outputs of a run
    const OutputLock& lock = locks_.emplace_back(kind, *output);
    if (lock.missing().empty()) {
      if (kind == Output::file) remove_leftovers(*output);
    } else {
      say(
          fmt::format("'{}' must belong to one run at a time, but its file system has no locks "
                      "({}); see to it that no other run writes there",
                      output->string(), lock.missing()));
    }
  }

 private:
  static void remove_leftovers(const std::filesystem::path& output) {
    const std::filesystem::path file = resolve_output(output);
    remove_temporaries(file.has_parent_path() ? file.parent_path() : ".",
                       [&](std::string_view name) { return name == file.filename().string(); });
  }
  std::deque<OutputLock> locks_;
};

/// A file of results must not take the place of another one of the run.
void check_files(const Options& options) {
  using Path = std::filesystem::path;
  using Flag = std::pair<const char*, const std::optional<Path>&>;
  const auto place_of = [](const Path& path) {
    std::error_code none;
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path), none);
  };
  const auto refuse = [](const Flag& written, const char* other) {
    throw UsageError(
        fmt::format("{} must be a file of its own, but '{}' is also of {}; give another name",
                    written.first, written.second->string(), other));
  };
  const Flag report{"--report", options.report}, plot{"--plot", options.plot};
  for (const Flag& written : {report, plot}) {
    if (!written.second) continue;
    const Path place = place_of(*written.second);
    for (const Flag& other : {Flag{"--data", options.data}, Flag{"--tokens", options.tokens},
                              Flag{"--tokenizer", options.tokenizer}, report})
      if (other.second && written.first != other.first && place == place_of(*other.second))
        refuse(written, other.first);
    for (const Flag& folder : {Flag{"--model", options.model}, Flag{"--adapter", options.adapter},
                               Flag{"--out", options.out}, Flag{"--merge-out", options.merge_out},
                               Flag{"--checkpoint", options.checkpoint}}) {
      const std::string name = place.filename().string();
      const bool is_of_folder = name.ends_with(".safetensors") || name.ends_with(".index.json") ||
                                name == model_format.config || name == adapter_format.config ||
                                is_companion(name);
      if (folder.second && is_of_folder && place.parent_path() == place_of(*folder.second))
        refuse(written, folder.first);
    }
  }
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
  if (run.records().empty()) return print(text);
  text +=
      fmt::format("dropped: {:.1f} % of the branches' backward passes, {:.1f} % of their FLOPs\n",
                  100.0 * summary.mean_drop_rate, 100.0 * (1.0 - summary.backward_flops_fraction));
  if (baseline != nullptr) {
    const Comparison c = compare(run.records(), baseline->records());
    const auto saved = [](double ratio) { return 100.0 * (1.0 - ratio); };
    text += fmt::format(
        "saved:   backward time {:.1f} % (limit {:.1f} %), whole step {:.1f} % (limit {:.1f} %),\n"
        "         activations {:.1f} % (limit {:.1f} %)\n"
        "loss of the first step: difference {:g}\n",
        saved(c.backward_ratio), saved(c.backward_limit), saved(c.step_ratio), saved(c.step_limit),
        saved(c.activation_ratio), saved(c.activation_limit), c.loss_difference);
  }
  print(text);
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
      *options.checkpoint, identity_of(options, config, data, trainer.model()),
      TrainingCheckpoints::FolderLock::taken);
  if (!options.resume && !checkpoints->empty())
    throw UsageError(
        fmt::format("a new run needs a folder without checkpoints, but '{}' has some; add --resume "
                    "or give another one",
                    options.checkpoint->string()));
  if (options.resume && !checkpoints->resume(trainer, say))
    say(fmt::format("no intact checkpoint is in '{}'; starting from the beginning",
                    options.checkpoint->string()));
  return checkpoints;
}

template <class T, class Backend>
int run(const Options& options) {
  using Trainer = BasicTrainer<T, Backend>;
  // Whatever cannot be written is found out now, not after the training.
  check_files(options);
  if (options.report) check_writable(*options.report);
  if (options.plot) check_can_plot(*options.plot);
  const FolderFormat& out_format = options.mode == ModeChoice::full ? model_format : adapter_format;
  if (options.out) prepare_checkpoint_folder(*options.out, out_format);
  if (options.merge_out) prepare_checkpoint_folder(*options.merge_out);
  if (std::error_code none; options.merge_out && options.model &&
                            std::filesystem::equivalent(*options.merge_out, *options.model, none))
    throw UsageError(
        fmt::format("--merge-out must not replace the model that adapters belong to, but it is "
                    "'{}', as --model is; give another folder",
                    options.merge_out->string()));
  OutputLocks locks;
  for (const auto& folder : {options.out, options.merge_out, options.checkpoint})
    locks.add(Output::folder, folder);
  for (const auto& file : {options.report, options.plot}) locks.add(Output::file, file);
  dropbp::ops::set_thread_count(0);  // one on each processor
  for (const std::string& warning : warnings_of(options, dropbp::ops::thread_count())) say(warning);
  dropbp::ops::set_thread_count(options.threads);

  LlamaConfig config = options.model ? load_config(*options.model, say) : options.shape;
  // Read now: hours later the folder may be another one, or this run's own.
  const bool writes_model = options.merge_out || (options.out && options.mode == ModeChoice::full);
  Companions companions;
  DType out_dtype = DType::f32;
  if (options.model && writes_model) {
    companions = load_companions(*options.model);
    out_dtype = stored_dtype(*options.model);
    if (const std::string text = companions.text(); !text.empty() && !options.quiet)
      say(fmt::format("'{}' also gets, from '{}': {}",
                      (options.merge_out ? *options.merge_out : *options.out).string(),
                      options.model->string(), text));
  }
  out_dtype = options.out_dtype.value_or(out_dtype);
  const Corpus corpus = load_corpus(options, config);
  const TokenData& data = corpus.data;
  Trainer trainer(options, config, data, options.drop_rate);
  std::unique_ptr<TrainingCheckpoints> checkpoints =
      open_checkpoints(options, config, data, trainer);
  std::unique_ptr<Trainer> baseline;
  if (options.baseline) baseline = std::make_unique<Trainer>(options, config, data, 0.0);

  catch_interrupts();
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
        save_weights(*options.out, trainer.model(), out_dtype, options.max_shard_size, companions);
      });
    if (options.out && options.mode != ModeChoice::full)
      attempts([&] {
        save_adapter(*options.out, trainer.model(),
                     options.model ? options.model->string() : std::string(),
                     options.out_dtype.value_or(DType::f32));
      });
    if (options.merge_out)
      attempts([&] {
        save_weights(*options.merge_out, trainer.model(), out_dtype, options.max_shard_size,
                     companions);
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
  if (trained) attempts([&] { print_result<T, Backend>(options, trainer, baseline.get()); });
  if (trained && options.plot)
    attempts([&] {
      write_svg(*options.plot,
                loss_plots(options.drop_rate, trainer.records(),
                           baseline ? baseline->records() : std::span<const StepRecord>()));
    });
  attempts.rethrow();
  if (trainer.steps_done() < options.steps) {
    say(fmt::format("interrupted after step {} of {}; everything up to there was written{}",
                    trainer.steps_done(), options.steps,
                    checkpoints ? ", go on with --resume" : ""));
    return 128 + interrupted;
  }
  return 0;
}

int run(const Options& options) {
  if (options.device == DeviceChoice::cpu) return run<float, dropbp::Cpu>(options);
#if defined(DROPBP_LLAMA_CUDA)
  if (const std::string why = dropbp::device_runtime<dropbp::Cuda>::unavailable_reason();
      !why.empty())
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
  open_standard_streams();
  std::signal(SIGPIPE, SIG_IGN);  // the end of what is printed, not of the training
  const std::string version =
      fmt::format("{}.{}.{}", DROPBP_VERSION_MAJOR, DROPBP_VERSION_MINOR, DROPBP_VERSION_PATCH);
  const CommandLine command_line = parse_options(argc, argv, version);
  try {
    if (command_line.options) return run(*command_line.options);
    if (command_line.exit_code == 0)
      print(command_line.text);
    else
      std::fputs(command_line.text.c_str(), stderr);
    return command_line.exit_code;
  } catch (const UsageError& error) {
    say(error.what());
    return 2;
  } catch (const std::bad_alloc&) {
    say("the model and its activations must fit the memory, but there is not enough: lower "
        "--batch, --sequence or the model's sizes, or raise --drop-rate");
  } catch (const std::exception& error) {
    say(error.what());
  }
  return 1;
}
