// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Training steps at LLaMA2's shapes on a GPU: the time that dropping saves and the most it can
// save, the longest sequence that fits, and the cost of measuring sensitivities. The weights are
// random, because neither time nor memory depends on trained values.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dropbp/backend/cuda/scalar.hpp>

#include "cuda/card.hpp"
#include "training_step.hpp"

namespace {

using bench::Json, bench::Training;
using dropbp::BFloat16, dropbp::Cpu, dropbp::Cuda;
using llama::Index;
namespace ops = dropbp::ops;

struct Settings : Training {
  int rounds = 5;
  std::vector<double> drop_rates = {0.0, 0.5, 0.75, 0.875};
};

llama::LlamaConfig shape_of(std::string_view name) {
  if (name == "llama2-7b")
    return {.vocabulary = 32000,
            .hidden = 4096,
            .intermediate = 11008,
            .layers = 32,
            .heads = 32,
            .kv_heads = 32};
  if (name == "llama2-70b")
    return {.vocabulary = 32000,
            .hidden = 8192,
            .intermediate = 28672,
            .layers = 80,
            .heads = 64,
            .kv_heads = 8};
  return {.vocabulary = 512,
          .hidden = 64,
          .intermediate = 96,
          .layers = 8,
          .heads = 4,
          .kv_heads = 2};  // "tiny"
}

// Normal random numbers, as many as fit a cache, repeated: drawing seven billion would take
// minutes, and zeros would multiply faster than trained values do. A quantised weight is quantised
// once per shape.
template <class Quantized, class T, class Backend>
void fill(llama::LlamaModel<T, Backend>& model) {
  constexpr Index period = (1 << 20) + 7;  // not a multiple of a row
  std::vector<float> pattern(static_cast<std::size_t>(period)),
      ones(static_cast<std::size_t>(model.config().hidden), 1.0f);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  for (float& value : pattern) value = normal(random);
  ops::Matrix<T, Backend> repeated(1, period);
  ops::upload(repeated.view(), {pattern.data(), 1, period});
  std::map<std::pair<Index, Index>, Quantized> quantized;
  model.for_each_weight([&](const auto& weight) {
    if (weight.value == nullptr) {
      auto& codes = quantized[{weight.rows, weight.columns}];
      if (codes.rows() == 0) {
        ops::Matrix<float> values(weight.rows, weight.columns);
        for (Index i = 0; i < static_cast<Index>(values.size()); i += period)
          std::copy_n(pattern.data(), std::min(period, static_cast<Index>(values.size()) - i),
                      values.data() + i);
        codes = Quantized::quantize(std::as_const(values).view());
      }
      weight.projection->set_weight(weight.part, codes.clone());
    } else if (weight.name.ends_with("norm.weight")) {
      weight.set({ones.data(), 1, weight.columns});
    } else {
      const Index size = weight.rows * weight.columns;
      for (Index i = 0; i < size; i += period) {
        const Index count = std::min(period, size - i);
        ops::copy(ops::MatrixView<T, Backend>(weight.value + i, 1, count),
                  repeated.view().columns_from(0, count));
      }
    }
  });
}

template <class T, class Backend>
void fill(llama::LlamaModel<T, Backend>& model) {
  if (model.lora().format == ops::QuantizedFormat::fp8)
    fill<ops::BasicFp8Matrix<Backend>>(model);
  else
    fill<ops::BasicNf4Matrix<Backend>>(model);
}

// Memory of one branch of each kind and of the model's ends when all weights train: values and
// gradients in T, the optimizer's floats, and what a sequence saves.
template <class T>
Index layers_that_fit(const Training& training, std::size_t bytes) {
  const auto& s = training.shape;
  const double hidden = static_cast<double>(s.hidden),
               kv = hidden * static_cast<double>(s.kv_heads) / static_cast<double>(s.heads);
  const double block =
      hidden * (2.0 * hidden + 2.0 * kv + 3.0 * static_cast<double>(s.intermediate) + 2.0);
  const double of_value = 2.0 * sizeof(T) + (sizeof(T) == 4 ? 8.0 : 12.0);
  const double saved =
      static_cast<double>(training.tokens() * (6 * s.hidden + 2 * s.intermediate)) * sizeof(T);
  const double workspace =
      4.0 * static_cast<double>(training.tokens() * 2 * s.intermediate) * sizeof(T) + 0x1p30;
  const double ends = 2.0 * static_cast<double>(s.vocabulary) * hidden * of_value;
  return std::min(s.layers,
                  static_cast<Index>((0.97 * static_cast<double>(bytes) - ends - workspace) /
                                     (block * of_value + saved)));
}

// Reserves at once the memory that the kept branches of a plan save.
template <class T, class Backend>
void reserve(llama::LlamaModel<T, Backend>& model, const dropbp::DropPlan& plan, Index tokens) {
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < plan.size(); ++i)
    if (plan.kept(i)) bytes += model.saved_bytes(i, tokens);
  model.saved_memory().reserve(bytes, 8 * plan.size());
}

