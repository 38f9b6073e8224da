// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A simulation, not a measurement: the time of a data-parallel training step on 8 to 1,024 GPUs,
// with and without dropping, and with and without communication of the dropped branches.
//
// A replica of the model computes its forward pass, then the backward pass from the head down to
// the embedding. Each branch's gradient is one ring all-reduce over the replicas. It begins when
// the gradient is complete and the one before has ended, while the backward pass goes on. The
// optimizer follows. A ring of n ranks takes 2 (n - 1) alpha + 2 (n - 1) / n bytes / beta.
// Plans are drawn by DropSchedule.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <dropbp/dropbp.hpp>

#include "benchmark.hpp"

namespace {

/// A decoder like LLaMA2, all of whose weights are trained in bfloat16.
struct Model {
  std::string name;
  std::size_t blocks, hidden, intermediate, heads, kv_heads, vocabulary;
  std::size_t gpus;  ///< of one replica, which share its weights and its work evenly
};

const std::array<Model, 2> models{
    Model{"LLaMA2-7B", 32, 4096, 11008, 32, 32, 32000, 1},
    Model{"LLaMA2-70B", 80, 8192, 28672, 64, 8, 32000, 8},
};

/// The machines. The defaults are those of a node of 8 H200 with one 400 Gb/s adapter each.
struct Machines {
  double tflops = 400.0;          ///< reached by a GPU in matrix products, 1e12 FLOP/s
  double memory = 3.0e12;         ///< bytes/s, for the optimizer
  double node_bandwidth = 300e9;  ///< bytes/s of a GPU in a ring within a node
  double bandwidth = 50e9;        ///< bytes/s of a GPU in a ring over nodes
  double latency = 5e-6;          ///< seconds of each hop of a ring
  std::size_t node = 8;           ///< GPUs
};

/// What one replica computes and sends in a step, from the lowest branch to the highest.
struct Work {
  std::vector<double> forward;     ///< seconds of each branch
  std::vector<double> parameters;  ///< on one GPU, of each branch
  double head_forward = 0.0;       ///< seconds
  double head = 0.0;               ///< parameters on one GPU; the embedding has as many
};

Work work_of(const Model& model, const Machines& machines, std::size_t tokens) {
  // Sequences of 4096 tokens, or one shorter one.
  const std::size_t sequence = std::min<std::size_t>(tokens, 4096), batch = tokens / sequence;
  const auto gpus = static_cast<double>(model.gpus), h = static_cast<double>(model.hidden);
  const auto seconds = [&](double flops) { return flops / gpus / (machines.tflops * 1e12); };
  const double shared = static_cast<double>(model.kv_heads) / static_cast<double>(model.heads);
  Work work;
  for (std::size_t block = 0; block < model.blocks; ++block) {
    work.forward.push_back(seconds(dropbp::attention_flops({.batch = batch,
                                                            .sequence = sequence,
                                                            .hidden = model.hidden,
                                                            .heads = model.heads,
                                                            .kv_heads = model.kv_heads,
                                                            .causal = true})));
    work.parameters.push_back(2.0 * h * h * (1.0 + shared) / gpus);
    work.forward.push_back(seconds(dropbp::swiglu_flops({.batch = batch,
                                                         .sequence = sequence,
                                                         .hidden = model.hidden,
                                                         .intermediate = model.intermediate})));
    work.parameters.push_back(3.0 * h * static_cast<double>(model.intermediate) / gpus);
  }
  work.head = h * static_cast<double>(model.vocabulary) / gpus;
  work.head_forward = seconds(2.0 * static_cast<double>(batch * sequence) * work.head * gpus);
  return work;
}

struct Step {
  double seconds = 0.0;
  double waits = 0.0;  ///< between the end of the backward pass and that of the communication
  double sent = 0.0;   ///< parameters
};

/// The all-reduces of a step, one after the other.
class Ring {
 public:
  Ring(std::size_t ranks, double latency, double bandwidth)
      : hops_(static_cast<double>(2 * (ranks - 1))),
        alpha_(latency),
        seconds_per_byte_(hops_ / static_cast<double>(ranks) / bandwidth) {}

