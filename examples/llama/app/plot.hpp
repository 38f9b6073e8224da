// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Line plots as SVG, drawn by gnuplot.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace llama {

enum class Line {
  solid,
  dashed,
  none,  ///< markers alone
};

/// A line through points. With few points, each has a marker.
struct Series {
  std::string name;
  /// (x, y); points that are not finite are left out.
  std::vector<std::pair<double, double>> points;
  /// (least, most) of each point, drawn as error bars; or empty.
  std::vector<std::pair<double, double>> spread = {};
  /// Series with the same number have the same colour; without one, the series's position counts.
  std::optional<std::size_t> color = std::nullopt;
  Line line = Line::solid;
};

struct Plot {
  std::string title;
  std::string x_label;  ///< with its unit
  std::string y_label;
  std::vector<Series> series;
  bool y_from_zero = false;  ///< the y axis begins at 0, not at the least value
};

/// Fails now, rather than after hours of training, where write_svg would: std::runtime_error.
void check_can_plot(const std::filesystem::path& path);

/// Draws `panels` side by side into the SVG file `path`. Series without a finite point are left
/// out. Throws std::invalid_argument where no panel or a panel without any point is given, or a
/// spread that is not as long as its points; std::runtime_error when gnuplot is missing or fails.
/// An older file then stays as it was.
void write_svg(const std::filesystem::path& path, std::span<const Plot> panels);

/// write_svg's element for the inside of another file, at `beside`, near which it is drawn first.
[[nodiscard]] std::string draw_svg(const std::filesystem::path& beside,
                                   std::span<const Plot> panels);

/// The same with one panel.
void write_svg(const std::filesystem::path& path, const Plot& plot);

}  // namespace llama
