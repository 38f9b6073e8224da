// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What has run on the device, for the lines of a run and its report.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <dropbp/kernels/cuda/attention_code.hpp>

#include "llama/app/trainer.hpp"

namespace llama {

/// Which code has computed attention in this process, and why, without the first `first` lines.
/// Empty on the CPU.
template <class T, class Backend>
[[nodiscard]] std::vector<std::string> device_notes(const BasicTrainer<T, Backend>&,
                                                    std::size_t first = 0) {
  std::vector<std::string> lines;
  if constexpr (dropbp::DeviceBackend<Backend>)
    for (const auto& note : ops::attention_notes<Backend>(first)) lines.push_back(note.text());
  return lines;
}

}  // namespace llama
