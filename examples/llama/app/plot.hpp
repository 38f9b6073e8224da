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

/// A line through points; short series also have markers.
struct Series {
  std::string name;
  /// (x, y); points with NaN or infinity are left out.
  std::vector<std::pair<double, double>> points;
  /// (least, most) of each point, drawn as error bars; or empty.
  std::vector<std::pair<double, double>> spread = {};
  /// Index of the colour; empty: the position of the series.
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

/// Throws std::runtime_error if write_svg would fail. Called before the training, not after it.
void check_can_plot(const std::filesystem::path& path);

/// Draws `panels` side by side into the SVG file `path`. Series without a finite point are left
/// out. Throws std::invalid_argument if there is no panel, a panel has no point, or a spread does
/// not match its points; throws std::runtime_error if gnuplot is missing or fails. An older file is
/// then unchanged.
void write_svg(const std::filesystem::path& path, std::span<const Plot> panels);

/// write_svg's element for the inside of another file, at `beside`, near which it is drawn first.
[[nodiscard]] std::string draw_svg(const std::filesystem::path& beside,
                                   std::span<const Plot> panels);

/// The same with one panel.
void write_svg(const std::filesystem::path& path, const Plot& plot);

}  // namespace llama
