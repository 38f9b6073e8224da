// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "plot.hpp"

#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <stdexcept>

#include <fmt/format.h>

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

}  // namespace

void write_svg(const std::filesystem::path& path, const Plot& plot) {
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  // Where gnuplot is missing, the pipe is closed before anything is written: an error to report,
  // not a signal to die of.
  const auto previous = std::signal(SIGPIPE, SIG_IGN);
  std::FILE* const gnuplot = popen("gnuplot > /dev/null 2>&1", "w");
  bool written = gnuplot != nullptr;
  if (gnuplot != nullptr) {
    const std::string commands = script(plot, temporary.string());
    written = std::fwrite(commands.data(), 1, commands.size(), gnuplot) == commands.size();
    written = (pclose(gnuplot) == 0) && written;
  }
  std::signal(SIGPIPE, previous);
  std::error_code error;
  if (written) std::filesystem::rename(temporary, path, error);
  if (!written || error) {
    std::filesystem::remove(temporary, error);
    throw std::runtime_error(
        fmt::format("a plot needs gnuplot and a folder that can be written, but {} could not be "
                    "drawn: install gnuplot (Debian: gnuplot-nox) or choose another path",
                    path.string()));
  }
}

}  // namespace llama
