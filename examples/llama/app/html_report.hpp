// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a run did as one page to look at: no scripts, and nothing that is loaded from elsewhere.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "llama/app/report.hpp"

namespace llama {

/// Text for HTML's own characters.
[[nodiscard]] std::string html_text(std::string_view text);

/// A row for each of `branches`, attention and MLP in turn from the first block, and a cell for
/// each of at most `most_cells` equal parts of the steps, as dark as the share of its steps that
/// dropped the branch: an SVG element.
[[nodiscard]] std::string drop_heat_map(std::span<const StepRecord> steps, std::size_t branches,
                                        std::size_t most_cells = 80);

/// The page: what was saved, losses over steps and time, drop rates by branch, memory, options.
/// `plots` is an SVG with the panels of loss_plots and memory_plot.
[[nodiscard]] std::string html_report(const Options& options, const LlamaConfig& model,
                                      const ops::LoraConfig& lora, const RunReport& run,
                                      const std::optional<RunReport>& baseline,
                                      std::string_view plots);

/// Draws the plots with gnuplot and writes the page whole, or leaves the old one
/// (std::runtime_error).
void write_html(const std::filesystem::path& path, const Options& options, const LlamaConfig& model,
                const ops::LoraConfig& lora, const RunReport& run,
                const std::optional<RunReport>& baseline);

}  // namespace llama
