// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Writing text: the pass with a cache gives the logits of the whole pass, tokens are drawn with the
// right probabilities, and the program completes, converses and measures.
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "llama/app/generate_options.hpp"
#include "llama/app/perplexity.hpp"
#include "llama/app/text_codec.hpp"
#include "llama/app/token_sampling.hpp"
#include "llama/files.hpp"
#include "llama/model/adapter.hpp"
#include "llama/model/cached_forward.hpp"
#include "llama/small_run.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;

const std::string golden = DROPBP_TEST_DATA "/llama-tiny";

std::vector<std::int32_t> ids_of(std::size_t count, std::int32_t vocabulary = 64) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>(i * i * 7 + 3 * i) % vocabulary);
  return ids;
}

template <class T>
double largest_difference(std::span<const T> a, std::span<const T> b) {
  REQUIRE(a.size() == b.size());
  double most = 0.0, scale = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    scale = std::max(scale, std::abs(static_cast<double>(a[i])));
  }
  return most / scale;
}

struct Ran {
  int exit_code;
  std::string out;
};

Ran run(const std::string& arguments) {
  std::FILE* const pipe = popen((DROPBP_LLAMA_GENERATE " " + arguments + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string text;
  std::array<char, 4096> buffer;
  for (std::size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    text.append(buffer.data(), n);
  const int status = pclose(pipe);
  return {WEXITSTATUS(status), text};
}

}  // namespace

TEST_CASE("generate: the cached pass gives the logits of the whole pass, however it is cut") {
  for (const bool adapters : {false, true}) {
    ModelOptions options;
    if (adapters) options.lora = {.rank = 3, .alpha = 4.0, .exceptions = {{"v_proj", 2, 9.0}}};
    LlamaConfig shape = test::small_shape;
    shape.traits.layers.resize(static_cast<std::size_t>(shape.layers));
    shape.traits.layers.back().window = 9;
    LlamaModel<double> model(shape, 130, options);
    model.initialize(5);
    model.initialize_adapters(6);
    std::uint64_t state = 1;
    model.for_each_tensor([&](const auto& tensor) {
      if (!tensor.name.ends_with("lora_B.weight")) return;
      for (std::size_t i = 0; i < tensor.size(); ++i)
        tensor.value[i] =
            static_cast<double>((state = state * 48271 % 2147483647) % 100) / 500 - .1;
    });
    const std::vector<std::int32_t> ids = ids_of(130);
    // Pieces of one token, of some, and of more than a block of queries.
    for (const std::vector<std::size_t>& pieces :
         {std::vector<std::size_t>{1, 1, 1, 1, 1}, {7, 1, 40, 1, 1}, {60, 70}, {130}, {1, 129}}) {
      CachedForward<double> cached(model, 130);
      WholeForward<double, dropbp::Cpu> whole(model);
      std::size_t begin = 0;
      for (const std::size_t count : pieces) {
        const auto piece = std::span(ids).subspan(begin, count);
        const auto logits = cached.next(piece), expected = whole.next(piece);
        CAPTURE(adapters, begin, count);
        // The logits are floats, all before them doubles.
        CHECK(largest_difference(expected, logits) <= 2e-7);
        begin += count;
      }
      CHECK(cached.tokens() == static_cast<Index>(begin));
    }
  }
}

TEST_CASE("generate: the logits are those of the model's loss, on published figures too") {
  const LlamaConfig config = load_config(golden);
  LlamaModel<float> model(config, 64);
  load_weights(golden, model);
  const std::vector<std::int32_t> ids = ids_of(33, static_cast<std::int32_t>(config.vocabulary));
  CachedForward<float> forward(model, 64);
  double nats = 0.0;
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
    const auto logits = forward.next(std::span(ids).subspan(i, 1));
    double sum = 0.0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    nats += std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(ids[i + 1])]);
  }
  const Prediction prediction = predict(model, ids, 64);
  CHECK(prediction.tokens == 32);
  CHECK(std::abs(prediction.nats - nats) <= 1e-4);
  // In windows, each token is predicted once, from its own window.
  const Prediction first = predict(model, std::span(ids).first(11), 64),
                   second = predict(model, std::span(ids).subspan(10, 11), 64),
                   both = predict(model, std::span(ids).first(21), 10);
  CHECK(both.tokens == 20);
  CHECK(std::abs(both.nats - first.nats - second.nats) <= 1e-4);
  CHECK_THROWS_AS(predict(model, std::span(ids).first(1), 10), std::runtime_error);
}

