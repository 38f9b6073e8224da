// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// From records to samples, and what is said about them.
#include "llama/app/samples.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <dropbp/base/philox.hpp>
#include <map>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "llama/app/files_below.hpp"
#include "llama/app/sample_rows.hpp"
#include "llama/formats/crc32c.hpp"
#include "llama/formats/tokenizer.hpp"
#include "llama/model/random_streams.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;

/// The prompts of the data set Alpaca.
std::string alpaca_prompt(const Record& record) {
  if (record.input.empty())
    return fmt::format(
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n{}\n\n### Response:",
        record.instruction);
  return fmt::format(
      "Below is an instruction that describes a task, paired with an input that provides further "
      "context. Write a response that appropriately completes the request.\n\n### "
      "Instruction:\n{}\n\n### Input:\n{}\n\n### Response:",
      record.instruction, record.input);
}

/// What became of the samples, by number.
struct Counts {
  std::map<RecordForm, std::size_t> forms;
  std::size_t cut = 0, skipped = 0, without_label = 0;
};

std::string count_text(std::size_t count, std::string_view one, std::string_view many) {
  return fmt::format("{} {}", count, count == 1 ? one : many);
}

std::vector<std::string> notes_of(const Counts& counts, const fs::path& path,
                                  const ChatTemplate* chat_template, const SampleOptions& options) {
  std::vector<std::string> forms, notes;
  for (const auto& [form, count] : counts.forms)
    forms.push_back(fmt::format("{} of {}", count, name_of(form)));
  notes.push_back(fmt::format("'{}' has samples: {}", path.string(), fmt::join(forms, ", ")));
  if (chat_template != nullptr)
    notes.push_back(
        fmt::format("conversations are written by the chat template {}", chat_template->name()));
  else if (counts.forms.contains(RecordForm::instruction))
    notes.push_back("instructions are written as Alpaca's, as there is no chat template");
  if (counts.cut + counts.skipped > 0)
    notes.push_back(fmt::format(
        "{} longer than --sequence {} and {}; --long-samples {} would {}",
        count_text(counts.cut + counts.skipped, "sample was", "samples were"), options.sequence,
        counts.cut > 0 ? "cut at the end" : "left out", counts.cut > 0 ? "skip" : "cut",
        counts.cut > 0 ? "leave them out" : "cut them"));
  if (counts.without_label > 0)
    notes.push_back(fmt::format(
        "{} left out, because no token would have a label{}",
        count_text(counts.without_label, "sample was", "samples were"),
        counts.cut > 0 ? "; where the answer was cut away, a longer --sequence keeps it" : ""));
  return notes;
}

void check_ids(const Sample& sample, std::ptrdiff_t vocabulary, const std::string& what) {
  for (const std::int32_t id : sample.ids)
    if (id < 0 || id >= vocabulary)
      throw std::runtime_error(fmt::format(
          "{}: token ids must be from 0 to {} (a vocabulary of {}), but one is {}; use the model's "
          "own tokenizer or a larger vocabulary",
          what, vocabulary - 1, vocabulary, id));
}

bool has_label(const Sample& sample) {
  return sample.ids.size() > 1 && std::any_of(sample.learned.begin() + 1, sample.learned.end(),
                                              [](std::uint8_t learned) { return learned != 0; });
}

/// Takes every sample but those that no row can hold or that have no label.
class Sieve {
 public:
  Sieve(const SampleOptions& options, Counts& counts) : options_(options), counts_(counts) {}

  void take(Sample&& sample) {
    const auto most = static_cast<std::size_t>(options_.sequence) + 1;
    const bool is_long = sample.ids.size() > most;
    if (is_long && options_.long_samples == LongSamples::skip) {
      ++counts_.skipped;
      return;
    }
    if (is_long) {
      ++counts_.cut;
      sample.ids.resize(most), sample.learned.resize(most);
    }
    if (!has_label(sample)) {
      ++counts_.without_label;
      return;
    }
    samples_.push_back(std::move(sample));
  }
  std::vector<Sample>& samples() noexcept { return samples_; }