  double seconds_of(double parameters) const {
    return hops_ * alpha_ + 2.0 * parameters * seconds_per_byte_;
  }
  void reduce(double parameters, double ready) {
    free_ = std::max(free_, ready) + seconds_of(parameters);
    sent_ += parameters;
  }
  double free() const { return free_; }
  double sent() const { return sent_; }

 private:
  double hops_, alpha_, seconds_per_byte_;
  double free_ = 0.0, sent_ = 0.0;
};

Step step_of(const Work& work, const dropbp::DropPlan& plan, Ring ring, bool sends_dropped,
             double memory) {
  double now = work.head_forward;
  for (const double seconds : work.forward) now += seconds;
  now += 2.0 * work.head_forward;
  ring.reduce(work.head, now);
  double updated = 2.0 * work.head;
  for (std::size_t i = plan.size(); i-- > 0;) {
    if (plan.kept(i)) {
      now += 2.0 * work.forward[i];
      updated += work.parameters[i];
    }
    if (plan.kept(i) || sends_dropped) ring.reduce(work.parameters[i], now);
  }
  ring.reduce(work.head, now);
  const double end = std::max(now, ring.free());
  constexpr double bytes = 28.0;  // AdamW: gradient, two moments, weights in float and bfloat16
  return {end + bytes * updated / memory, end - now, ring.sent()};
}

/// A number of GPUs that train a model, with a number of tokens for each replica.
struct Case {
  const Model& model;
  std::size_t gpus, tokens;
};

Ring ring_of(const Case& one, const Machines& machines) {
  return {one.gpus / one.model.gpus, machines.latency,
          one.gpus <= machines.node ? machines.node_bandwidth : machines.bandwidth};
}

/// The mean over `plans` plans.
Step mean_step(const Case& one, const Machines& machines, double drop_rate, bool sends_dropped,
               std::uint64_t plans) {
  const Work work = work_of(one.model, machines, one.tokens);
  const dropbp::DropSchedule<> schedule(work.forward, {.drop_rate = drop_rate, .seed = 1});
  const Ring ring = ring_of(one, machines);
  Step sum;
  for (std::uint64_t number = 0; number < plans; ++number) {
    const Step step = step_of(work, schedule.plan(number), ring, sends_dropped, machines.memory);
    sum.seconds += step.seconds / static_cast<double>(plans);
    sum.waits += step.waits / static_cast<double>(plans);
    sum.sent += step.sent / static_cast<double>(plans);
  }
  return sum;
}

constexpr std::array rates{0.5, 0.75, 0.875};

/// One row: the ordinary step, and for each rate the time with dropping over the ordinary one.
struct Row {
  Step ordinary;
  std::array<double, rates.size()> all_sent, kept_sent;