template <class T, class Backend>
Json time_steps(const Settings& settings, double product_rate, const bench::Options& common) {
  bench::Trainer<T, Backend> trainer(settings, fill<T, Backend>);
  reserve(trainer.model(), bench::plan_of(settings, 0.0, 0), settings.tokens());
  bench::RateTable table(trainer, settings, settings.drop_rates);
  for (int round = -1; round < settings.rounds; ++round) {
    table.run_round(round, [] {});
    if (round >= 0)
      fmt::print(stderr, "round {} of {}: {:.1f} ms at rate 0\n", round + 1, settings.rounds,
                 1e3 * table.last_seconds());
  }
  if (!std::isfinite(trainer.loss()))
    throw std::runtime_error(
        "the loss must be finite, but it is not: the times would not be those of training");
  const auto [rows, plot] = table.print();
  const bench::StepFlops flops = table.flops();
  const double seconds = table.seconds(), rate = flops.all() / seconds;
  const double tokens_per_second = static_cast<double>(settings.tokens()) / seconds;
  fmt::print("{:.1f} TFLOP a step at rate 0: {:.1f} TFLOP/s", 1e-12 * flops.all(), 1e-12 * rate);
  Json json{{"rows", rows}, {"tokens_per_second", tokens_per_second}, {"flops_per_second", rate}};
  if constexpr (dropbp::DeviceBackend<Backend>) {
    json["attention"] = Json::array();
    for (const dropbp::ops::AttentionNote& note : dropbp::ops::attention_notes<Backend>()) {
      fmt::print(stderr, "{}\n", note.text());
      json["attention"].push_back(note.text());
    }
  }
  if (product_rate > 0.0) {
    fmt::print(", {:.3f} of the {:.1f} TFLOP/s of a large product", rate / product_rate,
               1e-12 * product_rate);
    json["product_flops_per_second"] = product_rate;
  }
  fmt::print("; {:.0f} tokens/s; loss {:.3f}\n", tokens_per_second, trainer.loss());
  common.write(plot);
  return json;
}

// Runs one rate in a process of its own. versus_pytorch.py reads its times and memory.
template <class T, class Backend>
int run_alone(const Settings& settings, double drop_rate) {
  bench::Trainer<T, Backend> trainer(settings, fill<T, Backend>);
  reserve(trainer.model(), bench::plan_of(settings, drop_rate, 0), settings.tokens());
  std::vector<double> milliseconds;
  for (int round = 0; round <= settings.rounds; ++round) {
    const double seconds = trainer.step(bench::plan_of(settings, drop_rate, round)).step;
    if (round > 0) milliseconds.push_back(1e3 * seconds);
  }
  Json json{{"step_ms", milliseconds}, {"layers", settings.shape.layers}};
  if constexpr (dropbp::DeviceBackend<Backend>) json["peak_bytes"] = bench::used_bytes();
  fmt::print("{}\n", json.dump());
  return 0;
}

