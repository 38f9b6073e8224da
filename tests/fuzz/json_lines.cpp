// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Training data of JSON lines, up to rows of samples. The first byte chooses how, the second the
// chat template.
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "fuzz.hpp"
#include "llama/app/errors.hpp"
#include "llama/app/sample_rows.hpp"
#include "llama/app/samples.hpp"
#include "llama/formats/chat_styles.hpp"
#include "llama/formats/chat_template.hpp"
#include "llama/formats/json_lines.hpp"

namespace {

constexpr std::ptrdiff_t sequence = 64;  // a short conversation

/// All that have a name, with the tokens that some need.
const std::vector<llama::ChatTemplate>& chat_templates() {
  static const auto all = [] {
    const fuzz::TemporaryFolder folder;
    std::ofstream(folder.path() + "/tokenizer_config.json")
        << R"({"bos_token":"<s>","eos_token":"</s>"})";
    std::vector<llama::ChatTemplate> templates;
    for (const llama::ChatStyle& style : llama::chat_styles())
      templates.push_back(llama::ChatTemplate::named(style.name, folder.path()));
    return templates;
  }();
  return all;
}

void check_batches(const llama::SampleData& data) {
  const llama::BatchOptions options{
      .batch = 2, .sequence = sequence, .micro_steps = 1, .seed = 1, .eval_batches = 2};
  const auto source = data.training(options);
  llama::Batch batch;
  for (std::uint64_t step = 0; step < 3; ++step) {
    source->fill(step, 0, batch);
    const auto tokens = static_cast<std::size_t>(batch.shape.tokens());
    fuzz::require(batch.inputs.size() == tokens && batch.labels.size() == tokens,
                  "a batch is not of its shape");
    for (const std::int32_t id : batch.inputs)
      fuzz::require(id >= 0 && id < 256, "an id beyond the vocabulary");
    for (const std::int32_t id : batch.labels) fuzz::require(id < 256, "a label beyond it");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace llama;
  static const fuzz::MemoryFile memory;
  fuzz::Input input(data, size);
  const std::size_t choice = input.below(16), style = input.below(chat_templates().size());
  memory.write(input.rest());
  SampleOptions options{.sequence = sequence,
                        .validation_fraction = (choice & 8u) != 0 ? 0.25 : 0.0};
  if ((choice & 1u) != 0) options.loss_on = LossChoice::all;
  if ((choice & 2u) != 0) options.long_samples = LongSamples::skip;
  options.pack = (choice & 4u) != 0;
  const ChatTemplate& chat = chat_templates()[style];
  const auto find = [&] { return std::optional(chat); };
  std::optional<SampleData> samples;
  if (fuzz::accepts<std::runtime_error>(
          [&] { samples = SampleData::from_json_lines(memory.path(), options, nullptr, find); }))
    fuzz::accepts<std::runtime_error>([&] { check_batches(*samples); });
  fuzz::accepts<std::runtime_error>([&] { (void)parse_record(input.rest(), "the input"); });
  return 0;
}
