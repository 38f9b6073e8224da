// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Line plots as SVG, drawn by gnuplot.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace llama {

struct Series {
  std::string name;
  std::vector<std::pair<double, double>>
      points;  ///< (x, y); points that are not finite are left out
};

struct Plot {
  std::string title;
  std::string x_label;  ///< with its unit
  std::string y_label;
  std::vector<Series> series;
};

/// Fails now, rather than after hours of training, where write_svg would: std::runtime_error.
void check_can_plot(const std::filesystem::path& path);

/// Draws `plot` into the SVG file `path`. Throws std::runtime_error when gnuplot is missing or
/// fails; an older file then stays as it was.
void write_svg(const std::filesystem::path& path, const Plot& plot);

}  // namespace llama