// GPU memory in use after a step on one sequence, in bytes; nothing if the step ran out of memory.
template <class T, class Backend>
std::optional<double> memory_of_step(bench::Trainer<T, Backend>& trainer, Settings settings,
                                     double drop_rate, Index sequence) {
  settings.sequence = sequence, settings.batch = 1;
  auto& model = trainer.model();
  const dropbp::DropPlan plan = bench::plan_of(settings, drop_rate, 0);
  std::optional<double> used;
  try {
    model.saved_memory().trim(), model.workspace().trim();
    if constexpr (dropbp::DeviceBackend<Backend>) bench::release_kept_memory();
    trainer.set_batch(bench::batch_of(settings));
    reserve(model, plan, sequence);
    model.workspace().reset_peak();
    const double seconds = trainer.step(plan).step;
    if constexpr (dropbp::DeviceBackend<Backend>)
      used = static_cast<double>(bench::used_bytes());
    else  // what the library allocated, without the weights
      used = static_cast<double>(model.saved_memory().reserved_bytes() +
                                 model.workspace().reserved_bytes());
    fmt::print(stderr, "rate {:g}, {} tokens: {:.2f} GiB, {:.2f} s\n", drop_rate, sequence,
               *used * 0x1p-30, seconds);
  } catch (const std::runtime_error& error) {
    fmt::print(stderr, "rate {:g}, {} tokens: {}\n", drop_rate, sequence, error.what());
    // An interrupted step leaves its saved activations in the branches. Their arena must be empty
    // before the next step.
    model.for_each_layer([](auto& layer) { layer.release(); });
  }
  return used;
}

// Memory is nearly linear in the number of tokens. Two lengths give an estimate of how many tokens
// fit, and a real step checks it. This repeats from the last length until there is little to gain.
template <class T, class Backend>
Json longest_sequence(Settings settings, double gib, const std::function<void(const Json&)>& save) {
  constexpr Index grain = 64;
  const double limit = gib * 0x1p30;
  settings.sequence = 65536;  // length of the table of rotations
  settings.shape.max_positions = settings.sequence;
  settings.batch = 1;
  bench::Trainer<T, Backend> trainer(settings, fill<T, Backend>);
  fmt::print(
      "The longest sequence of one step within {:g} GiB\ndrop rate     tokens        GiB  times as "
      "long\n",
      gib);
  Json rows = Json::array();
  double first = 0.0;
  for (const double drop_rate : settings.drop_rates) {
    struct Length {
      Index tokens;
      double bytes;
    };
    const auto measured = [&](Index tokens) {
      const auto bytes = memory_of_step(trainer, settings, drop_rate, tokens);
      return bytes && *bytes <= limit ? std::optional(Length{tokens, *bytes}) : std::nullopt;
    };
    memory_of_step(trainer, settings, drop_rate, 8 * grain);  // allocates the optimizer's memory
    const auto a = measured(8 * grain), b = measured(16 * grain);
    if (!a || !b)
      throw std::runtime_error(fmt::format(
          "{} tokens must fit {:g} GiB, but they do not: take a smaller --shape or --layers",
          16 * grain, gib));
    Length below = *a, best = *b;
    Index most = settings.sequence, less = 2;
    for (int attempt = 0; attempt < 6; ++attempt) {
      const double of_token =
          (best.bytes - below.bytes) / static_cast<double>(best.tokens - below.tokens);
      const double wanted =
          static_cast<double>(best.tokens) + (limit - best.bytes) / std::max(of_token, 1.0);
      const Index tokens =
          static_cast<Index>(std::min(wanted, static_cast<double>(most))) / grain * grain;
      if (tokens < best.tokens + best.tokens / 100) break;
      if (const auto next = measured(tokens))
        below = best, best = *next;
      else
        most = tokens * (100 - less) / 100, less *= 2;  // percent: 2, then 4, 8 and so on
    }
    if (first == 0.0) first = static_cast<double>(best.tokens);
    const double times = static_cast<double>(best.tokens) / first;
    fmt::print("{:>9} {:>10} {:>10.2f} {:>14.2f}\n", drop_rate, best.tokens, best.bytes * 0x1p-30,
               times);
    rows.push_back({{"drop_rate", drop_rate},
                    {"tokens", best.tokens},
                    {"bytes", best.bytes},
                    {"times", times}});
    save({{"gib", gib}, {"longest", rows}});
  }
  return {{"gib", gib}, {"longest", rows}};
}