 private:
  const SampleOptions& options_;
  Counts& counts_;
  std::vector<Sample> samples_;
};

std::vector<fs::path> files_of(const fs::path& path, std::vector<std::string>& notes) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return {path};
  std::vector<fs::path> files;
  std::size_t others = 0;
  for (const std::string& name : files_below(path)) {
    if (named_json_lines(name))
      files.push_back(path / name);
    else
      ++others;
  }
  if (others > 0)
    notes.push_back(fmt::format("{} in '{}' left out: JSON lines alone are read there",
                                count_text(others, "other file", "other files"), path.string()));
  return files;
}

}  // namespace

Sample SampleMaker::encode(std::span<const Part> parts, bool plain, const std::string& what) const {
  Sample sample;
  std::string text;
  std::vector<std::size_t> cuts;
  for (const Part& part : parts) {
    text += part.text;
    cuts.push_back(text.size());
  }
  std::vector<std::size_t> before = cuts;  // a byte is a token
  std::vector<std::int32_t> ids;
  if (tokenizer_ != nullptr) {
    if (plain) sample.ids = tokenizer_->beginning();
    CutIds cut = tokenizer_->encode(text, cuts, what);
    ids = std::move(cut.ids), before = std::move(cut.before);
  } else {
    const auto* const bytes = reinterpret_cast<const unsigned char*>(text.data());
    ids.assign(bytes, bytes + text.size());
  }
  sample.learned.assign(sample.ids.size(), 0);
  const std::size_t start = sample.ids.size();
  sample.ids.insert(sample.ids.end(), ids.begin(), ids.end());
  std::size_t from = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const bool learned = parts[i].learned || options_.loss_on == LossChoice::all;
    sample.learned.resize(start + std::max(from, before[i]), learned ? 1 : 0);
    from = before[i];
  }
  if (plain) {
    const std::int32_t end = options_.end_of_text ? options_.end_of_text->id : '\n';
    const bool there = options_.end_of_text && !sample.ids.empty() && sample.ids.back() == end;
    if (!there) sample.ids.push_back(end), sample.learned.push_back(1);
  }
  check_ids(sample, options_.vocabulary, what);
  return sample;
}

const ChatTemplate* SampleMaker::needed_template() {
  if (!template_) template_ = find_();
  return chat_template();
}

Sample SampleMaker::make(const Record& record, const std::string& what) {
  const auto converse = [&](std::span<const Message> messages) {
    std::vector<Part> parts;
    try {
      parts = chat_template()->render(messages);
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(fmt::format("{}: {}", what, error.what()));
    }
    return encode(parts, false, what);
  };
  const auto complete = [&](std::string prompt, std::string completion) {
    const Part parts[] = {{std::move(prompt), false}, {std::move(completion), true}};
    return encode(parts, true, what);
  };
  switch (record.form) {
    case RecordForm::text: {
      const Part part[] = {{record.text, true}};
      return encode(part, true, what);
    }
    case RecordForm::completion:
      return complete(record.prompt, record.completion);
    case RecordForm::instruction: {
      if (needed_template() == nullptr) return complete(alpaca_prompt(record), record.output);
      const Message messages[] = {
          {"user",
           record.input.empty() ? record.instruction : record.instruction + "\n\n" + record.input},
          {"assistant", record.output}};
      return converse(messages);
    }
    case RecordForm::messages:
      break;
  }
  if (needed_template() == nullptr)
    throw std::runtime_error(fmt::format(
        "{} has 'messages', which a chat template must write, but the model's folder has none "
        "(chat_template.jinja, or 'chat_template' in tokenizer_config.json); name one with "
        "--chat-template: {}",
        what, ChatTemplate::names()));
  return converse(record.messages);
}

