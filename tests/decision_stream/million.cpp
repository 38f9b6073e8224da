// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// One SHA-256 over the decisions of a million steps of 64 branches, for each sampling policy. Every
// build must have it, whatever the compiler, its flags, the word size and the order of bytes. A
// change of these hashes is a change of what a seed means, and so a major version.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "dropbp/dropbp.hpp"
#include "support/promise.hpp"
#include "support/sha256.hpp"

namespace {

struct Case {
  const char* policy;
  const char* after_10_000_steps;
  const char* after_1_000_000_steps;
};

constexpr Case independent{"BernoulliSampling",
                           "0f8ded99637e8923175e595f5fef27f7bf8c26220a41a11a7a3f725ef489d682",
                           "e10fc0a3071630da220c5b95806f886f993352a7492aa77d7a531350f6fc1230"};
constexpr Case at_least{"AtLeastTargetSampling",
                        "cc32a9781b9acd05442847d1721727ba9803eddbbc4ce4eea3091b78e9804d4d",
                        "c582988765c327a1a6785f66b5cbcfc82cc669809e1b3984e3ecb13944af5ce0"};
constexpr Case counted{"FixedBudgetSampling, branches",
                       "5179aca1aed54182360ee8dd85648fd9a27de8efbb084e97d53758d2b4ad2429",
                       "2f8dedd51fbfd6e9c7dd9f7d0f0578fcf18069d2753fbebed2d11f70ebbb6c09"};
constexpr Case by_cost{"FixedBudgetSampling, cost",
                       "02e4cd74d89b40741a1c205368c14d55cfa9021cd288192126c7fbb238f4a981",
                       "23e062b9280d0c4853fcd59cd44fd8f1201adc6c1fb4fee0449f2f27a14df25b"};
constexpr Case by_bytes{"FixedBudgetSampling, bytes",
                        "d7f3f36b4a8466d027e07449d656a5232182a178e3925afb952cf9b0b1d13b08",
                        "4e5cec5cb556539fc42e5306d0411d4d6457f63aaac8ea6f292625fca3be6f50"};

int differing = 0;

template <class Sampling>
void check(const Case& expected, std::uint64_t steps, Sampling sampling) {
  constexpr std::size_t branches = 64;
  std::vector<double> costs(branches), sensitivities(branches);
  for (std::size_t i = 0; i < branches; ++i) {
    costs[i] = i % 2 == 0 ? 142606336.0 : 270532608.0;
    sensitivities[i] = static_cast<double>((i * 7919) % 101 + 1) / 64.0;
  }
  dropbp::DropSchedule<Sampling> schedule(costs, {.drop_rate = 0.5, .seed = 20260101}, sampling);
  schedule.allocate(sensitivities, dropbp::GreedyAllocation{});
  dropbp::DropPlan plan;
  dropbp_test::Sha256 hash;
  for (std::uint64_t step = 0; step < steps; ++step) {
    schedule.draw(step, 0, plan);
    std::uint64_t mask = 0;
    for (std::size_t i = 0; i < branches; ++i)
      mask |= static_cast<std::uint64_t>(plan.dropped(i)) << i;
    hash.word(mask);
  }
  const std::string found = hash.hexadecimal();
  const std::string wanted =
      steps == 10'000 ? expected.after_10_000_steps : expected.after_1_000_000_steps;
  std::printf("%s: %s\n", expected.policy, found.c_str());
  if (found == wanted) return;
  std::printf("%s must have the hash %s\n", expected.policy, wanted.c_str());
  ++differing;
}

}  // namespace

int main(int argc, char** argv) {
  const bool few = argc > 1 && std::string(argv[1]) == "--few" && !dropbp_test::full_promises();
  const std::uint64_t steps = few ? 10'000 : 1'000'000;
  dropbp_test::Sha256 known;
  known.text("abc");
  if (known.hexadecimal() != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") {
    std::printf("SHA-256 is wrong\n");
    return 1;
  }
  std::vector<double> bytes(64);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<double>(i % 5 + 1);
  using Budget = dropbp::FixedBudgetSampling;
  check(independent, steps, dropbp::BernoulliSampling{});
  check(at_least, steps, dropbp::AtLeastTargetSampling{});
  check(counted, steps, Budget{});
  check(by_cost, steps, Budget{.weigh = dropbp::BranchWeight::cost});
  check(by_bytes, steps, Budget{.weigh = dropbp::BranchWeight::bytes, .bytes = bytes});
  dropbp_test::promise(8, "builds=1 least_steps=%llu differing=%d",
                       static_cast<unsigned long long>(steps), differing);
  return differing == 0 ? 0 : 1;
}