// Compares the branchwise measurement, which runs one forward pass, with the published method of
// one pass per branch and one more.
template <class T, class Backend>
Json time_sensitivities(Settings settings) {
  settings.batch = 1;
  llama::LlamaModel<T, Backend> model(settings.shape, settings.sequence,
                                      {.lora = bench::lora_of(settings.mode)});
  fill(model);
  model.initialize_adapters(1);
  // B starts as zero. A then has no gradient and every sensitivity is 0, so fill B.
  model.for_each_tensor([&](const auto& tensor) {
    const std::vector<float> values(tensor.size(), 1e-3f);
    if (tensor.name.ends_with("lora_B.weight"))
      ops::upload(ops::MatrixView<T, Backend>(tensor.value, tensor.rows, tensor.columns),
                  {values.data(), tensor.rows, tensor.columns});
  });
  dropbp::DropBPHandler handler{model,
                                {.drop_rate = 0.5, .trainable_below = model.trainable_below()}};
  const llama::Batch batch = bench::batch_of(settings);
  std::vector<double> branchwise, published;
  const auto run_branchwise = [&] {
    branchwise =
        handler.measure_sensitivities_branchwise(llama::BranchwisePass<T, Backend>(model, batch));
  };
  const auto run_published = [&] {
    published = handler.measure_sensitivities([&] {
      model.clear_gradients();
      model.loss_and_gradients(batch);
    });
  };
  run_branchwise();  // allocates the memory
  const double fast = bench::seconds_of(run_branchwise), slow = bench::seconds_of(run_published);
  double difference = 0.0;
  for (std::size_t i = 0; i < branchwise.size(); ++i)
    difference = std::max(difference, std::abs(branchwise[i] - published[i]) /
                                          std::max(std::abs(published[i]), 1e-300));
  fmt::print(
      "sensitivities of {} branches: {:.3f} s in one pass, {:.3f} s with one pass per branch, "
      "{:.2f} times as long; largest difference {:.1e}\n",
      branchwise.size(), fast, slow, slow / fast, difference);
  return {{"branches", branchwise.size()},
          {"branchwise_seconds", fast},
          {"published_seconds", slow},
          {"ratio", slow / fast},
          {"difference", difference}};
}

