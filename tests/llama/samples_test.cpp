// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Samples and their labels, rows of them, and training on them.
#include "llama/app/samples.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "llama/app/errors.hpp"
#include "llama/app/packing.hpp"
#include "llama/app/sample_rows.hpp"
#include "llama/app/sample_table.hpp"
#include "llama/app/trainer.hpp"
#include "llama/app/training_checkpoint.hpp"
#include "llama/files.hpp"
#include "llama/formats/regex.hpp"
#include "llama/formats/tokenizer.hpp"
#include "llama/small_run.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using Ids = std::vector<std::int32_t>;

std::optional<ChatTemplate> no_template() { return std::nullopt; }

/// The bytes that are learned, and those that are not as dots.
std::string learned(const Sample& sample) {
  std::string text;
  for (std::size_t i = 0; i < sample.ids.size(); ++i)
    text += sample.learned[i] != 0 ? static_cast<char>(sample.ids[i]) : '.';
  return text;
}

Sample made(const char* line, SampleOptions options = {}) {
  SampleMaker maker(options, nullptr, no_template);
  return maker.make(parse_record(line, "x"), "x");
}

/// Samples of ids below 64, of 2 to `longest` tokens, whose second halves are learned.
std::vector<Sample> some_samples(std::size_t count, std::size_t longest) {
  std::vector<Sample> samples(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t size = 2 + i * 7 % (longest - 1);
    for (std::size_t t = 0; t < size; ++t) {
      samples[i].ids.push_back(static_cast<std::int32_t>((i * 31 + t * t * 5 + 1) % 64));
      samples[i].learned.push_back(t >= size / 2 ? 1 : 0);
    }
  }
  return samples;
}

SampleData data_of(std::vector<Sample> samples, bool pack, double validation = 0.0) {
  SampleOptions options;
  options.pack = pack;
  options.validation_fraction = validation;
  return {std::move(samples), options};
}

}  // namespace

TEST_CASE("samples: the completion and the end are learned, the prompt is not") {
  CHECK(learned(made(R"({"prompt": "ab", "completion": "cd"})")) == "..cd\n");
  CHECK(learned(made(R"({"text": "abc"})")) == "abc\n");
  CHECK(learned(made(R"({"prompt": "ab", "completion": ""})")) == "..\n");
  SampleOptions all;
  all.loss_on = LossChoice::all;
  CHECK(learned(made(R"({"prompt": "ab", "completion": "cd"})", all)) == "abcd\n");
  SampleOptions end;
  end.end_of_text = EndOfText{.id = 'E', .source = "x"};
  CHECK(learned(made(R"({"prompt": "ab", "completion": "cd"})", end)) == "..cdE");
  CHECK(learned(made(R"({"prompt": "ab", "completion": "cdE"})", end)) ==
        "..cdE");  // there already
  const std::string alpaca =
      learned(made(R"({"instruction": "Add.", "input": "1 2", "output": "3"})"));
  CHECK(alpaca.ends_with(".3\n"));
  CHECK(std::ranges::count(alpaca, '.') == static_cast<std::ptrdiff_t>(alpaca.size()) - 2);
  SampleOptions small;
  small.vocabulary = 100;
  test::check_throws<std::runtime_error>([&] { (void)made(R"({"text": "axyz"})", small); },
                                         {"x: token ids must be from 0 to 99", "120"});
}

