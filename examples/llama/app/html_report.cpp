// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/html_report.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "llama/app/plot.hpp"
#include "llama/formats/atomic_file.hpp"

namespace llama {
namespace {

constexpr std::string_view style =
    "body{font:15px/1.5 sans-serif;margin:2em auto;max-width:1250px;padding:0 1em;color:#222}"
    "h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}svg{max-width:100%;height:auto}"
    "table{border-collapse:collapse}td,th{padding:.15em .8em .15em 0;text-align:left}"
    "td.n,th.n{text-align:right}tr{border-bottom:1px solid #ddd}pre{overflow-x:auto}"
    "p.note{color:#555}";

std::string percent(double share) { return fmt::format("{:.1f} %", 100.0 * share); }

std::string row(std::string_view kind, const std::vector<std::string>& cells) {
  std::string text = "<tr>";
  for (std::size_t i = 0; i < cells.size(); ++i)
    text += fmt::format("<{0}{1}>{2}</{0}>", kind, i == 0 ? "" : " class=\"n\"", cells[i]);
  return text + "</tr>\n";
}

std::string run_row(double drop_rate, const RunReport& run) {
  const Summary& s = run.summary;
  double seconds = 0.0;
  for (const StepRecord& step : run.steps) seconds += 1e-3 * step.step_ms;
  return row("td", {fmt::format("drop rate {:g}", drop_rate), fmt::format("{:.4f}", s.final_loss),
                    s.validation_loss ? fmt::format("{:.4f}", *s.validation_loss) : "-",
                    fmt::format("{:.1f}", seconds), fmt::format("{:.0f}", s.tokens_per_second),
                    fmt::format("{:.1f}", static_cast<double>(s.peak_activation_bytes) / 0x1p20),
                    percent(s.mean_drop_rate)});
}

std::string runs_table(const Options& options, const RunReport& run,
                       const std::optional<RunReport>& baseline) {
  std::string text = "<table>\n" + row("th", {"run", "loss", "validation", "training s", "tokens/s",
                                              "activations MiB, peak", "branches dropped"});
  if (baseline) text += run_row(0.0, *baseline);
  return text + run_row(options.drop_rate, run) + "</table>\n";
}

std::string savings(const RunReport& run, const std::optional<RunReport>& baseline) {
  if (!baseline)
    return fmt::format(
        "<p>Dropped: {} of the branches' backward passes and {} of their FLOPs. The option "
        "--baseline measures the time and the memory that this saves.</p>\n",
        percent(run.summary.mean_drop_rate), percent(1.0 - run.summary.backward_flops_fraction));
  const Comparison c = compare(run.steps, baseline->steps);
  const auto line = [](const char* name, double ratio, double limit) {
    return row("td", {name, percent(1.0 - ratio), percent(1.0 - limit)});
  };
  std::string text = "<table>\n" + row("th", {"saved", "measured", "limit"}) +
                     line("backward time", c.backward_ratio, c.backward_limit) +
                     line("whole step", c.step_ratio, c.step_limit) +
                     line("activations, mean", c.activation_ratio, c.activation_limit) +
                     "</table>\n<p class=\"note\">The limit follows from the plans that were drawn "
                     "and the times of the run at rate 0.</p>\n";
  if (c.equal_time)
    text += fmt::format(
        "<p>After {:.1f} s of training the validation loss is {:.4f}, and {:.4f} at drop rate "
        "0.</p>\n",
        c.equal_time->seconds, c.equal_time->loss, c.equal_time->baseline_loss);
  return text;
}

}  // namespace

std::string html_text(std::string_view text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  return out;
}

std::string drop_heat_map(std::span<const StepRecord> steps, std::size_t branches,
                          std::size_t most_cells) {
  constexpr int cell_height = 9, cell_width = 12, label = 120, foot = 22;
  const std::size_t cells = std::min(most_cells, steps.size());
  const auto cell_of = [&](std::size_t i) { return i * cells / steps.size(); };
  std::vector<std::size_t> dropped(branches * std::max<std::size_t>(cells, 1)), all(cells);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    ++all[cell_of(i)];
    for (const std::size_t branch : steps[i].dropped) ++dropped.at(branch * cells + cell_of(i));
  }
  const int width = label + cell_width * static_cast<int>(cells),
            height = cell_height * static_cast<int>(branches) + foot;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" font-family=\"sans-serif\" font-size=\"8\">\n",
      width, height);
  for (std::size_t branch = 0; branch < branches; ++branch) {
    // The last block is on top, as gradients flow downwards.
    const int y = cell_height * static_cast<int>(branches - 1 - branch);
    const std::string name =
        fmt::format("{} {}", branch % 2 == 0 ? "attention" : "MLP", branch / 2);
    svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", label - 6,
                       y + cell_height - 2, name);
    for (std::size_t cell = 0; cell < cells; ++cell) {
      const double share = static_cast<double>(dropped[branch * cells + cell]) /
                           static_cast<double>(std::max<std::size_t>(all[cell], 1));
      // From white to a dark blue that prints well.
      const auto shade = [share](int dark) { return 255 - static_cast<int>(share * (255 - dark)); };
      svg += fmt::format(
          "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"#{:02x}{:02x}{:02x}\">"
          "<title>{}: {:.0f} %</title></rect>\n",
          label + cell_width * static_cast<int>(cell), y, cell_width, cell_height, shade(8),
          shade(48), shade(107), name, 100.0 * share);
    }
  }
  return svg + fmt::format(
                   "<text x=\"{0}\" y=\"{1}\">step 1</text><text x=\"{2}\" y=\"{1}\" "
                   "text-anchor=\"end\">step {3}</text>\n</svg>\n",
                   label, height - 8, width, steps.size());
}

std::string html_report(const Options& options, const LlamaConfig& model,
                        const ops::LoraConfig& lora, const RunReport& run,
                        const std::optional<RunReport>& baseline, std::string_view plots) {
  const auto config = nlohmann::ordered_json::parse(report_config(options, model, lora));
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<title>llama-finetune: {0} steps at drop rate {1:g}</title><style>{2}</style></head>\n"
      "<body><h1>{0} steps at drop rate {1:g}</h1>\n<h2>Runs</h2>\n",
      run.steps.size(), options.drop_rate, style);
  page += runs_table(options, run, baseline);
  page += "<h2>What dropping saved</h2>\n" + savings(run, baseline);
  page += "<h2>Losses and memory</h2>\n";
  page += plots;
  page +=
      "<h2>Drop rates by branch</h2>\n<p class=\"note\">Each cell is as dark as the share of its "
      "steps that dropped the branch's backward pass.</p>\n";
  page += drop_heat_map(run.steps, 2 * static_cast<std::size_t>(model.layers));
  page += "<h2>Options</h2>\n<table>\n";
  for (const auto& [key, value] : config.items())
    page += row("td", {html_text(key),
                       html_text(value.is_string() ? value.get<std::string>() : value.dump())});
  return page + "</table>\n</body></html>\n";
}

void write_html(const std::filesystem::path& path, const Options& options, const LlamaConfig& model,
                const ops::LoraConfig& lora, const RunReport& run,
                const std::optional<RunReport>& baseline) {
  const auto records = baseline ? baseline->steps : std::span<const StepRecord>();
  std::vector<Plot> panels = loss_plots(options.drop_rate, run.steps, records);
  panels.push_back(memory_plot(options.drop_rate, run.steps, records));
  write_file_atomically(path,
                        html_report(options, model, lora, run, baseline, draw_svg(path, panels)));
}

}  // namespace llama