int run(int argc, char** argv) {
  CLI::App app{
      "Times training steps of LLaMA2's shapes on a GPU, with random weights and fixed plans, in "
      "bfloat16 with the optimizer in float.",
      "cuda_step"};
  bench::Options common(app, "the shape \"tiny\", 3 rounds, unless said otherwise", false);
  Settings settings;
  settings.sequence = 4096, settings.batch = 1, settings.mode = "lora";
  std::string shape = "llama2-7b";
  Index layers = 0;
  double only = -1.0, longest = 0.0;
  bool sensitivities = false, host = false;
  app.add_option("--shape", shape, "shape of the model")
      ->check(CLI::IsMember({"llama2-7b", "llama2-70b", "tiny"}))
      ->capture_default_str();
  app.add_option("--mode", settings.mode,
                 "what trains: all weights, adapters of rank 8, or such adapters over weights in 4 "
                 "bits, or "
                 "in 8 bits that are multiplied as such")
      ->check(CLI::IsMember({"full", "lora", "qlora", "lora-fp8"}))
      ->capture_default_str();
  app.add_option("--layers", layers,
                 "transformer blocks; 0: those of the shape, or as many as fit the GPU's memory "
                 "if all weights train")
      ->check(CLI::Range(0, 1 << 10))
      ->capture_default_str();
  app.add_option("--sequence", settings.sequence, "tokens per sequence")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--batch", settings.batch, "sequences per step")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--rounds", settings.rounds, "timings of each rate; the median is reported")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--drop-rates", settings.drop_rates,
                 "drop rates, rounded to whole blocks; the table also has rate 0")
      ->check(CLI::Range(0.0, 1.0))
      ->delimiter(',')
      ->capture_default_str();
  auto* const instead =
      app.add_option_group("instead", "replaces the table and the plot by one of these");
  instead
      ->add_option(
          "--only", only,
          "run steps at this rate only; print their times and the memory of the GPU as JSON")
      ->check(CLI::Range(0.0, 1.0));
  instead
      ->add_option("--longest", longest,
                   "print the longest sequence at each rate that fits this many GiB")
      ->check(CLI::PositiveNumber);
  instead->add_flag(
      "--sensitivities", sensitivities,
      "time the measurement of sensitivities: in one pass, and with one pass per branch");
  instead->require_option(0, 1);
  app.add_flag("--host", host,
               "run on the CPU in float: tests this program; the times mean nothing");
  CLI11_PARSE(app, argc, argv);
  if (common.quick) {
    if (app.count("--shape") == 0) shape = "tiny";
    if (app.count("--sequence") == 0) settings.sequence = 128;
    if (app.count("--rounds") == 0) settings.rounds = 3;
  }
  settings.shape = shape_of(shape);
  if (layers > 0) settings.shape.layers = layers;
  settings.shape.max_positions = std::max(settings.shape.max_positions, settings.sequence);
  std::optional<bench::Card> card;
  if (!host) card.emplace();
  common.begin();
  if (card && settings.full() && layers == 0 && longest == 0.0) {
    settings.shape.layers = layers_that_fit<BFloat16>(settings, card->bytes - bench::used_bytes());
    if (settings.shape.layers < 1)
      throw std::runtime_error(fmt::format(
          "a block of this shape with all weights trained must fit the GPU's memory, but "
          "it has {:.1f} GiB; use --mode lora or a smaller --shape",
          static_cast<double>(card->bytes) * 0x1p-30));
  }

  const auto on = [&](auto of_host, auto of_card) { return host ? of_host() : of_card(); };
  if (only >= 0.0)
    return on([&] { return run_alone<float, Cpu>(settings, only); },
              [&] { return run_alone<BFloat16, Cuda>(settings, only); });
  fmt::print("{}\n{}, {}\n", card ? card->text() : "the processor", settings.text(),
             host ? "float" : "bfloat16");
  if (settings.shape.layers < shape_of(shape).layers)
    fmt::print("{} of the shape's {} blocks{}\n", settings.shape.layers, shape_of(shape).layers,
               layers == 0 ? ", as many as the GPU's memory holds" : "");
  Json json{{"shape", shape},
            {"mode", settings.mode},
            {"layers", settings.shape.layers},
            {"sequence", settings.sequence},
            {"batch", settings.batch}};
  if (card) json["card"] = card->json();
  // Called with what there is so far, too: a run that is stopped leaves it.
  const std::function<void(const Json&)> save = [&](const Json& result) {
    Json all = json;
    all.update(result);
    common.write(all);
  };
  Json result;
  if (longest > 0.0) {
    result =
        on([&] { return longest_sequence<float, Cpu>(settings, longest, save); },
           [&] {
             return longest_sequence<BFloat16, Cuda>(
                 settings, std::min(longest, static_cast<double>(card->bytes) * 0x1p-30), save);
           });
  } else if (sensitivities) {
    result = on([&] { return time_sensitivities<float, Cpu>(settings); },
                [&] { return time_sensitivities<BFloat16, Cuda>(settings); });
  } else {
    std::erase(settings.drop_rates, 0.0);
    settings.drop_rates.insert(settings.drop_rates.begin(), 0.0);
    result =
        on([&] { return time_steps<float, Cpu>(settings, 0.0, common); },
           [&] {
             return time_steps<BFloat16, Cuda>(settings, bench::product_rate<BFloat16>(5), common);
           });
  }
  save(result);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("cuda_step", argc, argv, run); }