TEST_CASE("generate: a cache goes back to an earlier token, and refuses what does not fit") {
  LlamaModel<float> model(test::small_shape, 16);
  model.initialize(5);
  const std::vector<std::int32_t> ids = ids_of(12), others{1, 2, 3};
  CachedForward<float> forward(model, 16), fresh(model, 16);
  (void)forward.next(std::span(ids).first(4));
  const auto logits = forward.next(std::span(ids).subspan(4, 4));
  const std::vector<float> expected(logits.begin(), logits.end());
  forward.keep_first(4);
  (void)forward.next(others);
  forward.keep_first(4);
  const auto again = forward.next(std::span(ids).subspan(4, 4));
  CHECK(std::ranges::equal(expected, again));
  CHECK_THROWS_AS(forward.next(ids), std::invalid_argument);
  CHECK_THROWS_AS(forward.next({}), std::invalid_argument);
  const std::int32_t beyond[] = {64};
  CHECK_THROWS_AS(forward.next(beyond), std::invalid_argument);
  CHECK(forward.tokens() == 8);
  CHECK_THROWS_AS(CachedForward<float>(model, 17), std::invalid_argument);
}

TEST_CASE("generate: tokens are drawn with the probabilities of the softmax, cut at top-p") {
  const std::vector<float> logits{std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  const auto shares = [&](const TokenSampling& sampling) {
    std::vector<double> counts(4);
    constexpr int draws = 20000;
    for (int i = 0; i < draws; ++i)
      counts[static_cast<std::size_t>(
          sample_token(logits, sampling, static_cast<std::uint64_t>(i)))] += 1.0 / draws;
    return counts;
  };
  const auto check = [](const std::vector<double>& got, const std::vector<double>& expected) {
    for (std::size_t i = 0; i < 4; ++i) {
      CAPTURE(i, got[i]);
      CHECK(std::abs(got[i] - expected[i]) <= 0.015);  // four standard deviations
      if (expected[i] == 0.0) CHECK(got[i] == 0.0);
    }
  };
  check(shares({.temperature = 1.0, .top_p = 1.0}), {0.1, 0.4, 0.2, 0.3});
  check(shares({.temperature = 0.5, .top_p = 1.0}), {1.0 / 30, 16.0 / 30, 4.0 / 30, 9.0 / 30});
  // 0.4 + 0.3 is not enough, 0.2 more is.
  check(shares({.temperature = 1.0, .top_p = 0.75}), {0.0, 4.0 / 9, 2.0 / 9, 3.0 / 9});
  check(shares({.temperature = 1.0, .top_p = 0.3}), {0.0, 1.0, 0.0, 0.0});
  check(shares({.temperature = 0.0, .top_p = 1.0}), {0.0, 1.0, 0.0, 0.0});
  CHECK(sample_token(std::vector<float>{2, 5, 5}, {.temperature = 0.0}, 0) == 1);
  CHECK(shares({.seed = 1}) != shares({.seed = 2}));
  CHECK_THROWS_AS(sample_token(std::vector<float>{1, std::nanf("")}, {}, 0), std::runtime_error);
}

TEST_CASE("generate: a text ends at an end, at its length, or when it is told to") {
  // The next token is one more than the last.
  std::vector<float> logits(10);
  std::vector<std::int32_t> seen;
  const auto next = [&](std::span<const std::int32_t> ids) -> std::span<const float> {
    seen.insert(seen.end(), ids.begin(), ids.end());
    std::ranges::fill(logits, 0.0f);
    logits[static_cast<std::size_t>(ids.back() + 1) % 10] = 50.0f;
    return logits;
  };
  const std::vector<std::int32_t> prompt{7, 2};
  using Ids = std::vector<std::int32_t>;
  CHECK(complete(prompt, {}, {.most_tokens = 3, .ends = {}}, next) == Ids{3, 4, 5});
  CHECK(seen == Ids{7, 2, 3, 4});
  CHECK(complete(prompt, {}, {.most_tokens = 9, .ends = {6, 5}}, next) == Ids{3, 4});
  CHECK(complete(prompt, {}, {.most_tokens = 9, .ends = {}}, next,
                 [](std::int32_t id) { return id != 4; }) == Ids{3, 4});
}

TEST_CASE("generate: the program completes, with adapters, and measures perplexity") {
  const test::TemporaryFolder folder;
  LlamaConfig shape = test::small_shape;
  shape.vocabulary = 256;
  const std::string model = (folder / "model").string(), adapter = (folder / "adapter").string();
  {
    LlamaModel<float> plain(shape, 64);
    plain.initialize(3);
    save_weights(model, plain);
    LlamaModel<float> adapted(shape, 64, {.lora = {.rank = 2}});
    load_weights(model, adapted);
    adapted.initialize_adapters(4);
    adapted.for_each_tensor([&](const auto& tensor) {
      if (tensor.name.ends_with("lora_B.weight")) std::fill_n(tensor.value, tensor.size(), 0.5f);
    });
    save_adapter(adapter, adapted, model);
  }
  const std::string base = "--model " + model;
  const Ran once = run(base + " --prompt hello --max-tokens 20 --seed 3"),
            again = run(base + " --prompt hello --max-tokens 20 --seed 3"),
            other = run(base + " --prompt hello --max-tokens 20 --seed 4");
  CHECK(once.exit_code == 0);
  CHECK(once.out.size() == 21);
  CHECK(once.out == again.out);
  CHECK(once.out != other.out);
  const Ran greedy = run(base + " --prompt hello --max-tokens 20 --temperature 0"),
            adapted = run(base + " --adapter " + adapter +
                          " --prompt hello --max-tokens 20 --temperature 0");
  CHECK(adapted.exit_code == 0);
  CHECK(greedy.out != adapted.out);

  const std::string text = "The quick brown fox jumps over the lazy dog.";
  test::write_bytes(folder / "text", text);
  const Ran measured = run(base + " --perplexity " + (folder / "text").string() + " --context 16");
  LlamaModel<float> loaded(shape, 64);
  load_weights(model, loaded);
  const Prediction p = predict(loaded, TextCodec(std::nullopt).encode(text), 16);
  CHECK(measured.out.starts_with("43 tokens of 44 bytes: "));
  std::array<char, 32> mean;
  std::snprintf(mean.data(), mean.size(), "%.4f nats", p.mean());
  INFO(measured.out);
  CHECK(measured.out.find(mean.data()) != std::string::npos);

  for (const auto& [arguments, code, message] :
       {std::tuple(std::string("--prompt a"), 2, "no --model was given"),
        {base + " --prompt a --context 1", 2, "--context must be a whole number"},
        {base + " --prompt abcdefgh --context 4", 2, "a prompt must have from 1 to 3 tokens"},
        {base + " --chat --prompt a", 2, "has none; give one of"},
        {base + " --system a --prompt a", 2, "--chat was not given"},
        {base + " --perplexity x --prompt a", 2, "--perplexity writes no text"},
        {base + " --tempature 1", 2, "known options"},
        {"--model " + (folder / "none").string() + " --prompt a", 1, "none"}}) {
    CAPTURE(arguments);
    const Ran wrong = run(arguments);
    INFO(wrong.out);
    CHECK(wrong.exit_code == code);
    CHECK(wrong.out.find(message) != std::string::npos);
  }
}
