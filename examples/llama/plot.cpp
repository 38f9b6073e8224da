// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "plot.hpp"

#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include <fmt/format.h>

#include "atomic_file.hpp"

namespace llama {
namespace {

// In a double-quoted gnuplot string; the enhanced text mode is off, so that _ and ^ stand for
// themselves.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + '"';
}

std::string script(const Plot& plot, const std::string& output) {
  std::string text = fmt::format(
      "set terminal svg noenhanced size 800,480 background rgb 'white' font 'sans,13'\n"
      "set output {}\nset title {}\nset xlabel {}\nset ylabel {}\nset grid\nset key top right\n",
      quoted(output), quoted(plot.title), quoted(plot.x_label), quoted(plot.y_label));
  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    text += fmt::format("$series{} << END\n", i);
    for (const auto& [x, y] : plot.series[i].points)
      if (std::isfinite(x) && std::isfinite(y)) text += fmt::format("{:.9g} {:.9g}\n", x, y);
    text += "END\n";
  }
  text += "plot ";
  for (std::size_t i = 0; i < plot.series.size(); ++i)
    text += fmt::format("{}$series{} using 1:2 with lines linewidth 2 title {}", i == 0 ? "" : ", ",
                        i, quoted(plot.series[i].name));
  return text + "\n";
}

/// What gnuplot ends with when it is given `commands`; not 0 where it is missing.
int run_gnuplot(const std::string& commands) {
  // Where gnuplot is missing, the pipe is closed before anything is written: an error to report,
  // not a signal to die of.
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

/// gnuplot does not look whether its last bytes were written.
bool is_whole(const std::filesystem::path& svg) {
  std::ifstream file(svg, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return text.find("</svg>") != std::string::npos;
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

void write_svg(const std::filesystem::path& path, const Plot& plot) {
  AtomicFile file(path);
  if (run_gnuplot(script(plot, file.temporary().string())) != 0 || !is_whole(file.temporary()))
    throw std::runtime_error(
        fmt::format("a plot needs gnuplot and room to write, but '{}' could not be drawn; install "
                    "gnuplot (Debian: gnuplot-nox), free some space or choose another path",
                    path.string()));
  file.publish();
}

}  // namespace llama
