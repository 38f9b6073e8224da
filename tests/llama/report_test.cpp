// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The report is valid JSON with exactly the documented keys, for any numbers.
#include "llama/app/report.hpp"

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "llama/files.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using nlohmann::json;

std::set<std::string> keys_of(const json& object) {
  std::set<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  return keys;
}

StepRecord record_of(std::uint64_t step, double loss, std::optional<double> validation_loss,
                     std::vector<std::size_t> dropped, double forward_ms, double backward_ms,
                     double optimizer_ms, std::size_t activation_bytes) {
  StepRecord record;
  record.step = step;
  record.loss = loss;
  record.validation_loss = validation_loss;
  record.dropped = std::move(dropped);
  record.forward_ms = forward_ms;
  record.backward_ms = backward_ms;
  record.optimizer_ms = optimizer_ms;
  record.activation_bytes = activation_bytes;
  return record;
}

const std::vector<StepRecord> two_steps{record_of(0, 5.5, 5.25, {1, 3}, 10.5, 20.25, 3, 4096),
                                        record_of(1, 5.125, std::nullopt, {}, 11, 31, 4, 8192)};
const Summary summary{.tokens_per_second = 1234.5,
                      .final_loss = 5.125,
                      .validation_loss = 5.25,
                      .mean_drop_rate = 0.25,
                      .backward_flops_fraction = 0.75,
                      .peak_activation_bytes = 8192};

}  // namespace

TEST_CASE("report: a run whose drop rate was tried has both trials") {
  Trials trials;
  trials.ordinary = {.steps = 10, .validation_loss = 2.5};
  trials.depth = {.allocation = AllocationChoice::depth,
                  .drop_rate = 0.75,
                  .steps = 17,
                  .validation_loss = std::numeric_limits<double>::infinity()};
  const json report =
      json::parse(report_json(Options{}, LlamaConfig{}, {}, {two_steps, summary, trials}));
  REQUIRE(report["trials"].size() == 2);
  CHECK(
      report["trials"][0] ==
      json{{"drop_rate", 0.0}, {"allocation", "optimal"}, {"steps", 10}, {"validation_loss", 2.5}});
  CHECK(report["trials"][1] == json{{"drop_rate", 0.75},
                                    {"allocation", "depth"},
                                    {"steps", 17},
                                    {"validation_loss", nullptr}});
}

TEST_CASE("report: a run on a device says what computed attention, and one on the CPU nothing") {
  Options options;
  options.device = DeviceChoice::cuda;
  options.nondeterministic_attention = true;
  const std::vector<std::string> notes{"attention, forward pass: \"a\"", "b"};
  const json report =
      json::parse(report_json(options, LlamaConfig{}, {}, {two_steps, summary, {}, notes}));
  CHECK(keys_of(report) == std::set<std::string>{"attention", "config", "steps", "summary"});
  CHECK(report["attention"] == json(notes));
  CHECK(report["config"]["nondeterministic_attention"] == true);
  CHECK_FALSE(json::parse(report_config(Options{}, LlamaConfig{}, {}))
                  .contains("nondeterministic_attention"));
}

TEST_CASE("report: exactly the promised keys and the given values") {
  const json report = json::parse(report_json(Options{}, LlamaConfig{}, {}, {two_steps, summary}));
  CHECK(keys_of(report) == std::set<std::string>{"config", "steps", "summary"});
  CHECK(keys_of(report["summary"]) == std::set<std::string>{"tokens_per_second", "final_loss",
                                                            "validation_loss", "mean_drop_rate",
                                                            "backward_flops_fraction",
                                                            "peak_activation_bytes"});
  REQUIRE(report["steps"].size() == 2);
  const std::set<std::string> always{"step",        "loss",         "dropped",         "forward_ms",
                                     "backward_ms", "optimizer_ms", "activation_bytes"};
  auto measured = always;
  measured.insert("validation_loss");
  CHECK(keys_of(report["steps"][0]) == measured);
  CHECK(keys_of(report["steps"][1]) == always);
  CHECK(report["steps"][0] ==
        json::parse(
            R"({"step":0,"loss":5.5,"validation_loss":5.25,"dropped":[1,3],"forward_ms":10.5,)"
            R"("backward_ms":20.25,"optimizer_ms":3.0,"activation_bytes":4096})"));
  CHECK(report["steps"][1]["dropped"] == json::array());
  CHECK(
      report["summary"] ==
      json::parse(
          R"({"tokens_per_second":1234.5,"final_loss":5.125,"validation_loss":5.25,)"
          R"("mean_drop_rate":0.25,"backward_flops_fraction":0.75,"peak_activation_bytes":8192})"));
  CHECK(report["config"]["model"]["hidden"] == 256);
  CHECK(report["config"]["sampling"] == "bernoulli");
  CHECK(report["config"]["allocation"] == "optimal");
  CHECK(report["config"]["seed"] == 1);
  CHECK(report["config"]["data"].is_null());
}

