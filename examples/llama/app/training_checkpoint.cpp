// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The folder of a run's checkpoints: finds, resumes, saves and removes them.
#include "llama/app/training_checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <system_error>

#include "llama/app/training_state.hpp"
#include "llama/formats/atomic_file.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view name_start = "step-", name_end = ".safetensors";
constexpr std::size_t name_digits = 8;  // at least

fs::path name_of(std::uint64_t step) {
  return fmt::format("{}{:0{}}{}", name_start, step, name_digits, name_end);
}

std::optional<std::uint64_t> step_of(std::string_view name, std::string_view end) {
  if (!name.starts_with(name_start) || !name.ends_with(end) ||
      name.size() < name_start.size() + end.size())
    return std::nullopt;
  return number_from(name.substr(name_start.size(), name.size() - name_start.size() - end.size()),
                     name_digits);
}

// Of the folder, the oldest first.
std::vector<std::pair<std::uint64_t, fs::path>> list(const fs::path& folder) {
  std::vector<std::pair<std::uint64_t, fs::path>> found;
  std::error_code error;
  fs::directory_iterator walk(folder, error);
  for (; !error && walk != fs::directory_iterator(); walk.increment(error))
    if (const auto step = step_of(walk->path().filename().string(), name_end))
      found.emplace_back(*step, walk->path());
  if (error)
    throw std::runtime_error(
        fmt::format("'{}' must be a folder that can be listed, but {}; check its permissions",
                    folder.string(), error.message()));
  std::ranges::sort(found);
  return found;
}

/// The newest that is intact, with its step; `note` is told of damaged ones.
std::optional<std::pair<std::uint64_t, SafetensorsFile>> open_newest(
    const fs::path& folder, const std::function<void(std::string_view)>& note) {
  auto found = list(folder);
  for (; !found.empty(); found.pop_back()) {
    const auto& [step, path] = found.back();
    try {
      return std::pair(step, open_training_state(path, step));
    } catch (const std::runtime_error& error) {
      note(fmt::format("skipping a damaged checkpoint: {}", error.what()));
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<RunIdentity> newest_identity(const fs::path& folder) {
  if (std::error_code ignored; !fs::is_directory(folder, ignored)) return std::nullopt;
  const auto newest = open_newest(folder, [](std::string_view) {});
  return newest ? std::optional(identity_in(newest->second)) : std::nullopt;
}

TrainingCheckpoints::TrainingCheckpoints(fs::path folder, RunIdentity identity, FolderLock lock)
    : folder_(std::move(folder)), identity_(std::move(identity)) {
  std::error_code error;
  fs::create_directories(folder_, error);
  std::error_code ignored;
  if (!fs::is_directory(folder_, ignored))
    throw std::runtime_error(fmt::format(
        "'{}' must be a folder that can be created, but {}; choose another one with --checkpoint",
        folder_.string(), error ? error.message() : std::string("something else has that name")));
  if (lock == FolderLock::take) lock_.emplace(Output::folder, folder_);
  check_writable(folder_ / name_of(0));
  remove_leftovers();
}

void TrainingCheckpoints::remove_leftovers() const {
  if (OutputLock::held_here(Output::folder, folder_))
    remove_temporaries(folder_,
                       [](std::string_view name) { return step_of(name, name_end).has_value(); });
}

bool TrainingCheckpoints::empty() const { return list(folder_).empty(); }

template <class T, class Backend>
bool TrainingCheckpoints::resume(BasicTrainer<T, Backend>& trainer,
                                 const std::function<void(std::string_view)>& note) {
  const auto newest = open_newest(folder_, note);
  if (!newest) return false;
  require_same_run(newest->second, identity_, note);
  read_training_state(newest->second, trainer);
  last_good_ = newest->first;
  return true;
}

template <class T, class Backend>
void TrainingCheckpoints::save(BasicTrainer<T, Backend>& trainer) {
  const std::uint64_t step = trainer.steps_done();
  if (last_good_ == step) return;
  AtomicFile file(folder_ / name_of(step));
  write_training_state(file, trainer, identity_);
  file.publish();
  prune(step);
  last_good_ = step;
}

// Newer checkpoints are damaged ones; they stay until a later save is newer. What cannot be removed
// now is tried again after the next save.
void TrainingCheckpoints::prune(std::uint64_t newest) const {
  std::error_code ignored;
  fs::directory_iterator walk(folder_, ignored);
  std::vector<fs::path> old;
  for (; !ignored && walk != fs::directory_iterator(); walk.increment(ignored)) {
    const std::string name = walk->path().filename().string();
    const auto step = step_of(name, name_end);
    if (step && *step < newest && step != last_good_) old.push_back(walk->path());
  }
  for (const fs::path& path : old) fs::remove(path, ignored);
  remove_leftovers();
}

#define DROPBP_LLAMA_INSTANTIATE(T, Backend)                                               \
  template bool TrainingCheckpoints::resume(BasicTrainer<T, Backend>&,                     \
                                            const std::function<void(std::string_view)>&); \
  template void TrainingCheckpoints::save(BasicTrainer<T, Backend>&);
DROPBP_LLAMA_FOR_TRAINED(DROPBP_LLAMA_INSTANTIATE)
#undef DROPBP_LLAMA_INSTANTIATE

}  // namespace llama
