// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The figures of each step in a file that grows as the run does.
#pragma once

#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "llama/app/report.hpp"

namespace llama {

enum class MetricsFormat { csv, json_lines };

/// By the extension: .csv, all others JSON lines.
[[nodiscard]] MetricsFormat metrics_format(const std::filesystem::path& path);
/// The names of the columns, with the line's end; empty for JSON lines, which name each value.
[[nodiscard]] std::string metrics_head(MetricsFormat format);
/// One step, with the line's end; `seconds` are those of training up to its end. What was not
/// measured is empty in CSV and absent in JSON; what is not finite, too.
[[nodiscard]] std::string metrics_line(MetricsFormat format, const StepRecord& record,
                                       double seconds);

/// Errors are std::runtime_error.
class Metrics {
 public:
  /// Writes the file anew, with the steps `done` before a resumed run's first: what a killed run
  /// had added beyond its checkpoint is gone.
  Metrics(const std::filesystem::path& path, std::span<const StepRecord> done);

  /// Adds a line, which other programs can read at once.
  void add(const StepRecord& record);

 private:
  struct Close {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };

  std::filesystem::path path_;
  MetricsFormat format_;
  double seconds_ = 0.0;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace llama
