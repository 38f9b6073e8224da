// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/plot.hpp"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include <fmt/format.h>

#include "llama/formats/atomic_file.hpp"

namespace llama {
namespace {

// As a double-quoted gnuplot string. Enhanced text mode is off, so _ and ^ are literal.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + '"';
}

// Colours that most colour-blind readers tell apart (Okabe and Ito).
constexpr const char* colors[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                  "#e69f00", "#56b4e9", "#000000"};

/// Series with at most this many points have a marker at each point.
constexpr std::size_t most_markers = 20;

/// The lines of a gnuplot data block: x y, or x y least most.
std::vector<std::string> rows_of(const Series& series) {
  if (!series.spread.empty() && series.spread.size() != series.points.size())
    throw std::invalid_argument(fmt::format(
        "a spread must have one entry for each point, but series '{}' has {} for {} points: give "
        "as many, or none",
        series.name, series.spread.size(), series.points.size()));
  std::vector<std::string> rows;
  for (std::size_t i = 0; i < series.points.size(); ++i) {
    const auto [x, y] = series.points[i];
    if (!std::isfinite(x) || !std::isfinite(y)) continue;
    std::string row = fmt::format("{:.9g} {:.9g}", x, y);
    if (!series.spread.empty()) {
      const auto [least, most] = series.spread[i];
      row += fmt::format(" {:.9g} {:.9g}", std::isfinite(least) ? least : y,
                         std::isfinite(most) ? most : y);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string panel(const Plot& plot) {
  std::string data, lines;
  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    const Series& series = plot.series[i];
    const std::vector<std::string> rows = rows_of(series);
    if (rows.empty()) continue;
    data += fmt::format("$series{} << END\n", i);
    for (const std::string& row : rows) data += row + '\n';
    data += "END\n";
    const bool has_spread = !series.spread.empty();
    const char* with = has_spread                    ? "yerrorlines"
                       : rows.size() <= most_markers ? "linespoints"
                                                     : "lines";
    if (series.line == Line::none) with = has_spread ? "yerrorbars" : "points";
    lines += fmt::format(
        "{}$series{} with {} linewidth 2 linecolor rgb '{}' dashtype {} pointtype {} pointsize 0.8 "
        "title {}",
        lines.empty() ? "" : ", ", i, with, colors[series.color.value_or(i) % std::size(colors)],
        series.line == Line::dashed ? 2 : 1, series.line == Line::dashed ? 6 : 7,
        quoted(series.name));  // circle or disc
  }
  if (lines.empty())
    throw std::invalid_argument(
        fmt::format("a plot must have a finite point, but '{}' has none: give it one, or leave the "
                    "plot out",
                    plot.title));
  return fmt::format("set title {}\nset xlabel {}\nset ylabel {}\nset yrange [{}:*]\n{}plot {}\n",
                     quoted(plot.title), quoted(plot.x_label), quoted(plot.y_label),
                     plot.y_from_zero ? "0" : "*", data, lines);
}

std::string script(std::span<const Plot> panels, const std::string& output) {
  if (panels.empty())
    throw std::invalid_argument("a picture must have a panel, but there is none: give it one");
  // More than three side by side are too small to read on a page.
  const std::size_t columns = std::min<std::size_t>(panels.size(), 3);
  const std::size_t rows = (panels.size() + columns - 1) / columns;
  std::string text = fmt::format(
      "set terminal svg noenhanced size {},{} background rgb 'white' font 'sans,13'\n"
      "set output {}\nset grid\nset key above\nset multiplot layout {},{}\n",
      columns == 1 ? 800 : 600 * columns, 480 * rows, quoted(output), rows, columns);
  for (const Plot& plot : panels) text += panel(plot);
  return text + "unset multiplot\n";
}

/// Exit status of gnuplot for `commands`; not 0 if gnuplot is missing.
int run_gnuplot(const std::string& commands) {
  // If gnuplot is missing, the pipe is closed early: report an error instead of dying of SIGPIPE.
  const auto previous = std::signal(SIGPIPE, SIG_IGN);
  std::FILE* const gnuplot = popen("gnuplot > /dev/null 2>&1", "w");
  bool written = gnuplot != nullptr;
  int status = -1;
  if (gnuplot != nullptr) {
    written = std::fwrite(commands.data(), 1, commands.size(), gnuplot) == commands.size();
    status = pclose(gnuplot);
  }
  std::signal(SIGPIPE, previous);
  return written ? status : -1;
}

/// Draws into a file that is not published yet and returns its text.
std::string draw(const AtomicFile& svg, const std::filesystem::path& path,
                 std::span<const Plot> panels) {
  const bool drawn = run_gnuplot(script(panels, svg.temporary().string())) == 0;
  std::ifstream file(svg.temporary(), std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  // gnuplot does not check that its last bytes were written.
  if (!drawn || text.find("</svg>") == std::string::npos)
    throw std::runtime_error(
        fmt::format("a plot needs gnuplot and room to write, but '{}' could not be drawn; install "
                    "gnuplot (Debian: gnuplot-nox), free some space or choose another path",
                    path.string()));
  return text;
}

}  // namespace

void check_can_plot(const std::filesystem::path& path) {
  check_writable(path);
  if (run_gnuplot("exit\n") != 0)
    throw std::runtime_error(
        fmt::format("a plot needs gnuplot, but it could not be run to draw '{}'; install it "
                    "(Debian: gnuplot-nox) or leave the plot out",
                    path.string()));
}

void write_svg(const std::filesystem::path& path, std::span<const Plot> panels) {
  AtomicFile file(path);
  static_cast<void>(draw(file, path, panels));
  file.publish();
}

std::string draw_svg(const std::filesystem::path& beside, std::span<const Plot> panels) {
  const AtomicFile never_published(beside);
  const std::string text = draw(never_published, beside, panels);
  const std::size_t begin = text.find("<svg");  // behind the declarations of a file
  return text.substr(begin == std::string::npos ? 0 : begin);
}

void write_svg(const std::filesystem::path& path, const Plot& plot) {
  write_svg(path, std::span(&plot, 1));
}

}  // namespace llama
