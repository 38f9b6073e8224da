// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/generate.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <dropbp/kernels/cpu/parallel.hpp>

#include "llama/app/errors.hpp"
#include "llama/app/perplexity.hpp"
#include "llama/app/progress.hpp"
#include "llama/app/standard_streams.hpp"
#include "llama/app/text_codec.hpp"
#include "llama/formats/chat_template.hpp"
#include "llama/formats/lora_patterns.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/formats/strict_json.hpp"
#include "llama/model/adapter.hpp"
#include "llama/model/cached_forward.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;

/// The tokenizer that the ids of the model are of; none where they are bytes.
std::optional<fs::path> tokenizer_of(const GenerateOptions& options, const LlamaConfig& config) {
  if (options.tokenizer) return options.tokenizer;
  const fs::path own = find_companion(*options.model, "tokenizer.json");
  if (fs::is_regular_file(own)) return own;
  if (config.vocabulary != 256)
    throw UsageError(fmt::format(
        "a model with a vocabulary of {} needs its tokenizer, but '{}' has no tokenizer.json; give "
        "it with --tokenizer",
        config.vocabulary, options.model->string()));
  return std::nullopt;
}

/// The text of a conversation, by whatever knows the model's way to write one.
class Conversation {
 public:
  explicit Conversation(const GenerateOptions& options)
      : template_(options.chat_template
                      ? ChatTemplate::named(*options.chat_template, *options.model)
                      : own_template(*options.model)) {
    if (!options.system.empty()) messages_.push_back({.role = "system", .content = options.system});
  }

  /// All that was said, with the begin of the next answer.
  std::string ask(std::string question) {
    messages_.push_back({.role = "user", .content = std::move(question)});
    std::string text;
    for (const Part& part : template_.render(messages_, true)) text += part.text;
    return text;
  }
  void answered(std::string answer) {
    messages_.push_back({.role = "assistant", .content = std::move(answer)});
  }
  /// What the template writes behind an answer.
  [[nodiscard]] std::string close() const {
    const Message said[] = {{.role = "user", .content = "a"},
                            {.role = "assistant", .content = "b"}};
    std::string text;
    for (const Part& part : template_.render(said))
      if (part.learned) text += part.text;
    return text.substr(std::min(text.size(), text.rfind('b') + 1));
  }

 private:
  static ChatTemplate own_template(const fs::path& folder) {
    if (auto own = ChatTemplate::of_folder(folder)) return *own;
    throw UsageError(
        fmt::format("--chat writes as the model's chat template does, but '{}' has none; give one "
                    "of {} with --chat-template",
                    folder.string(), ChatTemplate::names()));
  }

  ChatTemplate template_;
  std::vector<Message> messages_;
};

/// Writes on after what it has seen, of which what a new prompt repeats is not computed again.
class Writer {
 public:
  Writer(const GenerateOptions& options, LlamaModel<float>& model, const TextCodec& codec,
         std::vector<std::int32_t> ends)
      : options_(options),
        codec_(codec),
        ends_(std::move(ends)),
        forward_(model, model.max_sequence()) {}

  /// Prints the completion as it comes, and returns it.
  std::string write(const std::vector<std::int32_t>& prompt) {
    const auto room = static_cast<std::size_t>(options_.context);
    if (prompt.empty() || prompt.size() >= room)
      throw UsageError(fmt::format(
          "a prompt must have from 1 to {} tokens, to leave room in --context {}, but it has {}; "
          "shorten it or raise --context",
          room - 1, room, prompt.size()));
    // The last token of the prompt is computed in any case: its logits are needed.
    const auto same = std::ranges::mismatch(seen_, prompt).in1 - seen_.begin();
    const auto known = std::min(static_cast<std::size_t>(same), prompt.size() - 1);
    forward_.keep_first(static_cast<Index>(known));
    seen_.assign(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(known));
    std::string text;
    (void)complete(
        std::span(prompt).subspan(known), options_.sampling,
        {.most_tokens =
             std::min(static_cast<std::size_t>(options_.max_tokens), room - prompt.size()),
         .ends = ends_},
        [&](std::span<const std::int32_t> ids) {
          seen_.insert(seen_.end(), ids.begin(), ids.end());
          return forward_.next(ids);
        },
        [&](std::int32_t id) {
          const std::string piece = codec_.text_of(id);
          print(piece);
          text += piece;
          return true;
        });
    print("\n");
    return text;
  }

 private:
  const GenerateOptions& options_;
  const TextCodec& codec_;
  std::vector<std::int32_t> ends_;
  CachedForward<float> forward_;
  std::vector<std::int32_t> seen_;  // the tokens that forward_ keeps
};

void print_perplexity(const GenerateOptions& options, LlamaModel<float>& model,
                      const TextCodec& codec) {
  const std::string text = read_small_file(*options.perplexity);
  const std::vector<std::int32_t> ids = codec.beginning(text);
  const Prediction p = predict(model, ids, static_cast<std::size_t>(options.context));
  print(
      fmt::format("{} tokens of {} bytes: {:.4f} nats per token, perplexity {:.3f}, {:.4f} bits "
                  "per byte\n",
                  p.tokens, text.size(), p.mean(), std::exp(p.mean()),
                  p.nats / std::log(2.0) / static_cast<double>(text.size())));
}

/// The prompt of the command line, or each line of standard input.
void for_each_prompt(const GenerateOptions& options, const auto& use) {
  if (!options.prompt.empty()) return use(options.prompt);
  const bool invites = is_terminal(stdin);
  const auto next_line = [&](std::string& line) {
    if (invites) std::fputs("> ", stderr);
    return static_cast<bool>(std::getline(std::cin, line));
  };
  for (std::string line; next_line(line);)
    if (!line.empty()) use(line);
}

}  // namespace

void generate(const GenerateOptions& options) {
  dropbp::ops::set_thread_count(options.threads);
  const LlamaConfig config = load_config(*options.model, say);
  const TextCodec codec(tokenizer_of(options, config));
  std::optional<Conversation> conversation;
  if (options.chat) conversation.emplace(options);
  ModelOptions model_options;
  if (options.adapter)
    model_options.lora = load_adapter_config(*options.adapter, linear_names(config));
  model_options.lora.dropout = 0.0;  // of training
  if (options.context > config.max_positions)
    say(
        fmt::format("--context {} is more than the {} tokens that the model was made for: beyond "
                    "them it may write nonsense",
                    options.context, config.max_positions));
  LlamaModel<float> model(config, options.context, model_options);
  load_weights(*options.model, model);
  if (options.adapter) load_adapter(*options.adapter, model);
  if (options.perplexity) return print_perplexity(options, model, codec);

  std::vector<std::int32_t> ends = codec.ends(*options.model);
  if (conversation)
    if (const auto close = codec.encode(conversation->close()); !close.empty())
      ends.push_back(close.front());
  Writer writer(options, model, codec, std::move(ends));
  for_each_prompt(options, [&](const std::string& prompt) {
    if (!conversation) return void(writer.write(codec.beginning(prompt)));
    conversation->answered(writer.write(codec.encode(conversation->ask(prompt))));
  });
}

}  // namespace llama
