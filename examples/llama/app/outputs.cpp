// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/app/outputs.hpp"

#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "llama/app/errors.hpp"
#include "llama/app/plot.hpp"
#include "llama/app/standard_streams.hpp"
#include "llama/formats/atomic_file.hpp"
#include "llama/formats/model_folder.hpp"

namespace llama {
namespace {

/// Temporary files of a killed run beside an output file.
void remove_leftovers(const std::filesystem::path& output) {
  const std::filesystem::path file = resolve_output(output);
  remove_temporaries(file.has_parent_path() ? file.parent_path() : ".",
                     [&](std::string_view name) { return name == file.filename().string(); });
}

using Flag = std::pair<const char*, const std::optional<std::filesystem::path>&>;

/// Files that a run writes by themselves.
std::vector<Flag> files_of(const Options& options) {
  return {{"--report", options.report},
          {"--plot", options.plot},
          {"--html", options.html},
          {"--metrics", options.metrics}};
}

/// Whether a file of that name belongs to a model's or an adapter's folder.
bool is_of_folder(std::string_view name) {
  return name.ends_with(".safetensors") || name.ends_with(".index.json") ||
         name.ends_with(".gguf") || name == model_format.config || name == adapter_format.config ||
         is_companion(name);
}

/// A result file must not replace another file of the run.
void check_files(const Options& options) {
  using Path = std::filesystem::path;
  const auto place_of = [](const Path& path) {
    std::error_code none;
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path), none);
  };
  const auto refuse = [](const Flag& written, const char* other) {
    throw UsageError(
        fmt::format("{} must be a separate file, but '{}' is also used by {}; give another name",
                    written.first, written.second->string(), other));
  };
  const std::vector<Flag> files = files_of(options);
  for (const Flag& written : files) {
    if (!written.second) continue;
    const Path place = place_of(*written.second);
    // Of two outputs that are the same the second is named.
    std::vector<Flag> others{
        {"--data", options.data}, {"--tokens", options.tokens}, {"--tokenizer", options.tokenizer}};
    for (const Flag* other = files.data(); other != &written; ++other) others.push_back(*other);
    for (const Flag& other : others)
      if (other.second && place == place_of(*other.second)) refuse(written, other.first);
    for (const Flag& folder : {Flag{"--model", options.model}, Flag{"--adapter", options.adapter},
                               Flag{"--out", options.out}, Flag{"--merge-out", options.merge_out},
                               Flag{"--checkpoint", options.checkpoint}}) {
      const std::string name = place.filename().string();
      if (folder.second && is_of_folder(name) && place.parent_path() == place_of(*folder.second))
        refuse(written, folder.first);
    }
  }
}

}  // namespace

void prepare_outputs(const Options& options) {
  check_files(options);
  for (const Flag& file : files_of(options))
    if (file.second) check_writable(*file.second);
  for (const auto& drawn : {options.plot, options.html})
    if (drawn) check_can_plot(*drawn);
  const FolderFormat& out_format = options.mode == ModeChoice::full ? model_format : adapter_format;
  if (options.out) prepare_folder(*options.out, out_format);
  if (options.merge_out) prepare_folder(*options.merge_out);
  if (std::error_code none; options.merge_out && options.model &&
                            std::filesystem::equivalent(*options.merge_out, *options.model, none))
    throw UsageError(
        fmt::format("--merge-out must not replace the model that adapters belong to, but it is "
                    "'{}', as --model is; give another folder",
                    options.merge_out->string()));
}

OutputLocks::OutputLocks(const Options& options) {
  for (const auto& folder : {options.out, options.merge_out, options.checkpoint})
    add(Output::folder, folder);
  for (const Flag& file : files_of(options)) add(Output::file, file.second);
}

void OutputLocks::add(Output kind, const std::optional<std::filesystem::path>& output) {
  if (!output) return;
  if (kind == Output::folder) create_folder(*output);
  if (OutputLock::held_here(kind, *output)) return;  // two outputs of this run share a folder
  const OutputLock& lock = locks_.emplace_back(kind, *output);
  if (lock.missing().empty()) {
    if (kind == Output::file) remove_leftovers(*output);
  } else {
    say(
        fmt::format("'{}' must belong to one run at a time, but its file system has no locks "
                    "({}); make sure that no other run writes there",
                    output->string(), lock.missing()));
  }
}

}  // namespace llama
