// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The progress output, as a terminal shows it.
#include "llama/app/progress.hpp"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "support/catch.hpp"

namespace {

using namespace llama;

/// A Progress with the test's clock and width, and its output.
struct Screen {
  explicit Screen(ProgressStyle style, std::uint64_t steps = 100, int columns = 80)
      : width(columns), file(std::tmpfile()) {
    progress = std::make_unique<Progress>(Progress::Settings{.style = style,
                                                             .steps = steps,
                                                             .log_every = 10,
                                                             .out = file,
                                                             .seconds = [this] { return now; },
                                                             .width = [this] { return width; }});
  }
  ~Screen() {
    progress.reset();
    std::fclose(file);
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  std::string written() {
    std::fflush(file);
    std::string text(static_cast<std::size_t>(std::ftell(file)), '\0');
    std::rewind(file);
    text.resize(std::fread(text.data(), 1, text.size(), file));
    std::fseek(file, 0, SEEK_END);
    return text;
  }

  double now = 1000.0;
  int width;
  std::FILE* file;
  std::unique_ptr<Progress> progress;
};

/// The lines on a terminal after this text; trailing blanks are not seen.
std::vector<std::string> shown(const std::string& text) {
  std::vector<std::string> lines(1);
  std::size_t column = 0;
  for (const char c : text) {
    if (c == '\r') {
      column = 0;
    } else if (c == '\n') {
      lines.emplace_back();
      column = 0;
    } else {
      if (lines.back().size() <= column) lines.back().resize(column + 1, ' ');
      lines.back()[column++] = c;
    }
  }
  for (auto& line : lines) line.resize(line.find_last_not_of(' ') + 1);
  return lines;
}

ProgressUpdate at(std::uint64_t step, double loss = 2.5) {
  return {.steps_done = step,
          .loss = loss,
          .validation_loss = {},
          .tokens_per_second = 12345.6,
          .drop_rate = 0.5};
}

}  // namespace

TEST_CASE("progress: the style follows the option, the terminal and --quiet") {
  using enum ProgressChoice;
  CHECK(choose_progress_style(automatic, false, true) == ProgressStyle::bar);
  CHECK(choose_progress_style(automatic, false, false) == ProgressStyle::lines);
  CHECK(choose_progress_style(always, false, false) == ProgressStyle::bar);
  CHECK(choose_progress_style(never, false, true) == ProgressStyle::lines);
  CHECK(choose_progress_style(always, true, true) == ProgressStyle::none);
  std::FILE* file = std::tmpfile();
  CHECK(!is_terminal(file));
  CHECK(terminal_width(file) == 80);
  std::fclose(file);
}

TEST_CASE("progress: the bar fits every width and leaves out the least important items first") {
  CHECK(progress_bar(at(50), 100, 83, 79) ==
        "[========>       ] 50/100  loss 2.5000  1m23s left  12346 tokens/s  dropped 50%");
  for (int width = 0; width < 200; ++width) {
    for (const double loss : {2.5, 1e300, std::numeric_limits<double>::quiet_NaN()}) {
      const std::string bar = progress_bar(at(50, loss), 100, 83, width);
      CHECK(bar.size() <= static_cast<std::size_t>(width));
    }
  }
  CHECK(progress_bar(at(0), 100, -1, 200).find("? left") != std::string::npos);
  CHECK(progress_bar(at(0), 100, -1, 200).starts_with("[>   "));
  CHECK(progress_bar(at(100), 100, 0, 200)
            .starts_with("[======================================] 100/100"));
  CHECK(progress_bar(at(500), 100, 0, 200)
            .starts_with("[======================================] 500/100"));
  CHECK(progress_bar(at(50), 100, 83, 200).find("dropped 50%") != std::string::npos);
  CHECK(progress_bar(at(50), 100, 83, 6) == "50/100");
  CHECK(progress_bar(at(50), 100, 83, 5).empty());
  CHECK(progress_line(at(1), 2, 3 * 3600 + 4 * 60) ==
        "step 1/2  loss 2.5000  12346 tokens/s  dropped 50.0%  3h04m left");
  CHECK(progress_line(at(1), 2, 1e30).find(">100d left") != std::string::npos);
}

TEST_CASE(
    "progress: a bar is redrawn in place, at most ten times a second, and erased at the end") {
  Screen screen(ProgressStyle::bar, 1000);
  for (std::uint64_t step = 1; step <= 999; ++step) {
    screen.now += 0.01;
    screen.progress->update(at(step));
  }
  const std::string text = screen.written();
  const auto redraws = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\r'));
  CHECK(redraws >= 90);
  CHECK(redraws <= 101);
  CHECK(text.find('\n') == std::string::npos);
  CHECK(text.find('\x1b') == std::string::npos);
  REQUIRE(shown(text).size() == 1);
  CHECK(shown(text)[0].size() < 80);
  screen.progress->update(at(1000));  // the last one is always drawn
  CHECK(shown(screen.written())[0].find("1000/1000") != std::string::npos);
  screen.progress.reset();
  CHECK(shown(screen.written()) == std::vector<std::string>{""});
}

TEST_CASE("progress: a shorter line covers a longer one, and messages are printed above the bar") {
  Screen screen(ProgressStyle::bar, 100, 30);
  screen.progress->update(at(1, 123456789.0));
  screen.now += 1;
  screen.progress->update(at(2, 1.0));
  CHECK(shown(screen.written())[0] == progress_bar(at(2, 1.0), 100, 49, 29));
  screen.progress->message("validation 1.25");
  auto lines = shown(screen.written());
  REQUIRE(lines.size() == 2);
  CHECK(lines[0] == "validation 1.25");
  CHECK(lines[1] == progress_bar(at(2, 1.0), 100, 49, 29));

  ProgressUpdate with_validation = at(3);
  with_validation.validation_loss = 1.5;
  screen.progress->update(with_validation);
  lines = shown(screen.written());
  REQUIRE(lines.size() == 3);
  CHECK(lines[1].starts_with("step 3/100  loss 2.5000  validation 1.5000"));

  // A terminal made narrower: nothing is written beyond its new edge.
  screen.width = 20;
  const std::size_t before = screen.written().size();
  screen.now += 1;
  screen.progress->update(at(4));
  CHECK(screen.written().substr(before).size() <= 20);
}

TEST_CASE(
    "progress: elsewhere a plain line every N steps, at the end and with a validation loss; "
    "nothing when quiet") {
  Screen screen(ProgressStyle::lines, 25);
  Screen quiet(ProgressStyle::none, 25);
  for (std::uint64_t step = 1; step <= 25; ++step) {
    screen.now += 1;
    ProgressUpdate update = at(step);
    if (step == 13) update.validation_loss = 3.0;
    screen.progress->update(update);
    quiet.progress->update(update);
  }
  quiet.progress->message("text");
  CHECK(quiet.written().empty());
  const std::string text = screen.written();
  CHECK(text.find('\r') == std::string::npos);
  const auto lines = shown(text);
  REQUIRE(lines.size() == 5);
  CHECK(lines[0] == "step 10/25  loss 2.5000  12346 tokens/s  dropped 50.0%  15s left");
  CHECK(lines[1] ==
        "step 13/25  loss 2.5000  validation 3.0000  12346 tokens/s  dropped 50.0%  12s left");
  CHECK(lines[2].starts_with("step 20/25"));
  CHECK(lines[3].starts_with("step 25/25"));
  CHECK(lines[3].ends_with("  0s left"));
  CHECK(lines[4].empty());
}

TEST_CASE("progress: a resumed run counts only its own steps for the time that is left") {
  double now = 100.0;
  std::FILE* const file = std::tmpfile();
  {
    Progress progress(Progress::Settings{.style = ProgressStyle::lines,
                                         .steps = 100,
                                         .first_step = 60,
                                         .log_every = 1,
                                         .out = file,
                                         .seconds = [&] { return now; }});
    now = 110.0;
    ProgressUpdate update;
    update.steps_done = 70;
    progress.update(update);
  }
  std::fflush(file);
  std::string written(static_cast<std::size_t>(std::ftell(file)), '\0');
  std::rewind(file);
  CHECK(std::fread(written.data(), 1, written.size(), file) == written.size());
  std::fclose(file);
  INFO(written);
  CHECK(written.find("30s left") != std::string::npos);
}
