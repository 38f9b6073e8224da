// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The page is well-formed, needs nothing from elsewhere, and shows what was dropped.
#include "llama/app/html_report.hpp"

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "llama/files.hpp"
#include "support/catch.hpp"

namespace {

using namespace llama;

std::size_t count(std::string_view text, std::string_view part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size()))
    ++found;
  return found;
}

std::vector<StepRecord> steps_of(std::size_t steps, double milliseconds) {
  std::vector<StepRecord> records(steps);
  for (std::size_t i = 0; i < steps; ++i) {
    StepRecord& r = records[i];
    r.step = i, r.loss = 4.0 - 0.1 * static_cast<double>(i), r.step_ms = milliseconds;
    r.backward_ms = 0.5 * milliseconds, r.branches_backward_ms = 0.4 * milliseconds;
    r.kept_flops_fraction = 0.5, r.activation_bytes = 2048, r.kept_activation_bytes = 2048;
    if (i % 2 == 1) r.dropped = {1}, r.validation_loss = r.loss + 0.5;
  }
  return records;
}

}  // namespace

TEST_CASE("html: the heat map has a cell for each branch and part of the steps") {
  std::vector<StepRecord> steps = steps_of(4, 1.0);
  const std::string map = drop_heat_map(steps, 2, 2);
  CHECK(count(map, "<rect") == 4);
  // Of the MLP's steps half are dropped in both parts, of the attention's none.
  CHECK(count(map, "MLP 0: 50 %") == 2);
  CHECK(count(map, "attention 0: 0 %") == 2);
  CHECK(count(map, "fill=\"#ffffff\"") == 2);
  for (StepRecord& step : steps) step.dropped = {0, 1};
  CHECK(count(drop_heat_map(steps, 2, 2), "fill=\"#08306b\"") == 4);
  CHECK(count(drop_heat_map(steps, 2, 80), "<rect") == 8);
  CHECK(count(drop_heat_map({}, 2), "<rect") == 0);
}

TEST_CASE("html: one page with all parts, that loads nothing") {
  const auto fast = steps_of(6, 100.0), slow = steps_of(6, 200.0);
  Options options;
  options.data = "a<b>&\"c\"";
  const Summary summary{.tokens_per_second = 1000, .final_loss = 3.5, .validation_loss = {}};
  const std::string page = html_report(options, LlamaConfig{.layers = 1}, {}, {fast, summary},
                                       RunReport{slow, summary}, "<svg>plots</svg>");
  CHECK(page.starts_with("<!DOCTYPE html>"));
  for (const char* const part :
       {"What dropping saved", "Losses and memory", "Drop rates by branch", "Options",
        "<svg>plots</svg>", "whole step</td><td class=\"n\">50.0 %",
        "a&lt;b&gt;&amp;&quot;c&quot;"})
    CHECK(count(page, part) == 1);
  // After 0.6 s the slower run has done 3 steps: between its losses after 2 and 4.
  CHECK(count(page, "After 0.6 s of training the validation loss is 4.0000, and 4.3000") == 1);
  for (const char* const other : {"src=", "href=", "<script", "@import", "url("})
    CHECK(count(page, other) == 0);
  for (const char* const element : {"table", "tr", "td", "p", "h2", "svg", "html", "body"})
    CHECK(count(page, std::string("<") + element + ">") +
              count(page, std::string("<") + element + " ") ==
          count(page, std::string("</") + element + ">"));
}

TEST_CASE("html: written with its plots drawn") {
  const test::TemporaryFolder folder;
  const auto steps = steps_of(6, 100.0);
  Options options;
  write_html(folder / "r.html", options, LlamaConfig{.layers = 1}, {}, {steps, {}}, std::nullopt);
  const std::string page = test::read_bytes(folder / "r.html");
  CHECK(count(page, "<svg") == 2);
  CHECK(count(page, "<?xml") == 0);
  CHECK(count(page, "Activations by step") == 1);
  CHECK(count(page, "--baseline measures") == 1);
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path()))
    ++files;
  CHECK(files == 1);
}
