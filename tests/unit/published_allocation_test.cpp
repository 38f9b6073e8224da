// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Compares greedy allocations with those of the published implementation.
#include <cstddef>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "dropbp/policy/allocation.hpp"
#include "support/catch.hpp"

using dropbp::GreedyAllocation;

TEST_CASE("All 110 allocations of the published implementation are reproduced exactly") {
  std::ifstream file(DROPBP_TEST_DATA "/allocation.json");
  REQUIRE(file);
  const nlohmann::json runs = nlohmann::json::parse(file);
  REQUIRE(runs.size() == 110);
  for (const nlohmann::json& run : runs) {
    const auto sensitivities = run.at("sensitivities").get<std::vector<double>>();
    const auto flops = run.at("flops").get<std::vector<double>>();
    const auto expected = run.at("drop_rates").get<std::vector<double>>();
    const std::vector<double> rates = GreedyAllocation{run.at("min_rate").get<double>()}.allocate(
        {sensitivities, flops, run.at("target_rate").get<double>(),
         run.at("target_flops").get<double>()});
    REQUIRE(rates.size() == expected.size());
    std::size_t different = 0;
    for (std::size_t i = 0; i < rates.size(); ++i)
      different += static_cast<float>(rates[i]) != static_cast<float>(expected[i]);
    CAPTURE(run.at("flops_profile"), run.at("sensitivity_profile"), run.at("target_rate"),
            run.at("min_rate"));
    CHECK(different == 0);
  }
}
