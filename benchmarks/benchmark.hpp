// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Shared by all benchmarks: common options, timing in turn, and writing the results.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <dropbp/kernels/cpu/parallel.hpp>
#include <nlohmann/json.hpp>

#include "llama/app/plot.hpp"
#include "llama/formats/atomic_file.hpp"

namespace bench {

using Json = nlohmann::ordered_json;

template <class Call>
double seconds_of(const Call& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Spread {
  double median = 0.0, least = 0.0, most = 0.0;
};

/// `values` must not be empty.
inline Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return {values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2,
          values.front(), values.back()};
}
inline double median(std::vector<double> values) { return spread_of(std::move(values)).median; }

/// The options of every benchmark.
class Options {
 public:
  bool quick = false;
  int threads = 0;

  /// `quick_means` tells in --help what --quick changes. `has_threads` is false for a serial
  /// program.
  explicit Options(CLI::App& app, const std::string& quick_means, bool has_threads = true) {
    app.add_flag("--quick", quick,
                 "takes seconds: tests that the program works, not its speed; " + quick_means);
    app.add_option("--json", json_, "also write the figures to this file");
    app.add_option("--svg", svg_, "also draw a plot with gnuplot to this file");
    if (has_threads)
      app.add_option("--threads", threads, "threads; 0: one per processor")
          ->check(CLI::Range(0, 4096))
          ->capture_default_str();
  }

  /// Call this after parsing the command line and before the work: it throws if the results cannot
  /// be written.
  void begin() const {
    for (const std::string& path : {json_, svg_})
      if (!path.empty()) llama::check_writable(path);
    dropbp::ops::set_thread_count(threads);
  }
  /// The name of the plot's file without its folder; empty if none is drawn.
  std::string svg_name() const { return std::filesystem::path(svg_).filename().string(); }
  void write(const Json& json) const {
    if (!json_.empty()) llama::write_file_atomically(json_, json.dump(1) + "\n");
  }
  void write(const llama::Plot& plot) const { write(std::vector{plot}); }
  void write(const std::vector<llama::Plot>& panels) const {
    if (!svg_.empty()) llama::write_svg(svg_, panels);
  }

 private:
  std::string json_, svg_;
};

/// Runs a benchmark. An error prints one line with the program's name and gives exit code 1.
template <class Run>
int main_of(const char* name, int argc, char** argv, Run run) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", name, error.what());
    return 1;
  }
}

}  // namespace bench