TEST_CASE("report: adapters are reported as used") {
  Options options;
  CHECK_FALSE(
      json::parse(report_json(options, LlamaConfig{}, {}, {}))["config"].contains("lora_rank"));
  options.mode = ModeChoice::lora;
  options.adapter = "a";
  const ops::LoraConfig lora{.rank = 3, .alpha = 7.5, .dropout = 0.25, .targets = {"q_proj"}};
  const json config = json::parse(report_json(options, LlamaConfig{}, lora, {}))["config"];
  CHECK(config["adapter"] == "a");
  CHECK(config["lora_rank"] == 3);
  CHECK(config["lora_alpha"] == 7.5);
  CHECK(config["lora_dropout"] == 0.25);
  CHECK(config["lora_targets"] == json::array({"q_proj"}));
}

TEST_CASE("report: a baseline is reported beside the run") {
  const Summary other{.tokens_per_second = 99, .final_loss = 1, .validation_loss = {}};
  const json report = json::parse(report_json(Options{}, LlamaConfig{}, {}, {two_steps, summary},
                                              RunReport{std::span(two_steps).first(1), other}));
  CHECK(keys_of(report) ==
        std::set<std::string>{"config", "steps", "summary", "baseline", "comparison"});
  CHECK(keys_of(report["comparison"]) ==
        std::set<std::string>{"backward_ratio", "backward_limit", "step_ratio", "step_limit",
                              "activation_ratio", "activation_limit", "first_loss_difference",
                              "equal_time"});
  CHECK(keys_of(report["baseline"]) == std::set<std::string>{"steps", "summary"});
  CHECK(report["steps"].size() == 2);
  CHECK(report["baseline"]["steps"].size() == 1);
  CHECK(report["baseline"]["summary"]["tokens_per_second"] == 99.0);
  CHECK(report["summary"]["tokens_per_second"] == 1234.5);
}

TEST_CASE("report: NaN, infinity, odd paths and no steps are still JSON") {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  Options options;
  options.data = "a\"b\\c\n\xff";
  std::vector<StepRecord> steps = two_steps;
  steps[0].loss = nan;
  steps[0].validation_loss = infinity;
  steps[1].forward_ms = -infinity;
  const json report = json::parse(report_json(
      options, LlamaConfig{}, {},
      {steps, {.tokens_per_second = infinity, .final_loss = nan, .validation_loss = {}}}));
  CHECK(report["steps"][0]["loss"].is_null());
  CHECK(report["steps"][0]["validation_loss"].is_null());
  CHECK(report["steps"][1]["forward_ms"].is_null());
  CHECK(report["summary"]["tokens_per_second"].is_null());
  CHECK(report["summary"]["final_loss"].is_null());
  CHECK(report["summary"]["validation_loss"].is_null());
  CHECK(report["config"]["data"].get<std::string>().starts_with("a\"b\\c\n"));

  const json empty = json::parse(report_json(Options{}, LlamaConfig{}, {}, {}));
  CHECK(empty["steps"] == json::array());
}

