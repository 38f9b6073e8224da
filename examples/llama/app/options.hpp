// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The command line of llama-finetune as a plain struct.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "llama/app/data.hpp"
#include "llama/app/samples.hpp"
#include "llama/formats/config.hpp"
#include "llama/formats/lora_patterns.hpp"
#include "llama/formats/safetensors.hpp"

namespace llama {

enum class ModeChoice { full, lora, qlora };
enum class AllocationChoice { uniform, greedy, optimal, sharp, depth };
enum class SamplingChoice { bernoulli, at_least_target, fixed_budget };
enum class SensitivityChoice { gradient_norm, gradient, running };
enum class ScalingChoice { none, inverse_keep_rate };
enum class ProgressChoice { automatic, always, never };
enum class DeviceChoice { cpu, cuda };
enum class PrecisionChoice { automatic, float32, bfloat16 };
enum class BasePrecisionChoice { automatic, fp8 };
enum class ScheduleChoice { cosine, linear, constant, wsd };
enum class OutFormatChoice { safetensors, gguf };

// The name on the command line and in the report, such as "at-least-target".
[[nodiscard]] std::string_view name_of(TokenType choice) noexcept;
[[nodiscard]] std::string_view name_of(LossChoice choice) noexcept;
[[nodiscard]] std::string_view name_of(LongSamples choice) noexcept;
[[nodiscard]] std::string_view name_of(ModeChoice choice) noexcept;
[[nodiscard]] std::string_view name_of(AllocationChoice choice) noexcept;
[[nodiscard]] std::string_view name_of(SamplingChoice choice) noexcept;
[[nodiscard]] std::string_view name_of(SensitivityChoice choice) noexcept;
[[nodiscard]] std::string_view name_of(ScalingChoice choice) noexcept;
[[nodiscard]] std::string_view name_of(ProgressChoice choice) noexcept;
[[nodiscard]] std::string_view name_of(DeviceChoice choice) noexcept;
[[nodiscard]] std::string_view name_of(PrecisionChoice choice) noexcept;
[[nodiscard]] std::string_view name_of(BasePrecisionChoice choice) noexcept;
[[nodiscard]] std::string_view name_of(ScheduleChoice choice) noexcept;
[[nodiscard]] std::string_view name_of(OutFormatChoice choice) noexcept;

/// All choices of one run. The initial values are the defaults that --help shows.
struct Options {
  // Data. At most one of `data` and `tokens` is set; without both, find_default_corpus() is used.
  std::optional<std::filesystem::path> data;
  std::optional<std::filesystem::path> tokens;
  TokenType token_type = TokenType::automatic;
  double validation_fraction = 0.1;
  std::optional<std::filesystem::path> tokenizer;  ///< of the text; none is bytes
  std::uintmax_t data_limit_mib = 32;              ///< MiB of text
  // Of samples: set only where they are given, so that running text can refuse them.
  std::optional<LossChoice> loss_on;         ///< none: completion
  std::optional<LongSamples> long_samples;   ///< none: cut
  std::optional<std::string> chat_template;  ///< none: that of the tokenizer's folder
  bool no_packing = false;
  bool show_sample = false;  ///< print the first one and train nothing

  // Model. With `model`, `shape` is ignored: the sizes come from the folder's config.json.
  std::optional<std::filesystem::path> model;
  LlamaConfig shape;                     ///< valid, kv_heads resolved
  bool vocabulary_of_tokenizer = false;  ///< take shape.vocabulary from `tokenizer`

  // What is trained. With `adapter`, rank, alpha and targets are ignored: they come from the
  // folder's adapter_config.json, as does the dropout if lora_dropout is empty.
  ModeChoice mode = ModeChoice::full;
  BasePrecisionChoice base_precision = BasePrecisionChoice::automatic;  ///< of frozen weights
  std::optional<std::filesystem::path> adapter;
  std::ptrdiff_t lora_rank = 8;
  double lora_alpha = 16.0;
  std::optional<double> lora_dropout;     ///< empty: the adapter's own, or 0
  std::vector<std::string> lora_targets;  ///< some of ops::adaptable_linears; empty: all
  LoraPatterns lora_patterns;             ///< choices and ranks by the maps' whole names
  bool rslora = false;                    ///< alpha is divided by the rank's square root
  bool dora = false;                      ///< the magnitudes of the weights' rows are trained too
  std::vector<std::string> modules_to_save;  ///< trained whole beside adapters, by ends of names

