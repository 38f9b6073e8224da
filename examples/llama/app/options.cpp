// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/options.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>
#include <vector>

#include "llama/app/errors.hpp"
#include "llama/app/flags.hpp"
#include "llama/app/option_flags.hpp"
#include "llama/app/option_rules.hpp"
#include "llama/app/run_file.hpp"

namespace llama {
namespace {

/// Sets the options that follow from others.
void complete(Options& o, const Given& given) {
  o.shape = shape_of(o);
  o.vocabulary_of_tokenizer = !o.model && o.tokenizer && given.vocabulary->count() == 0;
  if (o.precision == PrecisionChoice::automatic)
    o.precision =
        o.device == DeviceChoice::cpu ? PrecisionChoice::float32 : PrecisionChoice::bfloat16;
  if (o.activation_budget_mib > 0.0) o.sampling = SamplingChoice::fixed_budget;
}

/// "; did you mean --steps?" for the first unknown option; empty if no known option is similar.
std::string meant_option(const CLI::App& app) {
  std::vector<std::string> options;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) options.push_back(name);
  const std::vector<std::string_view> names(options.begin(), options.end());
  for (const std::string& word : app.remaining()) {
    if (!word.starts_with('-')) continue;
    const std::size_t first = std::min(word.find_first_not_of('-'), word.size());
    const std::string_view typed =
        std::string_view(word).substr(first, std::min(word.find('='), word.size()) - first);
    const std::string_view meant = nearest(typed, names);
    return meant.empty() ? "" : fmt::format("; did you mean --{}?", meant);
  }
  return "";
}

}  // namespace

std::vector<std::string> warnings_of(const Options& o, std::ptrdiff_t processors) {
  std::vector<std::string> warnings;
  if (o.drop_rate == 1.0 && o.steps > 0)
    warnings.push_back(fmt::format(
        "--drop-rate 1 drops the backward pass of every branch{}, so {}; lower it to train the "
        "blocks",
        o.drop_warmup > 0 ? " after the --drop-warmup" : "",
        o.mode == ModeChoice::full
            ? "only the embedding, the final norm and the output layer are trained"
        : o.modules_to_save.empty()
            ? "nothing is trained, because all adapters are in branches"
            : "only what --modules-to-save names outside of them is trained"));
  if (o.threads > processors)
    warnings.push_back(
        fmt::format("--threads {} is more than the machine's {} processors: threads then wait for "
                    "each other and steps take longer; leave it out for one thread per processor",
                    o.threads, processors));
  return warnings;
}

CommandLine parse_options(int argc, const char* const* argv, std::string_view version) {
  CLI::App app(
      "Trains a LLaMA-style model, dropping the backward pass of random branches (DropBP).",
      "llama-finetune");
  app.set_version_flag("--version", fmt::format("llama-finetune {}", version),
                       "print the version and exit")
      ->group("Help");
  app.set_help_flag("-h,--help", "print this and exit")->group("Help");
  app.footer(
      "Exit code: 0 success, 1 a file or the machine failed, 2 wrong usage; 130 after Ctrl-C, 143 "
      "after SIGTERM, 129 after SIGHUP. These signals stop the run after the current step, and the "
      "checkpoint and the outputs are still written; a second Ctrl-C ends it at once. If the "
      "terminal or pipe is closed, printing stops, but training goes on and the exit code does not "
      "change. If a result cannot be printed for another reason (such as a full disk), the exit "
      "code is 1, and all files are written first.\n"
      "Example: llama-finetune --steps 300 --drop-rate 0 --out base && llama-finetune --model base "
      "--drop-rate 0.5 "
      "--report run.json");
  Options options;
  Flags::Conversions conversions;
  const Given given = declare(app, conversions, options);
  const RunFile run_file(app);
  try {
    app.parse(argc, argv);
    if (const auto shell = run_file.completion()) return {std::nullopt, 0, *shell};
    for (const auto& convert_one : conversions) convert_one();
    check_combinations(options, given);
    complete(options, given);
    if (run_file.asked()) return {std::nullopt, 0, run_file.text()};
  } catch (const CLI::CallForHelp&) {
    return {std::nullopt, 0, app.help()};
  } catch (const CLI::CallForVersion& version_line) {
    return {std::nullopt, 0, fmt::format("{}\n", version_line.what())};
  } catch (const CLI::FileError& error) {
    return {std::nullopt, 2, run_file.missing(error.what())};
  } catch (const CLI::Error& error) {
    return {std::nullopt, 2,
            fmt::format("llama-finetune: the command line must consist of known options with one "
                        "value each, but: {}{}; "
                        "see llama-finetune --help\n",
                        error.what(), meant_option(app))};
  } catch (const UsageError& error) {
    return {std::nullopt, 2, fmt::format("llama-finetune: {}\n", error.what())};
  }
  return {std::move(options), 0, {}};
}

}  // namespace llama