SampleData SampleData::from_json_lines(const fs::path& path, const SampleOptions& options,
                                       const Tokenizer* tokenizer, FindTemplate find) {
  std::vector<std::string> notes;
  Counts counts;
  Sieve sieve(options, counts);
  SampleMaker maker(options, tokenizer, std::move(find));
  std::uintmax_t left = options.max_bytes;
  for (const fs::path& file : files_of(path, notes)) {
    const JsonLines lines = read_json_lines(file, left);
    left -= std::min(left, lines.bytes);
    for (const Record& record : lines.records) {
      ++counts.forms[record.form];
      sieve.take(maker.make(record, fmt::format("line {} of '{}'", record.line, file.string())));
    }
    if (!lines.complete)
      notes.push_back(fmt::format("of '{}' only the first {} read, up to --data-limit",
                                  file.string(),
                                  count_text(lines.records.size(), "sample was", "samples were")));
  }
  if (sieve.samples().empty())
    throw std::runtime_error(fmt::format(
        "'{}' must have samples to train on, but {}; give another file or folder with --data",
        path.string(),
        counts.forms.empty()
            ? std::string("none is in it")
            : fmt::format(
                  "{}", fmt::join(notes_of(counts, path, maker.chat_template(), options), "; "))));
  SampleData data(std::move(sieve.samples()), options);
  data.notes_ = notes_of(counts, path, maker.chat_template(), options);
  data.notes_.insert(data.notes_.end(), notes.begin(), notes.end());
  return data;
}

SampleData::SampleData(std::vector<Sample> samples, const SampleOptions& options)
    : options_(options) {
  if (!(options.validation_fraction >= 0.0 && options.validation_fraction < 1.0))
    throw std::invalid_argument(fmt::format(
        "the validation fraction must be in [0, 1), but it is {}; the usual value is 0.1",
        options.validation_fraction));
  // The samples with the smallest numbers of a fixed stream: the same for every seed of a run.
  const dropbp::CounterRandom random(0, split_stream, 0, 0);
  std::vector<std::size_t> order(samples.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return std::pair(random(i), i); });
  order.resize(static_cast<std::size_t>(
      std::floor(static_cast<double>(samples.size()) * options.validation_fraction)));
  std::vector<bool> held(samples.size());
  for (const std::size_t i : order) held[i] = true;
  for (std::size_t i = 0; i < samples.size(); ++i)
    (held[i] ? held_out_ : train_).push_back(std::move(samples[i]));
}

std::unique_ptr<BatchSource> SampleData::training(const BatchOptions& options) const {
  return std::make_unique<RowBatches>(SampleRows(train_, options.sequence, options_.pack), options);
}

std::unique_ptr<EvaluationSource> SampleData::validation(const BatchOptions& options) const {
  if (held_out_.empty()) return nullptr;
  return std::make_unique<RowEvaluation>(SampleRows(held_out_, options.sequence, options_.pack),
                                         options);
}

std::uint64_t SampleData::steps(std::uint64_t epochs, const BatchOptions& options) const {
  const std::uint64_t rows = SampleRows(train_, options.sequence, options_.pack).size(),
                      a_step = static_cast<std::uint64_t>(options.batch * options.micro_steps);
  return (epochs * rows + a_step - 1) / a_step;
}

std::string SampleData::size_text() const {
  std::size_t tokens = 0, labels = 0;
  for (const Sample& sample : train_) {
    tokens += sample.ids.size();
    labels += static_cast<std::size_t>(
        std::count(sample.learned.begin() + 1, sample.learned.end(), std::uint8_t{1}));
  }
  return fmt::format("{} samples of {} tokens, {} of them learned ({} samples held out)",
                     train_.size(), tokens, labels, held_out_.size());
}

std::string SampleData::identity() const {
  std::uint32_t sum = 0;
  for (const auto* const part : {&train_, &held_out_})
    for (const Sample& sample : *part) {
      const std::uint64_t size = sample.ids.size();
      sum = crc32c(sum, &size, sizeof size);
      sum = crc32c(sum, sample.ids.data(), sample.ids.size() * sizeof(std::int32_t));
      sum = crc32c(sum, sample.learned.data(), sample.learned.size());
    }
  return fmt::format("{} + {} {} samples of CRC-32C {:08x}", train_.size(), held_out_.size(),
                     options_.pack ? "packed" : "single", sum);
}

}  // namespace llama