  // Training.
  std::uint64_t steps = 200;       ///< 0 trains nothing
  std::uint64_t epochs = 0;        ///< above 0 decides the steps, once the data are there
  std::ptrdiff_t batch = 4;        ///< sequences of a micro-step
  std::ptrdiff_t sequence = 256;   ///< tokens
  std::ptrdiff_t micro_steps = 1;  ///< of an optimizer step
  double learning_rate = 1e-3;     ///< peak
  double weight_decay = 0.1;
  std::uint64_t warmup = 20;  ///< steps
  ScheduleChoice schedule = ScheduleChoice::cosine;
  double final_learning_rate = 0.1;  ///< share of the peak at the end
  std::uint64_t decay = 0;           ///< last steps of "wsd"; 0 is a tenth of all
  double grad_clip = 1.0;            ///< global norm; 0 is off
  std::uint64_t seed = 1;
  DeviceChoice device = DeviceChoice::cpu;
  PrecisionChoice precision = PrecisionChoice::automatic;  ///< after parsing never `automatic`
  bool nondeterministic_attention = false;                 ///< on a device; see ops::HeadLayout
  int threads = 0;                                         ///< 0 is all cores
  std::uint64_t eval_every = 50;                           ///< steps; 0 is only at the end
  std::ptrdiff_t eval_batches = 8;
  std::uint64_t early_stopping = 0;  ///< validation losses in a row without a best; 0 is off
  bool best = false;                 ///< the weights of the best validation loss are written
  std::uint64_t sample_every = 0;    ///< steps between completions of `sample_prompt`; 0 is never
  std::string sample_prompt;
  std::ptrdiff_t sample_tokens = 64;  ///< of a completion

  // Dropping.
  double drop_rate = 0.5;
  bool drop_rate_auto = false;  ///< trials decide drop_rate and allocation
  AllocationChoice allocation = AllocationChoice::optimal;
  SamplingChoice sampling = SamplingChoice::bernoulli;
  SensitivityChoice sensitivity = SensitivityChoice::running;
  std::ptrdiff_t sensitivity_samples = 1;  ///< sequences that a measurement averages over
  double allocate_at = 0.1;                ///< fraction of the steps
  std::uint64_t reallocate_every = 0;  ///< steps; 0 is a tenth of them for running sensitivities,
                                       ///< and only once for measured ones
  std::uint64_t drop_warmup = 0;       ///< steps
  ScalingChoice gradient_scaling = ScalingChoice::none;
  double activation_budget_mib = 0.0;  ///< MiB that kept branches may save; 0 is no limit
  bool recompute = false;              ///< branches save only their input and recompute the rest

  // Output.
  std::optional<std::filesystem::path> out;  ///< the model or, in the other modes, the adapter
  std::optional<std::filesystem::path> merge_out;  ///< the model with its adapter merged
  /// F32, F16 or BF16; none: a model has the type of `model`, an adapter F32.
  std::optional<DType> out_dtype;
  OutFormatChoice out_format = OutFormatChoice::safetensors;  ///< of a model; GGUF is model.gguf
  std::uint64_t max_shard_size =
      5'000'000'000;  ///< bytes of a model's file; larger models are written as several
  std::optional<std::filesystem::path> checkpoint;
  std::uint64_t checkpoint_every = 100;  ///< steps; 0 is only at the end and when interrupted
  bool resume = false;
  std::optional<std::filesystem::path> report;
  std::optional<std::filesystem::path> plot;
  std::optional<std::filesystem::path> html;     ///< the report to look at
  std::optional<std::filesystem::path> metrics;  ///< .csv or .jsonl, a line each step as it runs
  bool baseline = false;  ///< also train the same model without dropping, alternating, and compare
  std::uint64_t log_every = 10;  ///< steps
  ProgressChoice progress = ProgressChoice::automatic;
  bool quiet = false;

  // Of several processes that train together; ranks.hpp has their number.
  double step_deadline = 600.0;  ///< seconds after which a stuck job ends; 0 is never
  std::ptrdiff_t ranks = 1;      ///< `batch` and `sensitivity_samples` are of each

  /// The batches of all ranks together.
  [[nodiscard]] BatchOptions batch_options() const {
    return {.batch = batch * ranks,
            .sequence = sequence,
            .micro_steps = micro_steps,
            .seed = seed,
            .eval_batches = eval_batches};
  }

  [[nodiscard]] DataOptions data_options(std::ptrdiff_t vocabulary) const {
    return {.vocabulary = vocabulary,
            .validation_fraction = validation_fraction,
            .max_bytes = data_limit_mib << 20};
  }

  [[nodiscard]] SampleOptions sample_options(std::ptrdiff_t vocabulary) const {
    return {.vocabulary = vocabulary,
            .sequence = sequence,
            .loss_on = loss_on.value_or(LossChoice::completion),
            .long_samples = long_samples.value_or(LongSamples::cut),
            .pack = !no_packing && device == DeviceChoice::cpu,
            .validation_fraction = validation_fraction,
            .max_bytes = data_limit_mib << 20};
  }
};

/// Options that are allowed but probably a mistake, a line each; `processors` is the machine's
/// number of processors.
[[nodiscard]] std::vector<std::string> warnings_of(const Options& options,
                                                   std::ptrdiff_t processors);

/// What to do with a command line: run with `options`, or print `text` and end with `exit_code`.
struct CommandLine {
  std::optional<Options> options;
  /// 0 after --help, --version, --print-config and --completion (text for stdout), 2 for wrong
  /// usage (text for stderr).
  int exit_code = 0;
  std::string text;
};

/// Does not throw for any command line or print. The only file that it reads is that of --config.
[[nodiscard]] CommandLine parse_options(int argc, const char* const* argv,
                                        std::string_view version);

}  // namespace llama
