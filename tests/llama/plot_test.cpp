// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A plot is an SVG file with its titles, or an error that leaves the old file.
#include "llama/app/plot.hpp"

#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "llama/files.hpp"
#include "llama/formats/atomic_file.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

// Sets PATH for its lifetime.
class Path {
 public:
  explicit Path(const std::string& path) : before_(std::getenv("PATH")) {
    setenv("PATH", path.c_str(), 1);
  }
  ~Path() { setenv("PATH", before_.c_str(), 1); }
  Path(const Path&) = delete;
  Path& operator=(const Path&) = delete;

 private:
  std::string before_;
};

llama::Plot example() {
  return {.title = "a \"quoted\" title with a \\ in it",
          .x_label = "time (s)",
          .y_label = "loss",
          .series = {{"drop_rate 0.5",
                      {{0, 3}, {1, 2.5}, {2, std::numeric_limits<double>::quiet_NaN()}, {3, 2}}},
                     {"other", {{0, 3}, {3, 1}}}}};
}

bool gnuplot_is_missing() {
  if (std::system("gnuplot --version > /dev/null 2>&1") == 0) return false;
  WARN("SKIPPED: gnuplot is not installed");
  return true;
}

std::size_t count_of(const std::string& text, const std::string& word) {
  std::size_t count = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1))
    ++count;
  return count;
}

// Whether an axis has this label.
bool has_label(const std::string& svg, const std::string& label) {
  return svg.find(">" + label + "<") != std::string::npos ||
         svg.find("> " + label + "<") != std::string::npos;
}

// The SVG of one plot of `series`.
std::string svg_of(std::vector<llama::Series> series, bool y_from_zero = false) {
  const test::TemporaryFolder folder;
  llama::write_svg(folder / "plot.svg", {.title = "",
                                         .x_label = "",
                                         .y_label = "",
                                         .series = std::move(series),
                                         .y_from_zero = y_from_zero});
  return test::read_bytes(folder / "plot.svg");
}

}  // namespace

TEST_CASE("plot: an SVG file with its words") {
  if (gnuplot_is_missing()) return;
  const test::TemporaryFolder folder;
  llama::write_svg(folder / "loss.svg", example());
  const std::string svg = test::read_bytes(folder / "loss.svg");
  CHECK(svg.find("<svg") != std::string::npos);
  CHECK(svg.find("</svg>") != std::string::npos);
  CHECK(svg.find("drop_rate 0.5") != std::string::npos);
  CHECK(svg.find("a \"quoted\" title with a \\ in it") != std::string::npos);
  CHECK(svg.find("time (s)") != std::string::npos);
  CHECK(llama::temporaries_in(folder.path()).empty());
}

TEST_CASE("plot: dashes, shared colours, error bars and an axis from 0") {
  if (gnuplot_is_missing()) return;
  const llama::Series plain{.name = "a", .points = {{0, 3}, {1, 2}}};
  llama::Series changed = plain;
  changed.line = llama::Line::dashed;
  // Grid lines are dashed as well.
  CHECK(count_of(svg_of({changed}), "stroke-dasharray") >
        count_of(svg_of({plain}), "stroke-dasharray"));

  changed.line = llama::Line::none;
  CHECK(svg_of({changed}) != svg_of({plain}));

  // By position the second series has another colour; by number it shares the first one's.
  const std::string second = "rgb(213,  94,   0)";
  CHECK(count_of(svg_of({plain, plain}), second) > 0);
  changed = plain;
  changed.color = 0;
  CHECK(count_of(svg_of({plain, changed}), second) == 0);

  changed = plain;
  changed.spread = {{2.5, 3.5}, {1.5, 7}};
  CHECK(svg_of({changed}) != svg_of({plain}));
  CHECK(has_label(svg_of({changed}), "7"));  // the axis reaches the end of the bar
  CHECK_FALSE(has_label(svg_of({plain}), "7"));

  const std::vector<llama::Series> far = {{.name = "a", .points = {{1, 100}, {2, 101}}}};
  CHECK_FALSE(has_label(svg_of(far), "0"));
  CHECK(has_label(svg_of(far, true), "0"));
}

TEST_CASE("plot: panels side by side, at most three, and series without a point are left out") {
  if (gnuplot_is_missing()) return;
  const test::TemporaryFolder folder;
  std::vector<llama::Plot> panels(2, example());
  panels[1].x_label = "steps";
  panels[1].series.push_back({"never measured", {}});
  llama::write_svg(folder / "loss.svg", panels);
  const std::string svg = test::read_bytes(folder / "loss.svg");
  CHECK(count_of(svg, "drop_rate 0.5") >= 2);
  CHECK(count_of(svg, "time (s)") == 1);
  CHECK(count_of(svg, "steps") == 1);
  CHECK(count_of(svg, "never measured") == 0);
  CHECK(count_of(svg, "viewBox=\"0 0 1200 480\"") == 1);
  panels.resize(4, example());
  llama::write_svg(folder / "loss.svg", panels);
  CHECK(count_of(test::read_bytes(folder / "loss.svg"), "viewBox=\"0 0 1800 960\"") == 1);
}

TEST_CASE("plot: a plot that cannot be drawn is an error and leaves the old file") {
  const test::TemporaryFolder folder;
  test::write_bytes(folder / "loss.svg", "old");
  const auto write = [&](std::vector<llama::Plot> panels) {
    llama::write_svg(folder / "loss.svg", panels);
  };
  test::check_throws<std::invalid_argument>([&] { write({}); }, {"must have a panel"});
  llama::Plot plot = example();
  plot.series = {{"empty", {}}};
  test::check_throws<std::invalid_argument>([&] { write({plot}); }, {"finite point", "leave"});
  plot = example();
  plot.series[1].spread = {{0, 1}};
  test::check_throws<std::invalid_argument>([&] { write({plot}); }, {"other", "1 for 2 points"});
  CHECK(test::read_bytes(folder / "loss.svg") == "old");
}

TEST_CASE("plot: without gnuplot, or if the file cannot be written, the old file stays") {
  const test::TemporaryFolder folder;
  test::write_bytes(folder / "loss.svg", "old");
  {
    const Path nowhere((folder / "empty").string());
    test::check_throws<std::runtime_error>(
        [&] { llama::write_svg(folder / "loss.svg", example()); },
        {"gnuplot", "loss.svg", "install"});
    test::check_throws<std::runtime_error>([&] { llama::check_can_plot(folder / "loss.svg"); },
                                           {"gnuplot", "loss.svg", "install"});
  }
  CHECK(llama::temporaries_in(folder.path()).empty());
  CHECK(test::read_bytes(folder / "loss.svg") == "old");
  test::check_throws<std::runtime_error>(
      [&] { llama::write_svg(folder / "missing" / "loss.svg", example()); },
      {"missing/loss.svg", "No such file"});
}