TEST_CASE("samples: with a tokenizer a token belongs to the part that it begins in") {
  if (!Regex::available()) return;  // tokenizer_test is counted as skipped then
  const Tokenizer tokenizer(DROPBP_TEST_DATA "/tokenizer/llama2.json");
  SampleOptions options;
  options.vocabulary = tokenizer.vocabulary();
  options.end_of_text = EndOfText{.id = 2, .source = "x"};
  const test::TemporaryFolder folder;
  test::write_bytes(folder / "tokenizer_config.json",
                    R"({"bos_token": "<s>", "eos_token": "</s>"})");
  SampleMaker maker(options, &tokenizer,
                    [&] { return ChatTemplate::named("llama2", folder.path()); });
  const auto text_of = [&](const Sample& sample, bool wanted) {
    std::string text;
    for (std::size_t i = 0; i < sample.ids.size(); ++i)
      if ((sample.learned[i] != 0) == wanted) text += tokenizer.text_of(sample.ids[i]);
    return text;
  };
  const Sample plain =
      maker.make(parse_record(R"({"prompt": "The license:", "completion": " you may"})", "x"), "x");
  CHECK(plain.ids.front() == 1);
  CHECK(plain.ids.back() == 2);
  CHECK(text_of(plain, false) == "<s> The license:");
  CHECK(text_of(plain, true) == " you may</s>");
  const Sample chat = maker.make(parse_record(
                                     R"({"messages": [{"role": "user", "content": "Hi"},
              {"role": "assistant", "content": "you"}, {"role": "user", "content": "the"},
              {"role": "assistant", "content": "end"}]})",
                                     "x"),
                                 "x");
  CHECK(std::ranges::count(chat.ids, 1) == 2);  // the template's own, no more
  CHECK(text_of(chat, true) == " you </s> end </s>");
  CHECK(chat.ids ==
        tokenizer.encode("<s>[INST] Hi [/INST] you </s><s>[INST] the [/INST] end </s>"));
  // The instruction is a conversation where there is a template.
  const Sample instruction = maker.make(
      parse_record(R"({"instruction": "Hi", "input": "the", "output": "you"})", "x"), "x");
  CHECK(instruction.ids == tokenizer.encode("<s>[INST] Hi\n\nthe [/INST] you </s>"));
  const std::string table = sample_table(instruction, &tokenizer);
  CHECK_THAT(table, contains("position      id  learned  token"));
  CHECK_THAT(table, contains("0       1  -        \"<s>\""));
  CHECK_THAT(table, contains("2  yes      \"</s>\""));
  CHECK_THAT(table, contains("\"\\n\""));
}

TEST_CASE("samples: files and folders, long samples, and what is said of them") {
  const test::TemporaryFolder folder;
  std::string lines;
  for (int i = 0; i < 20; ++i)
    lines += R"({"prompt": "abcdef", "completion": ")" +
             std::string(1, static_cast<char>('a' + i)) + "\"}\n";
  test::write_bytes(folder / "b.jsonl", lines);
  test::write_bytes(folder / "a/c.ndjson", R"({"prompt": "abcdefghijkl", "completion": "x"})"
                                           "\n"
                                           R"({"text": "abcdefghijklmno"})"
                                           "\n");
  test::write_bytes(folder / "README.md", "no sample");
  SampleOptions options;
  options.sequence = 8;
  options.validation_fraction = 0.1;
  const auto load = [&] {
    return SampleData::from_json_lines(folder.path(), options, nullptr, no_template);
  };
  const SampleData cut = load();
  CHECK(cut.train().size() == 19);  // of 21: the answer of one is cut away
  CHECK(cut.held_out().size() == 2);
  for (const Sample& sample : cut.train()) CHECK(sample.ids.size() <= 9);
  const auto said = [](const SampleData& data, std::string_view text) {
    return std::ranges::any_of(data.notes(), [&](const std::string& note) {
      return note.find(text) != std::string::npos;
    });
  };
  CHECK(said(cut, "21 of prompt and completion, 1 of text"));
  CHECK(said(cut, "2 samples were longer than --sequence 8 and cut at the end"));
  CHECK(said(cut, "1 sample was left out, because no token would have a label"));
  CHECK(said(cut, "1 other file in '"));
  options.long_samples = LongSamples::skip;
  const SampleData skipped = load();
  CHECK(skipped.train().size() + skipped.held_out().size() == 20);
  CHECK(said(skipped, "2 samples were longer than --sequence 8 and left out"));
  // The same are held out whatever else is asked for, and none is trained on too.
  std::set<Ids> held, trained;
  for (const Sample& sample : cut.held_out()) held.insert(sample.ids);
  for (const Sample& sample : cut.train()) trained.insert(sample.ids);
  CHECK(held.size() + trained.size() == 21);

  test::write_bytes(folder / "z.jsonl", "{\"text\": \"good\"}\n{\"txt\": 1}\n");
  test::check_throws<std::runtime_error>(load, {"line 2 of '", "z.jsonl' must have the keys"});
  test::write_bytes(folder / "z.jsonl", "\n");
  options.sequence = 2;
  test::check_throws<std::runtime_error>(load, {"must have samples", "longer than --sequence 2"});
}

