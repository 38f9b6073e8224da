// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Reports: their figures, their table, and whether they detect a model whose layers are not called
// as they should be.
#include "dropbp/report.hpp"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/handler.hpp"
#include "dropbp/layer.hpp"
#include "support/catch.hpp"
#include "support/recorder.hpp"

using dropbp::DropBPHandler;
using dropbp::DropBPLayer;
using dropbp::DropPlan;
using dropbp::Report;
using dropbp_test::Journal;
using dropbp_test::Recorder;

namespace {

struct Model {
  std::vector<Journal> journals = std::vector<Journal>(3);
  std::vector<DropBPLayer<Recorder<>>> layers;
  Model() {
    double cost = 1.0;
    for (Journal& journal : journals) layers.emplace_back(Recorder<>(journal), cost++);
  }
  void for_each_layer(auto&& visit) {
    for (auto& layer : layers) visit(layer);
  }
  void forward() {
    std::vector<float> x{1};
    for (auto& layer : layers) x = layer.forward(std::move(x));
  }
  void backward() {
    std::vector<float> g{1};
    for (std::size_t i = layers.size(); i-- > 0;) g = layers[i].backward(std::move(g));
  }
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("The figures of a report follow from the plans and calls") {
  Model model;
  DropBPHandler handler{model, {.drop_rate = 0.5}};
  for (const std::vector<std::uint8_t>& mask :
       {std::vector<std::uint8_t>{1, 0, 0}, {1, 1, 0}, {0, 0, 0}, {1, 1, 1}}) {
    handler.begin_step(DropPlan(mask));
    model.forward();
    if (!handler.all_dropped()) model.backward();
  }
  const Report report = handler.report();
  CHECK(report.micro_steps == 4);
  REQUIRE(report.branches.size() == 3);
  CHECK(report.branches[0].kept == 1);
  CHECK(report.branches[0].dropped == 3);
  CHECK(report.branches[1].kept == 2);
  CHECK(report.branches[2].kept == 3);
  CHECK(report.branches[2].calls.forward == 4);
  CHECK(report.branches[2].calls.backward == 3);
  CHECK(report.branches[2].cost == 3.0);
  CHECK(report.branches[2].drop_rate == 0.5);
  CHECK(report.mean_drop_rate() == 0.5);
  CHECK(report.backward_cost_fraction() == Approx((1 * 1 + 2 * 2 + 3 * 3) / 24.0));
  CHECK(report.consistent());
  CHECK(handler.drop_counts()[0] == 3);
}

TEST_CASE("A report before the first step shows no figures") {
  Model model;
  const Report report = DropBPHandler{model}.report();
  CHECK(report.mean_drop_rate() == 0.0);
  CHECK(report.backward_cost_fraction() == 1.0);
  CHECK_FALSE(report.consistent());
  CHECK(contains(to_text(report), "no step has begun"));
  CHECK_FALSE(contains(to_text(report), "do not match"));
  CHECK(Report{}.mean_drop_rate() == 0.0);
  CHECK(contains(to_text(Report{}), "0 micro-steps"));
}

TEST_CASE("A report detects layers that are skipped, forgotten or run without begin_step") {
  Model model;
  DropBPHandler handler{model, {.drop_rate = 0.0}};
  handler.begin_step(0);
  model.forward();
  CHECK_FALSE(handler.report().consistent());  // the backward pass is still missing
  model.backward();
  CHECK(handler.report().consistent());
  CHECK_FALSE(contains(to_text(handler.report()), "do not match"));
  model.forward();  // without begin_step
  model.backward();
  CHECK_FALSE(handler.report().consistent());
  CHECK(contains(to_text(handler.report()), "backward calls do not match the plans"));
}

TEST_CASE("The table has one line per branch, and the totals") {
  Model model;
  DropBPHandler handler{model, {.drop_rate = 0.25}};
  handler.begin_step(DropPlan(std::vector<std::uint8_t>{1, 0, 0}));
  model.forward();
  model.backward();
  CHECK(to_text(handler.report()) ==
        "branch       cost   rate      kept   dropped   forward  backward\n"
        "     0          1  0.250         0         1         1         0\n"
        "     1          2  0.250         1         0         1         1\n"
        "     2          3  0.250         1         0         1         1\n"
        "1 micro-steps, mean drop rate 0.3333, backward cost of the branches 83.3 %\n");
}

TEST_CASE("The widest numbers fit the table") {
  Report report;
  report.micro_steps = ~std::uint64_t{0};
  report.branches.push_back(
      {1.7e308, 1.0, ~std::uint64_t{0}, ~std::uint64_t{0}, {~std::uint64_t{0}, ~std::uint64_t{0}}});
  const std::string text = to_text(report);
  CHECK(contains(
      text,
      "18446744073709551615 18446744073709551615 18446744073709551615 18446744073709551615\n"));
}
