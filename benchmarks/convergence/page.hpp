// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The page, the plots and the JSON that `convergence` writes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "convergence/results.hpp"

namespace bench {

class Page {
 public:
  void add(const Regime& regime, const std::string& identity,
           const std::map<double, StepParts>& parts, const FirstSteps& first,
           const Analysis& analysis) {
    Json rows = Json::array();
    llama::Plot plot{.title = regime.name,
                     .x_label = "modelled time / that of ordinary training",
                     .y_label = "validation loss (nats per token)",
                     .series = {}};
    const StepParts& whole = parts.at(1.0);
    const double all = whole.fixed + whole.branches + whole.optimizer;
    text_ += fmt::format("\n## {}\n\n{}\n", regime.name,
                         wrapped(fmt::format("{}; drop rate {}.", identity, regime.drop_rate)));
    text_ += wrapped(fmt::format(
                 "Of the processor time of an ordinary step ({:.1f} ms), the "
                 "branches' backward pass takes {:.0f} % and the optimizer {:.0f} %.",
                 1e3 * all, 100.0 * whole.branches / all, 100.0 * whole.optimizer / all)) +
             "\n" +
             wrapped(fmt::format(
                 "Gain of a first step: the highest half of the blocks has {:.2f} of it, "
                 "the highest quarter {:.2f}. Uniform rates of 0.5 leave {:.2f}, and of the "
                 "gain of the branches that they keep {:.2f}.",
                 first.half, first.quarter, first.uniform, first.kept)) +
             "\n| method | learning rate | time | validation loss | gain at equal time | speed "
             "|\n| --- | --- | --- | --- | --- | --- |\n";
    std::string second =
        "\n| method | seeds | learned | backward kept | activations, mean / peak | against half "
        "the "
        "batch |\n| --- | --- | --- | --- | --- | --- |\n";
    std::string missing;
    for (const Method& method : methods()) {
      const auto row = analysis.row(method);
      if (!row) {
        missing += fmt::format("{}{}", missing.empty() ? "Not complete: " : "; ", method.name);
        continue;
      }
      text_ += line_of(*row, analysis.best(method)->edge);
      second += second_line_of(*row);
      rows.push_back(json_of(*row));
      plot.series.push_back(series_of(*row));
    }
    // Others would hide these; the table has all.
    const auto has_color = [](const llama::Series& series) { return series.color.has_value(); };
    if (std::ranges::any_of(plot.series, has_color))
      std::erase_if(plot.series, std::not_fn(has_color));
    text_ += second;
    if (!missing.empty()) text_ += "\n" + wrapped(missing + ".");
    json_["regimes"].push_back({{"name", regime.name},
                                {"text", identity},
                                {"fixed_ms", 1e3 * whole.fixed},
                                {"branches_ms", 1e3 * whole.branches},
                                {"optimizer_ms", 1e3 * whole.optimizer},
                                {"first_step_half", first.half},
                                {"first_step_quarter", first.quarter},
                                {"first_step_uniform", first.uniform},
                                {"first_step_kept", first.kept},
                                {"methods", std::move(rows)}});
    plots_.push_back(std::move(plot));
  }

  /// `picture`: the name of the plots' file, or empty.
  std::string text(const std::string& command, const std::string& picture) const {
    std::string text = head() + "\n```console\n$ " + wrapped(command, " \\\n    ") + "```\n";
    if (!picture.empty())
      text += "\n![Validation loss over modelled time, by method](" + picture + ")\n";
    return text + text_ + foot();
  }
  const Json& json() const noexcept { return json_; }
  const std::vector<llama::Plot>& plots() const noexcept { return plots_; }

 private:
  // Lines of at most 98 columns; `next` ends one and begins the next.
  static std::string wrapped(const std::string& text, const std::string& next = "\n") {
    std::string lines, word;
    std::size_t width = 0;
    std::istringstream words(text);
    while (words >> word) {
      const bool fits = width + 1 + word.size() <= 98 - next.size();
      if (width > 0) lines += fits ? " " : next;
      width = (width == 0 ? 0 : fits ? width + 1 : next.size()) + word.size();
      lines += word;
    }
    return lines + "\n";
  }

  static std::string text_of(const Figure& figure, int digits, std::size_t seeds) {
    if (seeds == 1) return fmt::format("{:.{}f}", figure.mean, digits);
    return fmt::format("{:.{}f} +- {:.{}f}", figure.mean, digits, figure.deviation, digits);
  }

