// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The state of a run in one safetensors file, its training checkpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>

#include "llama/app/run_identity.hpp"
#include "llama/app/trainer.hpp"
#include "llama/formats/atomic_file.hpp"
#include "llama/formats/safetensors.hpp"

namespace llama {

/// A whole number without sign or zeros in front of at least `digits` digits; none for other text.
[[nodiscard]] std::optional<std::uint64_t> number_from(std::string_view text,
                                                       std::size_t digits = 1);

/// Writes the trainer's state after its last step. Throws std::runtime_error if the disk fails or a
/// number is not finite.
template <class T, class Backend>
void write_training_state(AtomicFile& file, BasicTrainer<T, Backend>& trainer,
                          const RunIdentity& identity);

/// Opens the checkpoint of `step`. Throws std::runtime_error unless its checksums are right, its
/// numbers are finite and it is of that step.
[[nodiscard]] SafetensorsFile open_training_state(const std::filesystem::path& path,
                                                  std::uint64_t step);

/// The identity of the run that wrote the file. Throws std::runtime_error for another version of
/// the format.
[[nodiscard]] RunIdentity identity_in(const SafetensorsFile& file);

/// Throws UsageError, naming each difference, unless the file is of a run with this identity, and
/// std::runtime_error for another version of the format. A run whose steps were all done may have
/// more of them now: `note` is told so.
void require_same_run(const SafetensorsFile& file, const RunIdentity& identity,
                      const std::function<void(std::string_view)>& note);

/// Restores the trainer from the file. Throws std::runtime_error if the two do not fit; the trainer
/// is then unchanged, unless reading from the disk failed half-way.
template <class T, class Backend>
void read_training_state(const SafetensorsFile& file, BasicTrainer<T, Backend>& trainer);

}  // namespace llama