  std::string text() const {
    std::string cells = fmt::format("{:.0f} | {:.0f} %", 1e3 * ordinary.seconds,
                                    100.0 * ordinary.waits / ordinary.seconds);
    for (std::size_t i = 0; i < rates.size(); ++i)
      cells += fmt::format(" | {:.3f} / {:.3f}", all_sent[i], kept_sent[i]);
    return cells + " |\n";
  }
  bench::Json json() const {
    return {{"step_ms", 1e3 * ordinary.seconds},
            {"waits_ms", 1e3 * ordinary.waits},
            {"drop_rates", rates},
            {"ratio_all_sent", all_sent},
            {"ratio_kept_sent", kept_sent}};
  }
};

Row row_of(const Case& one, const Machines& machines, std::uint64_t plans) {
  Row row{mean_step(one, machines, 0.0, true, 1), {}, {}};
  for (std::size_t i = 0; i < rates.size(); ++i) {
    const auto ratio = [&](bool sends_dropped) {
      return mean_step(one, machines, rates[i], sends_dropped, plans).seconds /
             row.ordinary.seconds;
    };
    row.all_sent[i] = ratio(true);
    row.kept_sent[i] = ratio(false);
  }
  return row;
}

std::string head_of(const std::string& first) {
  return "\n| " + first +
         " | ms | waits | p = 0.5 | p = 0.75 | p = 0.875 |\n| --- | --- | --- | --- | --- | --- "
         "|\n";
}

/// The tokens of a replica (whole sequences of 4096) at which an ordinary step's communication
/// takes as long as the backward pass of the branches, beside which it runs.
double crossover(Case one, const Machines& machines) {
  one.tokens = 4096;
  const Ring ring = ring_of(one, machines);
  const Work work = work_of(one.model, machines, one.tokens);
  double sends = 0.0, computes = 0.0;
  for (std::size_t i = 0; i < work.forward.size(); ++i) {
    sends += ring.seconds_of(work.parameters[i]);
    computes += 2.0 * work.forward[i];
  }
  return static_cast<double>(one.tokens) * sends / computes;
}

int run(int argc, char** argv) {
  CLI::App app(
      "Simulates the step time of data-parallel training on 8 to 1,024 GPUs with and without "
      "dropped branches, by a ring all-reduce that overlaps the backward pass. Prints tables in "
      "Markdown.");
  bench::Options common(app, "20 plans", false);
  Machines machines;
  std::size_t tokens = 4096;
  std::uint64_t plans = 400;
  const auto positive = CLI::PositiveNumber;
  const auto add = [&](const char* name, auto& value, const char* text) {
    app.add_option(name, value, text)->check(positive)->capture_default_str();
  };
  add("--tflops", machines.tflops, "1e12 FLOP/s that a GPU reaches");
  add("--bandwidth", machines.bandwidth, "bytes/s of a GPU in a ring over nodes");
  add("--node-bandwidth", machines.node_bandwidth, "bytes/s of a GPU in a ring within a node");
  add("--latency", machines.latency, "seconds of a hop");
  add("--tokens", tokens, "tokens of a replica and step in the tables by GPUs");
  add("--plans", plans, "plans whose mean is reported");
  CLI11_PARSE(app, argc, argv);
  if (common.quick) plans = 20;
  common.begin();

  bench::Json json;
  std::vector<llama::Plot> panels;
  for (const Model& model : models) {
    fmt::print("\n### {}, {} tokens a replica of {} GPU{}\n{}", model.name, tokens, model.gpus,
               model.gpus == 1 ? "" : "s", head_of("GPUs"));
    for (std::size_t gpus = 8; gpus <= 1024; gpus *= 2) {
      const Row row = row_of({model, gpus, tokens}, machines, plans);
      fmt::print("| {} | {}", gpus, row.text());
      bench::Json one{{"model", model.name}, {"gpus", gpus}, {"tokens", tokens}};
      one.update(row.json());
      json["by_gpus"].push_back(std::move(one));
    }
    constexpr std::size_t gpus = 64;
    fmt::print("\n### {}, {} GPUs, by tokens a replica\n{}", model.name, gpus, head_of("tokens"));
    llama::Plot plot{.title = model.name + ", 64 GPUs, p = 0.5 (simulated)",
                     .x_label = "log2(tokens of a replica)",
                     .y_label = "step time / that of an ordinary step",
                     .series = {{"all branches sent", {}}, {"dropped ones not sent", {}}}};
    for (std::size_t count = 512; count <= 131072; count *= 2) {
      const Row row = row_of({model, gpus, count}, machines, plans);
      fmt::print("| {} | {}", count, row.text());
      plot.series[0].points.emplace_back(std::log2(count), row.all_sent[0]);
      plot.series[1].points.emplace_back(std::log2(count), row.kept_sent[0]);
      bench::Json one{{"model", model.name}, {"gpus", gpus}, {"tokens", count}};
      one.update(row.json());
      json["by_tokens"].push_back(std::move(one));
    }
    const double even = crossover({model, gpus, tokens}, machines);
    fmt::print("\nCommunication and backward pass take equally long at {:.0f} tokens.\n", even);
    json["crossover_tokens"][model.name] = even;
    panels.push_back(std::move(plot));
  }
  common.write(json);
  common.write(panels);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return bench::main_of("communication_simulation", argc, argv, run);
}