TEST_CASE("report: a step is a line, and the file is written whole or not at all") {
  const test::TemporaryFolder folder;
  write_report(folder / "r.json", Options{}, LlamaConfig{}, {}, {two_steps, summary});
  const std::string text = test::read_bytes(folder / "r.json");
  CHECK(text == report_json(Options{}, LlamaConfig{}, {}, {two_steps, summary}));
  CHECK(text.find("\n  {\"step\":1,\"loss\":5.125,") != std::string::npos);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
  test::check_throws<std::runtime_error>(
      [&] { write_report(folder / "none/r.json", Options{}, LlamaConfig{}, {}, {}); },
      {"none/r.json", "No such file"});
}

TEST_CASE("report: the comparison with a baseline, worked out by hand") {
  // Half of the branches' FLOPs are kept in both steps, and three quarters of the parameters
  // updated.
  std::vector<StepRecord> run{record_of(0, 5.5, {}, {0}, 10, 25, 3, 1100),
                              record_of(1, 5.0, {}, {1}, 10, 25, 3, 1100)};
  std::vector<StepRecord> base{record_of(0, 5.25, {}, {}, 10, 40, 4, 2000),
                               record_of(1, 5.0, {}, {}, 10, 40, 4, 2000)};
  for (std::size_t i = 0; i < 2; ++i) {
    run[i].step_ms = 38, base[i].step_ms = 54;
    base[i].branches_backward_ms = 36;
    run[i].kept_flops_fraction = 0.5, base[i].kept_flops_fraction = 1;
    run[i].updated_parameter_fraction = 0.75, base[i].updated_parameter_fraction = 1;
    run[i].kept_activation_bytes = 1000, base[i].kept_activation_bytes = 2000;
  }
  const Comparison c = compare(run, base);
  CHECK(c.backward_ratio == Approx(25.0 / 40.0));
  CHECK(c.backward_limit == Approx((4.0 + 0.5 * 36.0) / 40.0));
  CHECK(c.step_ratio == Approx(38.0 / 54.0));
  CHECK(c.step_limit == Approx((54.0 - 18.0 - 1.0) / 54.0));
  for (std::size_t i = 0; i < 2; ++i)
    run[i].kept_flops_fraction = 0.4, base[i].kept_flops_fraction = 0.8;
  CHECK(compare(run, base).backward_limit == Approx(c.backward_limit));
  for (std::size_t i = 0; i < 2; ++i) run[i].kept_flops_fraction = base[i].kept_flops_fraction = 0;
  CHECK(compare(run, base).backward_limit == 1.0);
  CHECK(c.activation_ratio == Approx(0.55));
  CHECK(c.activation_limit == Approx(0.5));
  CHECK(c.loss_difference == 0.25);
  CHECK(compare(std::span(run).first(0), base).step_ratio == 1.0);
}

TEST_CASE("report: losses are drawn over the steps and over the time, one colour a run") {
  std::vector<StepRecord> run;
  for (std::uint64_t i = 0; i < 12; ++i) {
    run.push_back(record_of(i, static_cast<double>(i), {}, {}, 0, 0, 0, 0));
    run.back().step_ms = 500;
  }
  run[3].validation_loss = 7.0;
  const auto panels = loss_plots(0.5, run, std::span(run).first(4));
  REQUIRE(panels.size() == 2);
  using Points = std::vector<std::pair<double, double>>;
  for (const Plot& panel : panels) {
    REQUIRE(panel.series.size() == 4);
    CHECK(panel.series[0].color == panel.series[1].color);
    CHECK(panel.series[2].color == panel.series[3].color);
    CHECK(panel.series[0].color != panel.series[2].color);
    CHECK(panel.series[2].line == Line::solid);
    CHECK(panel.series[3].line == Line::dashed);
    CHECK(panel.series[0].name == "drop rate 0");
    CHECK(panel.series[3].name == "drop rate 0.5, validation");
  }
  CHECK(panels[0].series[0].points == Points{{4, 1.5}});  // fewer than 10 steps: their mean
  CHECK(panels[0].series[2].points == Points{{10, 4.5}, {12, 10.5}});
  CHECK(panels[1].series[2].points == Points{{5, 4.5}, {6, 10.5}});
  CHECK(panels[0].series[3].points == Points{{4, 7}});
  CHECK(panels[1].series[3].points == Points{{2, 7}});
  CHECK(loss_plots(0.5, run, {})[0].series.size() == 2);
}