TEST_CASE("samples: packing places each sample once, within the row") {
  std::vector<std::size_t> sizes;
  for (std::size_t i = 0; i < 500; ++i) sizes.push_back(1 + i * 37 % 61);
  const auto rows = pack(sizes, 64);
  std::vector<std::size_t> seen;
  std::size_t total = 0;
  for (const auto& row : rows) {
    std::size_t used = 0;
    for (const std::size_t i : row) used += sizes[i], seen.push_back(i);
    CHECK(used <= 64);
    total += used;
  }
  std::ranges::sort(seen);
  std::vector<std::size_t> all(sizes.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  CHECK(seen == all);
  CHECK(rows.size() <= (total + 63) / 64 + 1);
  CHECK(pack(std::vector<std::size_t>{3, 5, 2, 6}, 8) ==
        std::vector<std::vector<std::size_t>>{{3, 2}, {1, 0}});
  CHECK(pack({}, 8).empty());
  CHECK_THROWS_AS(pack(std::vector<std::size_t>{9}, 8), std::invalid_argument);
}

TEST_CASE("samples: an epoch has each label once, in an order of its own") {
  const std::vector<Sample> samples = some_samples(37, 17);
  std::map<std::pair<std::int32_t, std::int32_t>, int> expected;  // (input, label)
  std::uint64_t positions = 0;
  for (const Sample& sample : samples)
    for (std::size_t i = 0; i + 1 < sample.ids.size(); ++i, ++positions)
      if (sample.learned[i + 1] != 0) ++expected[{sample.ids[i], sample.ids[i + 1]}];
  for (const bool packed : {false, true}) {
    INFO(packed);
    const SampleData data = data_of(samples, packed);
    BatchOptions options{.batch = 1, .sequence = 16, .micro_steps = 1, .seed = 3};
    const std::uint64_t rows = data.steps(1, options);
    CHECK(packed == (rows < samples.size()));
    const auto source = data.training(options);
    std::vector<Ids> order[2];
    for (std::uint64_t epoch = 0; epoch < 2; ++epoch) {
      std::map<std::pair<std::int32_t, std::int32_t>, int> seen;
      std::uint64_t tokens = 0;
      for (std::uint64_t step = epoch * rows; step < (epoch + 1) * rows; ++step) {
        Batch batch;
        source->fill(step, 0, batch);
        tokens += source->tokens(step);
        std::size_t labels = 0;
        for (std::size_t i = 0; i < batch.labels.size(); ++i)
          if (batch.labels[i] != -100) ++labels, ++seen[{batch.inputs[i], batch.labels[i]}];
        CHECK(batch.divisor == static_cast<double>(labels));
        CHECK(labels > 0);
        CHECK(batch.sample_begin.size() == (packed ? batch.inputs.size() : 0));
        order[epoch].push_back(batch.inputs);
      }
      CHECK(seen == expected);
      CHECK(tokens == positions);
    }
    CHECK(order[0] != order[1]);
    // A function of step and micro-step: the same rows in other batches, asked for backwards.
    options.batch = 2, options.micro_steps = 3;
    const auto others = data.training(options);
    for (std::uint64_t step = (2 * rows - 1) / 6 + 1; step-- > 0;)
      for (std::uint32_t micro = 3; micro-- > 0;) {
        Batch batch;
        others->fill(step, micro, batch);
        for (std::ptrdiff_t row = 0; row < 2; ++row) {
          const std::uint64_t number = step * 6 + micro * 2 + static_cast<std::uint64_t>(row);
          if (number >= 2 * rows) continue;
          const Ids& wanted = order[number / rows][number % rows];
          const Ids found = row_of(batch, row).inputs;
          const std::size_t both = std::min(wanted.size(), found.size());
          CHECK(std::equal(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(both),
                           wanted.begin()));
        }
      }
  }
}

namespace {

Options small_samples() {
  Options o = test::small_run(0.0);
  o.eval_batches = 100;
  return o;
}

}  // namespace

TEST_CASE("samples: the loss is the mean over the labels of the step, packed or not") {
  const std::vector<Sample> samples = some_samples(23, 17);
  double sum = 0.0, labels = 0.0;
  Options o = small_samples();
  o.batch = 1;
  // Each sample alone.
  for (const Sample& sample : samples) {
    const SampleData one = data_of({sample}, false);
    Trainer trainer(o, o.shape, one, 0.0);
    const auto count = static_cast<double>(
        std::count(sample.learned.begin() + 1, sample.learned.end(), std::uint8_t{1}));
    sum += trainer.step().loss * count;
    labels += count;
  }
  for (const bool packed : {false, true}) {
    INFO(packed);
    const SampleData data = data_of(samples, packed);
    const BatchOptions one_row{.batch = 1, .sequence = o.sequence, .micro_steps = 1};
    const auto rows = static_cast<std::ptrdiff_t>(data.steps(1, one_row));
    double norm = 0.0;
    for (const std::ptrdiff_t micro_steps : {std::ptrdiff_t{1}, rows}) {
      Options whole = o;
      whole.batch = rows / micro_steps;
      whole.micro_steps = micro_steps;
      Trainer trainer(whole, whole.shape, data, 0.0);
      const StepRecord& record = trainer.step();
      CHECK(record.loss == Approx(sum / labels).epsilon(1e-6));
      if (norm > 0.0) CHECK(record.gradient_norm == Approx(norm).epsilon(1e-5));
      norm = record.gradient_norm;
    }
  }
  // The gradients too: of packed and of single rows they are the same.
  double norms[2];
  for (const bool packed : {false, true}) {
    const SampleData data = data_of(samples, packed);
    Options whole = o;
    whole.batch = static_cast<std::ptrdiff_t>(
        data.steps(1, {.batch = 1, .sequence = o.sequence, .micro_steps = 1}));
    Trainer trainer(whole, whole.shape, data, 0.0);
    norms[packed ? 1 : 0] = trainer.step().gradient_norm;
  }
  CHECK(norms[1] == Approx(norms[0]).epsilon(1e-5));
}

TEST_CASE("samples: the validation loss is the mean over the labels held out") {
  std::vector<Sample> samples = some_samples(40, 17);
  Options o = small_samples();
  o.batch = 3;
  double losses[2];
  for (const bool packed : {false, true}) {
    const SampleData data = data_of(samples, packed, 0.3);
    CHECK(data.held_out().size() == 12);
    Trainer trainer(o, o.shape, data, 0.5);
    losses[packed ? 1 : 0] = trainer.validate();
  }
  CHECK(losses[1] == Approx(losses[0]).epsilon(1e-6));
  const SampleData none = data_of(samples, true, 0.0);
  CHECK_FALSE(Trainer(o, o.shape, none, 0.5).can_validate());
}

TEST_CASE("samples: a resumed run ends with the same bits") {
  const SampleData data = data_of(some_samples(23, 17), true, 0.2);
  Options o = small_samples();
  o.steps = 14;  // some epochs
  o.micro_steps = 2;
  o.drop_rate = 0.5;
  const auto run_to = [](Trainer& trainer, std::uint64_t step) {
    while (trainer.steps_done() < step) trainer.step();
  };
  Trainer whole(o, o.shape, data, o.drop_rate);
  run_to(whole, o.steps);
  const test::TemporaryFolder folder;
  const auto open = [&](Trainer& trainer) {
    return TrainingCheckpoints(folder / "c", identity_of(o, o.shape, data, trainer.model()));
  };
  {
    Trainer first(o, o.shape, data, o.drop_rate);
    run_to(first, 5);
    open(first).save(first);
  }
  Trainer second(o, o.shape, data, o.drop_rate);
  REQUIRE(open(second).resume(second, [](std::string_view) {}));
  CHECK(second.steps_done() == 5);
  run_to(second, o.steps);
  CHECK(test::tensors_of(second) == test::tensors_of(whole));
  for (std::size_t i = 0; i < o.steps; ++i)
    CHECK(second.records()[i].loss == whole.records()[i].loss);
  CHECK(second.validate() == whole.validate());
  CHECK(second.summary().tokens_per_second > 0.0);
  // Other data, labels or rows are another run.
  Trainer third(o, o.shape, data, o.drop_rate);
  std::vector<Sample> others = some_samples(23, 17);
  others[3].learned.back() = 0;
  for (const SampleData& other :
       {data_of(others, true, 0.2), data_of(some_samples(23, 17), false, 0.2)}) {
    TrainingCheckpoints checkpoints(folder / "c", identity_of(o, o.shape, other, third.model()));
    CHECK_THROWS_AS(checkpoints.resume(third, [](std::string_view) {}), UsageError);
  }
}

TEST_CASE("samples: training on a few of them learns them") {
  const SampleData data = data_of(some_samples(6, 12), true);
  Options o = small_samples();
  o.steps = 150;
  o.learning_rate = 0.01;
  Trainer trainer(o, o.shape, data, 0.5);
  const double first = trainer.step().loss;
  while (trainer.steps_done() < o.steps) trainer.step();
  CHECK(trainer.records().back().loss < 0.3 * first);
}
