// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/app/run.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <dropbp/kernels/cpu/parallel.hpp>

#include "llama/app/best_weights.hpp"
#include "llama/app/corpus.hpp"
#include "llama/app/data.hpp"
#include "llama/app/device_notes.hpp"
#include "llama/app/errors.hpp"
#include "llama/app/html_report.hpp"
#include "llama/app/interrupts.hpp"
#include "llama/app/metrics.hpp"
#include "llama/app/outputs.hpp"
#include "llama/app/plot.hpp"
#include "llama/app/preview.hpp"
#include "llama/app/progress.hpp"
#include "llama/app/report.hpp"
#include "llama/app/standard_streams.hpp"
#include "llama/app/trainer.hpp"
#include "llama/app/training_checkpoint.hpp"
#include "llama/app/trials.hpp"
#include "llama/formats/gguf_model.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/formats/strict_json.hpp"
#include "llama/model/adapter.hpp"

namespace llama {
namespace {

/// Runs functions that may throw, and throws the first exception at the end.
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

void set_threads(const Options& options, const Ranks& ranks) {
  dropbp::ops::set_thread_count(0);  // one on each processor
  const auto processors = static_cast<int>(dropbp::ops::thread_count());
  for (const std::string& warning : warnings_of(options, processors)) say(warning);
  const bool shares = options.threads == 0 && ranks.size_here() > 1;
  dropbp::ops::set_thread_count(shares ? std::max(1, processors / ranks.size_here())
                                       : options.threads);
}

/// The options of a rank that writes nothing. It reads checkpoints too.
Options without_outputs(Options options) {
  options.quiet = true;
  options.best = false;
  for (auto* output : {&options.out, &options.merge_out, &options.report, &options.plot,
                       &options.html, &options.metrics})
    output->reset();
  return options;
}

/// The files of a written model besides its weights.
struct ModelFiles {
  DType dtype = DType::f32;
  Companions companions;
};

/// The written model must have the tokenizer that it was trained with: --tokenizer and the files
/// beside it replace those of --model.
void take_tokenizer(const std::filesystem::path& tokenizer, Companions& companions) {
  const std::string bytes = read_small_file(tokenizer);
  std::string& own = companions.files["tokenizer.json"];
  if (own == bytes) return;
  for (const char* const name :
       {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "merges.txt", "tokenizer.model"}) {
    const std::filesystem::path beside = tokenizer.parent_path() / name;
    companions.files.erase(name);
    if (std::filesystem::is_regular_file(beside))
      companions.files.emplace(name, read_small_file(beside));
  }
  companions.files["tokenizer.json"] = bytes;
}

/// Read before the training, because the folder may change meanwhile or be this run's output.
ModelFiles read_model_files(const Options& options) {
  ModelFiles files;
  const bool writes_model = options.merge_out || (options.out && options.mode == ModeChoice::full);
  if (options.model && writes_model) {
    files.companions = load_companions(*options.model);
    if (options.tokenizer) take_tokenizer(*options.tokenizer, files.companions);
    files.dtype = stored_dtype(*options.model);
    if (const std::string text = files.companions.text(); !text.empty() && !options.quiet)
      say(fmt::format("'{}' also gets, from '{}'{}: {}",
                      (options.merge_out ? *options.merge_out : *options.out).string(),
                      options.model->string(), options.tokenizer ? " and --tokenizer" : "", text));
  }
  files.dtype = options.out_dtype.value_or(files.dtype);
  // A new model has no files of its own, but GGUF has the tokenizer within.
  if (options.out_format == OutFormatChoice::gguf && !options.model && options.tokenizer)
    take_tokenizer(*options.tokenizer, files.companions);
  return files;
}

/// Null without --checkpoint. With --resume, restores the trainer from the newest intact
/// checkpoint.
std::unique_ptr<TrainingCheckpoints> open_checkpoints(const Options& options,
                                                      const LlamaConfig& config,
                                                      const TrainingData& data, auto& trainer) {
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
    say(fmt::format("'{}' has no intact checkpoint; starting from the beginning",
                    options.checkpoint->string()));
  return checkpoints;
}

Progress::Settings progress_settings(const Options& options, std::uint64_t first_step) {
  Progress::Settings settings;
  settings.style = choose_progress_style(options.progress, options.quiet, is_terminal(stderr));
  settings.steps = options.steps;
  settings.first_step = first_step;
  settings.log_every = options.log_every;
  return settings;
}

std::string adapter_text(const Options& options, auto& model) {
  if (options.mode == ModeChoice::full) return "";
  std::size_t trained = 0;
  for (const auto* parameter : model.parameters())
    if (parameter->trained) trained += parameter->size();
  return fmt::format(" in {:.1f} MiB, of adapters{} {}",
                     static_cast<double>(model.base_bytes()) / (1 << 20),
                     model.lora().modules_to_save.empty() ? "" : " and modules to save", trained);
}

template <class T, class Backend>
void announce(const Options& options, const LlamaConfig& config, const Corpus& corpus,
              BasicTrainer<T, Backend>& trainer, Progress& progress) {
  if (options.quiet) return;
  if (options.base_precision == BasePrecisionChoice::fp8 && !ops::multiplies_fp8<T, Backend>())
    progress.message(
        fmt::format("this device does not multiply in 8 bits: the products of --base-precision fp8 "
                    "are computed from the same values in {}, in more time than without it",
                    name_of(options.precision)));
  for (const std::string& note : corpus.notes) progress.message(note);
  progress.message(fmt::format(
      "{} parameters{}, {}{}, {} steps of {} tokens, drop rate {:g}{}", parameter_count(config),
      adapter_text(options, trainer.model()), corpus.data->size_text(),
      options.ranks > 1 ? fmt::format(", {} processes", options.ranks) : "", options.steps,
      options.batch * options.ranks * options.sequence * options.micro_steps, options.drop_rate,
      trainer.steps_done() > 0 ? fmt::format(", resumed after step {}", trainer.steps_done())
                               : ""));
}

/// The two trainers alternate, and so does which of them goes first, so that changes of the
/// machine's speed affect both alike.
template <class Trainer>
void step(Trainer& trainer, Trainer* baseline) {
  const bool baseline_first = trainer.steps_done() % 2 == 0;
  if (baseline != nullptr && baseline_first) baseline->step();
  trainer.step();
  if (baseline != nullptr && !baseline_first) baseline->step();
}

/// The trainer's validation loss; empty if no tokens are held out.
template <class Trainer>
std::optional<double> validate(Trainer& trainer, Trainer* baseline) {
  if (!trainer.can_validate()) return std::nullopt;
  if (baseline != nullptr) baseline->validate();
  return trainer.validate();
}

/// Whether an action with a period of `period` steps (0: never) is due after `done` steps.
bool is_due(std::uint64_t period, std::uint64_t done) { return period > 0 && done % period == 0; }

/// Whether enough validation losses in a row were no new best.
bool waited_enough(const Options& options, const auto& trainer) {
  if (options.early_stopping == 0) return false;
  const auto best = best_of(trainer.records());
  return best && best->since >= options.early_stopping;
}

/// What a training writes as it goes on; those that are not asked for are empty.
struct Recorders {
  std::unique_ptr<TrainingCheckpoints> checkpoints;
  std::optional<BestWeights> best;
  std::optional<Metrics> metrics;
  std::optional<Preview> preview;
};

/// After a step: the best weights, where it was validated, and a checkpoint, where one is due.
void save(const Options& options, auto& trainer, Recorders& recorders, bool validated, bool due,
          Ranks& ranks) {
  due = due || waited_enough(options, trainer);
  if (due && ranks.are_several() && options.checkpoint)
    require_same_weights(ranks, trainer.model().parameters(), trainer.steps_done());
  if (!ranks.is_first()) return;
  if (validated && recorders.best) recorders.best->save(trainer);
  if (recorders.checkpoints == nullptr || !due) return;
  recorders.checkpoints->save(trainer);
  if (recorders.best) recorders.best->prune(trainer.records());
}

void show_preview(const Options& options, auto& trainer, const Recorders& recorders,
                  Progress& progress) {
  const std::uint64_t done = trainer.steps_done();
  if (recorders.preview && is_due(options.sample_every, done))
    progress.message(
        fmt::format("after step {}: {}", done, recorders.preview->text(trainer.model())));
}

/// What has run on the device, each line once.
void tell_device_notes(const Options& options, const auto& trainer, Progress& progress,
                       std::size_t& told) {
  for (const std::string& note : device_notes(trainer, told)) {
    if (!options.quiet) progress.message(note);
    ++told;
  }
}

void tell_early_end(const Options& options, const auto& trainer, Progress& progress) {
  if (trainer.steps_done() < options.steps && waited_enough(options, trainer))
    progress.message(
        fmt::format("ended after step {}: the last {} validation losses are no new "
                    "best",
                    trainer.steps_done(), options.early_stopping));
}

template <class Trainer>
void train(const Options& options, Trainer& trainer, Trainer* baseline, Recorders& recorders,
           Progress& progress, Attempts& attempts, Ranks& ranks) {
  std::size_t notes_told = 0;
  if (options.steps == 0) validate(trainer, baseline);
  while (trainer.steps_done() < options.steps && !waited_enough(options, trainer)) {
    step(trainer, baseline);
    tell_device_notes(options, trainer, progress, notes_told);
    const std::uint64_t done = trainer.steps_done();
    const bool last = done == options.steps;
    ProgressUpdate update{.steps_done = done,
                          .loss = trainer.records().back().loss,
                          .validation_loss = std::nullopt,
                          .tokens_per_second = trainer.summary().tokens_per_second,
                          .drop_rate = trainer.drop_report().mean_drop_rate()};
    const bool planned = last || is_due(options.eval_every, done);
    if (planned) update.validation_loss = validate(trainer, baseline);
    const bool stop = ranks.any(interrupting_signal() != 0);
    const bool due = last || stop || is_due(options.checkpoint_every, done);
    const bool saved =
        !ranks.any(!attempts([&] { save(options, trainer, recorders, planned, due, ranks); }));
    // After the checkpoint, because an uninterrupted run would not have made this validation.
    if (stop && !planned) update.validation_loss = validate(trainer, baseline);
    if (recorders.metrics && !attempts([&] { recorders.metrics->add(trainer.records().back()); }))
      recorders.metrics.reset();  // the training goes on without it
    progress.update(update);
    show_preview(options, trainer, recorders, progress);
    if (stop || !saved) break;
  }
  tell_early_end(options, trainer, progress);
}

/// Gives the model the weights that are to be written, where these are not the last ones.
void take_best(const Options& options, const Recorders& recorders, auto& trainer) {
  const auto best = best_of(trainer.records());
  if (!recorders.best || !best) return;
  recorders.best->load(trainer);
  if (!options.quiet)
    say(fmt::format("the weights are those after step {}, of the best validation loss, {:.4f}",
                    best->steps, best->loss));
}

void save_results(const Options& options, const ModelFiles& files, auto& trainer,
                  Attempts& attempts) {
  const auto save_model = [&](const std::filesystem::path& folder) {
    if (options.out_format == OutFormatChoice::gguf)
      return save_gguf(folder / gguf_name, trainer.model().config(),
                       merged_tensors(trainer.model()), files.dtype, files.companions);
    save_weights(folder, trainer.model(), files.dtype, options.max_shard_size, files.companions);
  };
  if (options.out && options.mode == ModeChoice::full) attempts([&] { save_model(*options.out); });
  if (options.out && options.mode != ModeChoice::full)
    attempts([&] {
      save_adapter(*options.out, trainer.model(),
                   options.model ? options.model->string() : std::string(),
                   options.out_dtype.value_or(DType::f32));
    });
  if (options.merge_out) attempts([&] { save_model(*options.merge_out); });
}

/// Touches nothing but what it reads.
int show_sample(const Options& options) {
  LlamaConfig config = options.model ? load_config(*options.model, say) : options.shape;
  const Corpus corpus = load_corpus(options, config);
  for (const std::string& note : corpus.notes) say(note);
  print(corpus.first_sample);
  return 0;
}

Recorders open_recorders(const Options& options, const LlamaConfig& config, const Corpus& corpus,
                         auto& trainer) {
  Recorders recorders;
  recorders.checkpoints = open_checkpoints(options, config, *corpus.data, trainer);
  if (options.best) recorders.best.emplace(*options.checkpoint, trainer.records());
  if (options.sample_every > 0 && !options.quiet)
    recorders.preview.emplace(options, corpus.tokenizer);
  if (options.metrics) recorders.metrics.emplace(*options.metrics, trainer.records());
  return recorders;
}

void draw_results(const Options& options, const LlamaConfig& config, const ops::LoraConfig& lora,
                  const RunReport& result, const std::optional<RunReport>& compared,
                  Attempts& attempts) {
  if (options.plot)
    attempts([&] {
      write_svg(*options.plot,
                loss_plots(options.drop_rate, result.steps,
                           compared ? compared->steps : std::span<const StepRecord>()));
    });
  if (options.html)
    attempts([&] { write_html(*options.html, options, config, lora, result, compared); });
}

/// Throws RanksDisagree, on every rank, unless all begin with the same settings, data and weights.
template <class T, class Backend>
void require_same_start(Ranks& ranks, BasicTrainer<T, Backend>& trainer,
                        const RunIdentity& identity) {
  if (!ranks.are_several()) return;
  std::uint32_t sum = 0;
  for (const auto& [flag, value] : identity)
    sum = crc32c(sum, (flag + "=" + value + "\n").c_str(), flag.size() + value.size() + 2);
  dropbp::require_agreement(ranks, "the same settings and data", sum, trainer.steps_done(),
                            "start all ranks with the same flags and files");
  dropbp::require_agreement(ranks, "the same number of steps done", trainer.steps_done(),
                            trainer.steps_done(), "give all ranks the same folder of checkpoints");
  require_same_weights(ranks, trainer.model().parameters(), trainer.steps_done());
}

template <class T, class Backend>
int run_on(Options options, Ranks& ranks) {
  using Trainer = BasicTrainer<T, Backend>;
  options.ranks = ranks.size();
  if (!ranks.is_first()) options = without_outputs(std::move(options));
  std::optional<OutputLocks> locks;
  if (ranks.is_first()) {
    prepare_outputs(options);
    locks.emplace(options);
  }
  set_threads(options, ranks);

  LlamaConfig config = options.model ? load_config(*options.model, say) : options.shape;
  if (options.out_format == OutFormatChoice::gguf) require_gguf_traits(config);
  const ModelFiles files = read_model_files(options);
  const Corpus corpus = load_corpus(options, config);
  if (options.epochs > 0)
    options.steps = corpus.data->steps(options.epochs, options.batch_options());
  const std::optional<Trials> trials =
      decide_drop_rate<T, Backend>(options, config, *corpus.data, ranks, say);
  Trainer trainer(options, config, *corpus.data, options.drop_rate, &ranks);
  Recorders recorders = open_recorders(options, config, corpus, trainer);
  std::unique_ptr<Trainer> baseline;
  if (options.baseline)
    baseline = std::make_unique<Trainer>(options, config, *corpus.data, 0.0, &ranks);
  require_same_start(ranks, trainer, identity_of(options, config, *corpus.data, trainer.model()));

  catch_interrupts();
  Progress progress(progress_settings(options, trainer.steps_done()));
  announce(options, config, corpus, trainer, progress);
  // Exceptions are thrown at the end, so that a failed output does not prevent the others.
  Attempts attempts;
  bool trained = attempts(
      [&] { train(options, trainer, baseline.get(), recorders, progress, attempts, ranks); });
  ranks.set_deadline(options.steps, 0.0);
  progress.clear();
  trained = trained && attempts([&] { take_best(options, recorders, trainer); });

  const RunReport result{trainer.records(), trainer.summary(), trials, device_notes(trainer)};
  std::optional<RunReport> compared;
  if (baseline) compared = {baseline->records(), baseline->summary()};
  if (trained) save_results(options, files, trainer, attempts);
  if (options.report)
    attempts([&] {
      Options used = options;
      used.tokenizer = corpus.tokenizer;
      write_report(*options.report, used, config, trainer.model().lora(), result, compared);
    });
  if (trained) attempts([&] { print(result_table(options.drop_rate, result, compared)); });
  if (trained) draw_results(options, config, trainer.model().lora(), result, compared, attempts);
  attempts.rethrow();
  if (trainer.steps_done() >= options.steps || interrupting_signal() == 0) return 0;
  say(fmt::format("interrupted after step {} of {}; everything up to this step was written{}",
                  trainer.steps_done(), options.steps,
                  recorders.checkpoints ? "; continue with --resume" : ""));
  return 128 + interrupting_signal();
}

}  // namespace

int run(const Options& options, Ranks& ranks) {
  if (options.show_sample) return show_sample(options);
  const bool narrow = options.precision == PrecisionChoice::bfloat16;
  if (options.device == DeviceChoice::cpu)
    return narrow ? run_on<dropbp::BFloat16, dropbp::Cpu>(options, ranks)
                  : run_on<float, dropbp::Cpu>(options, ranks);
#if defined(DROPBP_LLAMA_CUDA)
  if (const std::string why = dropbp::device_runtime<dropbp::Cuda>::unavailable_reason();
      !why.empty())
    throw std::runtime_error(why);
  return narrow ? run_on<dropbp::BFloat16, dropbp::Cuda>(options, ranks)
                : run_on<float, dropbp::Cuda>(options, ranks);
#else
  throw std::runtime_error(
      "--device cuda needs a program that was built with CUDA, but this one was built without it; "
      "configure with -DDROPBP_ENABLE_CUDA=ON on a machine with nvcc, or use --device cpu");
#endif
}

}  // namespace llama
