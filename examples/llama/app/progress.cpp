// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Only carriage returns and spaces are used, which every terminal and every log viewer understands.
#include "llama/app/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <utility>
#include <vector>

namespace llama {
namespace {

constexpr double redraw_seconds = 0.1;  // smooth to the eye, and negligible time
constexpr int smallest_bar = 10;        // characters with brackets; no bar if there is less room
constexpr int largest_bar = 40;

std::string duration_text(double seconds) {
  if (!(seconds >= 0.0)) return "?";
  if (seconds > 100.0 * 24 * 3600) return ">100d";
  const auto total = static_cast<long long>(std::llround(seconds));
  if (total < 60) return fmt::format("{}s", total);
  if (total < 3600) return fmt::format("{}m{:02}s", total / 60, total % 60);
  if (total < 24 * 3600) return fmt::format("{}h{:02}m", total / 3600, total / 60 % 60);
  return fmt::format("{}d{:02}h", total / (24 * 3600), total / 3600 % 24);
}

std::string rate_text(double tokens_per_second) {
  return fmt::format("{:.0f} tokens/s", tokens_per_second);
}

double share_done(const ProgressUpdate& update, std::uint64_t steps) {
  return steps == 0
             ? 1.0
             : std::min(1.0, static_cast<double>(update.steps_done) / static_cast<double>(steps));
}

}  // namespace

ProgressStyle choose_progress_style(ProgressChoice choice, bool quiet,
                                    bool out_is_terminal) noexcept {
  if (quiet) return ProgressStyle::none;
  const bool bar =
      choice == ProgressChoice::always || (choice == ProgressChoice::automatic && out_is_terminal);
  return bar ? ProgressStyle::bar : ProgressStyle::lines;
}

bool is_terminal(std::FILE* out) noexcept {
  const char* term = std::getenv("TERM");
  return ::isatty(::fileno(out)) != 0 && (term == nullptr || std::string_view(term) != "dumb");
}

int terminal_width(std::FILE* out) noexcept {
  winsize size{};
  if (::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

std::string progress_bar(const ProgressUpdate& update, std::uint64_t steps, double seconds_left,
                         int width) {
  const auto room = static_cast<std::size_t>(std::max(width, 0));
  // In order of importance: on a narrow terminal the last ones are left out first.
  const std::string parts[] = {
      fmt::format("{}/{}", update.steps_done, steps), fmt::format("loss {:.4f}", update.loss),
      fmt::format("{} left", duration_text(seconds_left)), rate_text(update.tokens_per_second),
      fmt::format("dropped {:.0f}%", 100.0 * update.drop_rate)};
  std::string text;
  for (const std::string& part : parts) {
    const std::size_t longer = text.size() + (text.empty() ? 0 : 2) + part.size();
    if (longer > room) break;
    if (!text.empty()) text += "  ";
    text += part;
  }
  const int bar = std::min(largest_bar, width - static_cast<int>(text.size()) - 1);
  if (bar < smallest_bar) return text;
  const int inside = bar - 2;
  const int filled = static_cast<int>(share_done(update, steps) * inside);
  return fmt::format("[{:=<{}}{:<{}}] {}", "", filled, filled < inside ? ">" : "", inside - filled,
                     text);
}

std::string progress_line(const ProgressUpdate& update, std::uint64_t steps, double seconds_left) {
  std::string line = fmt::format("step {}/{}  loss {:.4f}", update.steps_done, steps, update.loss);
  if (update.validation_loss) line += fmt::format("  validation {:.4f}", *update.validation_loss);
  line += fmt::format("  {}  dropped {:.1f}%  {} left", rate_text(update.tokens_per_second),
                      100.0 * update.drop_rate, duration_text(seconds_left));
  return line;
}

Progress::Progress(Settings settings) : settings_(std::move(settings)) {
  if (!settings_.seconds) {
    settings_.seconds = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
          .count();
    };
  }
  if (!settings_.width) settings_.width = [out = settings_.out] { return terminal_width(out); };
  settings_.log_every = std::max<std::uint64_t>(settings_.log_every, 1);
  start_ = settings_.seconds();
  last_draw_ = start_ - redraw_seconds;
}

Progress::~Progress() { clear(); }

double Progress::seconds_left(std::uint64_t steps_done) const {
  if (steps_done <= settings_.first_step) return -1.0;
  const double done_now = static_cast<double>(steps_done - settings_.first_step);
  const double rest = static_cast<double>(std::max(settings_.steps, steps_done) - steps_done);
  return (settings_.seconds() - start_) / done_now * rest;
}

void Progress::update(const ProgressUpdate& update) {
  if (settings_.style == ProgressStyle::none) return;
  const bool last = update.steps_done >= settings_.steps;
  const double left = seconds_left(update.steps_done);
  if (settings_.style == ProgressStyle::lines) {
    if (last || update.validation_loss || update.steps_done % settings_.log_every == 0)
      message(progress_line(update, settings_.steps, left));
    return;
  }
  // One column is kept free: a full line makes many terminals wrap, and a carriage return then
  // comes back too low.
  last_line_ = progress_bar(update, settings_.steps, left, settings_.width() - 1);
  if (update.validation_loss) message(progress_line(update, settings_.steps, left));
  const double now = settings_.seconds();
  if (last || now - last_draw_ >= redraw_seconds) {
    last_draw_ = now;
    draw(last_line_);
  }
}

void Progress::message(std::string_view text) {
  if (settings_.style == ProgressStyle::none) return;
  const bool had_bar = drawn_ > 0;
  clear();
  std::fprintf(settings_.out, "%.*s\n", static_cast<int>(text.size()), text.data());
  if (had_bar) draw(last_line_);
  std::fflush(settings_.out);
}

// The terminal may be narrower than when the bar was drawn; blanks beyond its edge would wrap.
std::size_t Progress::edge() const {
  return static_cast<std::size_t>(std::max(settings_.width() - 1, 0));
}

void Progress::clear() {
  if (drawn_ == 0) return;
  const std::string blank(std::min(drawn_, edge()), ' ');
  std::fprintf(settings_.out, "\r%s\r", blank.c_str());
  std::fflush(settings_.out);
  drawn_ = 0;
}

void Progress::draw(const std::string& line) {
  // Blanks cover the rest of a longer previous line.
  const std::size_t end = std::min(drawn_, edge());
  const std::size_t blanks = end > line.size() ? end - line.size() : 0;
  std::fprintf(settings_.out, "\r%s%s", line.c_str(), std::string(blanks, ' ').c_str());
  std::fflush(settings_.out);
  drawn_ = line.size();
}

}  // namespace llama
