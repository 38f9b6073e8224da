// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/metrics.hpp"

#include <cerrno>
#include <cmath>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "llama/formats/atomic_file.hpp"

namespace llama {
namespace {

/// Name and value of each column; counts are whole in a double.
std::vector<std::pair<const char*, std::optional<double>>> columns_of(const StepRecord& record,
                                                                      double seconds) {
  return {{"step", static_cast<double>(record.step)},
          {"seconds", seconds},
          {"loss", record.loss},
          {"validation_loss", record.validation_loss},
          {"gradient_norm", record.gradient_norm},
          {"dropped_branches", static_cast<double>(record.dropped.size())},
          {"kept_flops_fraction", record.kept_flops_fraction},
          {"step_ms", record.step_ms},
          {"forward_ms", record.forward_ms},
          {"backward_ms", record.backward_ms},
          {"optimizer_ms", record.optimizer_ms},
          {"activation_bytes", static_cast<double>(record.activation_bytes)}};
}

bool is_there(const std::optional<double>& value) { return value && std::isfinite(*value); }

}  // namespace

MetricsFormat metrics_format(const std::filesystem::path& path) {
  return path.extension() == ".csv" ? MetricsFormat::csv : MetricsFormat::json_lines;
}

std::string metrics_head(MetricsFormat format) {
  if (format == MetricsFormat::json_lines) return "";
  std::vector<const char*> names;
  for (const auto& [name, value] : columns_of({}, 0.0)) names.push_back(name);
  return fmt::format("{}\n", fmt::join(names, ","));
}

std::string metrics_line(MetricsFormat format, const StepRecord& record, double seconds) {
  std::vector<std::string> values;
  for (const auto& [name, value] : columns_of(record, seconds)) {
    const std::string text = is_there(value) ? fmt::format("{}", *value) : std::string();
    if (format == MetricsFormat::csv)
      values.push_back(text);
    else if (is_there(value))
      values.push_back(fmt::format("\"{}\":{}", name, text));
  }
  if (format == MetricsFormat::csv) return fmt::format("{}\n", fmt::join(values, ","));
  values.push_back(fmt::format("\"dropped\":[{}]", fmt::join(record.dropped, ",")));
  return fmt::format("{{{}}}\n", fmt::join(values, ","));
}

Metrics::Metrics(const std::filesystem::path& path, std::span<const StepRecord> done)
    : path_(path), format_(metrics_format(path)) {
  std::string text = metrics_head(format_);
  for (const StepRecord& record : done)
    text += metrics_line(format_, record, seconds_ += 1e-3 * record.step_ms);
  write_file_atomically(path_, text);
  file_.reset(std::fopen(path_.c_str(), "ae"));
  if (!file_)
    throw std::runtime_error(
        fmt::format("'{}' must be open for more lines, but {}; check its "
                    "permissions",
                    path_.string(), std::generic_category().message(errno)));
}

void Metrics::add(const StepRecord& record) {
  const std::string line = metrics_line(format_, record, seconds_ += 1e-3 * record.step_ms);
  if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() ||
      std::fflush(file_.get()) != 0)
    throw std::runtime_error(
        fmt::format("'{}' must get a line after each step, but {} in step {}; free some space",
                    path_.string(), std::generic_category().message(errno), record.step));
}

}  // namespace llama