  static std::string line_of(const Row& row, bool edge) {
    const std::string gain = row.gains.size() == row.seeds
                                 ? text_of(figure_of(row.gains), 3, row.seeds)
                                 : "not measured";
    return fmt::format("| {} | {:g}{} | {:.2f} | {} | {} | {}{} |\n", row.method->name,
                       row.learning_rate, edge ? " (edge)" : "", row.time.mean,
                       text_of(row.loss, 3, row.seeds), gain, row.speed_mark,
                       text_of(row.speed, 2, row.seeds));
  }

  static std::string second_line_of(const Row& row) {
    const std::string of_half =
        row.speed_of_half.mean > 0.0
            ? row.speed_of_half_mark + text_of(row.speed_of_half, 2, row.seeds)
            : "not measured";
    return fmt::format("| {} | {} | {}{} | {:.2f} | {:.2f} / {:.2f} | {} |\n", row.method->name,
                       row.seeds, row.speed_mark, text_of(row.learned, 2, row.seeds), row.kept.mean,
                       row.mean_activations.mean, row.peak.mean, of_half);
  }

  static Json json_of(const Row& row) {
    const auto figure = [](const Figure& one) {
      return Json{{"mean", one.mean}, {"deviation", one.deviation}};
    };
    return {{"name", row.method->name},
            {"learning_rate", row.learning_rate},
            {"seeds", row.seeds},
            {"validation_loss", figure(row.loss)},
            {"time", figure(row.time)},
            {"backward_kept", figure(row.kept)},
            {"mean_activations", figure(row.mean_activations)},
            {"peak_activations", figure(row.peak)},
            {"gain_at_equal_time", figure(figure_of(row.gains))},
            {"learned", figure(row.learned)},
            {"speed", figure(row.speed)},
            {"speed_beyond", row.speed_mark},
            {"speed_against_half_the_batch", figure(row.speed_of_half)},
            {"speed_against_half_the_batch_beyond", row.speed_of_half_mark}};
  }

  // Each with the same colour in all panels.
  static constexpr std::array<std::string_view, 7> drawn{
      "ordinary",           "adaptive",       "uniform",
      "half the batch",     "highest blocks", "highest blocks, 3/4",
      "highest blocks, 1/2"};

  static llama::Series series_of(const Row& row) {
    llama::Series series{.name = row.method->name, .points = {}};
    if (const auto at = std::ranges::find(drawn, series.name); at != drawn.end())
      series.color = static_cast<std::size_t>(at - drawn.begin());
    for (const auto& [time, loss] : row.by_length) {
      series.points.emplace_back(time.mean, loss.mean);
      series.spread.emplace_back(loss.mean - loss.deviation, loss.mean + loss.deviation);
    }
    if (series.points.size() == 1) series.line = llama::Line::none;
    return series;
  }

  static std::string head() {
    return R"(# Does it reach a loss sooner?

This page is written by `benchmarks/convergence`. A small LLaMA, pre-trained on the headers of the
C++ library, or a given model is fine-tuned on C. Each method has its own best learning rate: it is
doubled and halved until the loss of the first seed rises. A method's run has a complete
learning-rate schedule.

Time is modelled, so that a busy machine does not change it. The processor time of the parts of a
step is measured once: what no plan saves, the branches' backward pass, and the optimizer. Each run
counts which part of the branches' backward pass and of the optimizer its plans really kept.

- **time**: that of a run, divided by that of ordinary training with as many steps
- **gain at equal time**: by how much the loss is lower than that of ordinary training in the same
  time, in nats
- **learned**: the time in which ordinary training reaches the same loss, divided by that of its
  whole run: what a step of the method learns, as a share of an ordinary step
- **speed**: the time in which ordinary training reaches the same loss, divided by the method's:
  *learned* / *time*. A method that takes 0.6 of the time needs 0.9 for a speed of 1.5
- **gain of a first step**: by how much a step of the branches along the signs of one batch's
  gradient, as AdamW's first, lowers the loss of other batches, to first order. Less is left where
  branches are dropped, and where a kept branch's gradient misses its way through dropped ones above
- **against half the batch**: the speed against ordinary training with half the tokens a step,
  which also takes half the memory for activations: where a method's peak is no higher, this
  compares at equal memory

Ordinary training and half the batch have runs of several lengths; values between them are
interpolated on a line. `<` and `>` mark speeds where a loss lies beyond these runs, so that the
speed is less or more than the number. +- is the standard deviation over the seeds, which draw the
data, the plans and the adapters. "edge" marks a learning rate whose neighbours were not all tried.
)";
  }
  static std::string foot() {
    std::string foot = "\n## The methods\n\n";
    for (const Method& method : methods())
      foot += wrapped(fmt::format("- **{}**: {}", method.name, method.text), "\n  ");
    return foot;
  }

  std::string text_;
  Json json_ = {{"regimes", Json::array()}};
  std::vector<llama::Plot> plots_;
};

}  // namespace bench
