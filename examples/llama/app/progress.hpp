// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Training progress: one line that is redrawn on a terminal, a plain line every N steps elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "llama/app/options.hpp"

namespace llama {

enum class ProgressStyle { bar, lines, none };

/// `out_is_terminal`: see is_terminal().
[[nodiscard]] ProgressStyle choose_progress_style(ProgressChoice choice, bool quiet,
                                                  bool out_is_terminal) noexcept;
/// False also where TERM says "dumb": such a terminal cannot go back to the start of a line.
[[nodiscard]] bool is_terminal(std::FILE* out) noexcept;
/// Columns, 80 if unknown.
[[nodiscard]] int terminal_width(std::FILE* out) noexcept;

struct ProgressUpdate {
  std::uint64_t steps_done = 0;
  double loss = 0.0;
  std::optional<double> validation_loss;  ///< printed if given
  double tokens_per_second = 0.0;
  double drop_rate = 0.0;  ///< observed so far, 0 to 1
};

/// The bar line: at most `width` characters, no control characters. Items that do not fit are left
/// out from the right; the bar fills the remaining room. `seconds_left` below 0 means unknown.
[[nodiscard]] std::string progress_bar(const ProgressUpdate& update, std::uint64_t steps,
                                       double seconds_left, int width);
/// The plain line, without the end of line.
[[nodiscard]] std::string progress_line(const ProgressUpdate& update, std::uint64_t steps,
                                        double seconds_left);

/// Writes to stderr by default: stdout carries only the result, so that it can be piped while the
/// progress stays visible.
class Progress {
 public:
  struct Settings {
    ProgressStyle style = ProgressStyle::lines;
    std::uint64_t steps = 1;
    std::uint64_t first_step = 0;  ///< steps that the resumed run had done before
    std::uint64_t log_every = 10;  ///< steps between plain lines
    std::FILE* out = stderr;
    std::function<double()> seconds = {};  ///< a clock; empty is std::chrono::steady_clock
    std::function<int()> width = {};       ///< empty is terminal_width(out)
  };

  explicit Progress(Settings settings);
  /// Erases the bar if it is drawn.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(const ProgressUpdate& update);
  /// Prints a line above the bar.
  void message(std::string_view text);
  /// Erases the bar; later updates draw it again.
  void clear();

 private:
  void draw(const std::string& line);
  [[nodiscard]] std::size_t edge() const;
  [[nodiscard]] double seconds_left(std::uint64_t steps_done) const;

  Settings settings_;
  double start_ = 0.0;
  double last_draw_ = 0.0;
  std::size_t drawn_ = 0;  ///< characters of the bar that is on the screen
  std::string last_line_;
};

}  // namespace llama
