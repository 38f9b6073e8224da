// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The file of metrics is whole after each step, and anew after a resume.
#include "llama/app/metrics.hpp"

#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "llama/files.hpp"
#include "support/catch.hpp"

namespace {

using namespace llama;

StepRecord record_of(std::uint64_t step, double loss) {
  StepRecord record;
  record.step = step, record.loss = loss, record.step_ms = 500.0;
  record.dropped = {1, 2}, record.activation_bytes = 4096;
  return record;
}

}  // namespace

TEST_CASE("metrics: CSV has a column for each figure, empty where there is none") {
  StepRecord record = record_of(7, 2.5);
  record.validation_loss = 2.25;
  record.gradient_norm = std::numeric_limits<double>::infinity();
  CHECK(metrics_head(MetricsFormat::csv) ==
        "step,seconds,loss,validation_loss,gradient_norm,dropped_branches,kept_flops_fraction,"
        "step_ms,forward_ms,backward_ms,optimizer_ms,activation_bytes\n");
  CHECK(metrics_line(MetricsFormat::csv, record, 3.5) == "7,3.5,2.5,2.25,,2,0,500,0,0,0,4096\n");
  record.validation_loss.reset();
  CHECK(metrics_line(MetricsFormat::csv, record, 3.5) == "7,3.5,2.5,,,2,0,500,0,0,0,4096\n");
}

TEST_CASE("metrics: JSON lines parse, and leave out what is not there") {
  StepRecord record = record_of(7, 1.0 / 3.0);
  record.gradient_norm = std::numeric_limits<double>::quiet_NaN();
  const auto line = nlohmann::json::parse(metrics_line(MetricsFormat::json_lines, record, 3.5));
  CHECK(line["step"] == 7);
  CHECK(line["loss"].get<double>() == 1.0 / 3.0);
  CHECK(line["dropped"] == nlohmann::json({1, 2}));
  CHECK(!line.contains("validation_loss"));
  CHECK(!line.contains("gradient_norm"));
  CHECK(metrics_head(MetricsFormat::json_lines).empty());
  CHECK(metrics_format("a/b.csv") == MetricsFormat::csv);
  CHECK(metrics_format("a/b.jsonl") == MetricsFormat::json_lines);
}

TEST_CASE("metrics: each line is there at once, and a resumed run writes those before it again") {
  const test::TemporaryFolder folder;
  const auto path = folder / "m.csv";
  test::write_bytes(path, "of an older run\n");
  const std::vector<StepRecord> all{record_of(0, 4.0), record_of(1, 3.0), record_of(2, 2.0)};
  Metrics metrics(path, {});
  CHECK(test::read_bytes(path) == metrics_head(MetricsFormat::csv));
  for (const StepRecord& record : all) metrics.add(record);
  const std::string whole = test::read_bytes(path);
  CHECK(whole == metrics_head(MetricsFormat::csv) + metrics_line(MetricsFormat::csv, all[0], 0.5) +
                     metrics_line(MetricsFormat::csv, all[1], 1.0) +
                     metrics_line(MetricsFormat::csv, all[2], 1.5));
  Metrics resumed(path, std::span(all).first(2));
  resumed.add(all[2]);
  CHECK(test::read_bytes(path) == whole);
}
