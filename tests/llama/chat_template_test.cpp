// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Conversations as the published templates write them, and templates that are not known.
#include "llama/formats/chat_template.hpp"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "llama/files.hpp"
#include "llama/formats/chat_styles.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using nlohmann::json;

constexpr const char* tokens =
    R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}})";

std::vector<Message> messages_of(const json& list) {
  std::vector<Message> messages;
  for (const json& one : list)
    messages.push_back({one["role"].get<std::string>(), one["content"].get<std::string>()});
  return messages;
}

std::string joined(const std::vector<Part>& parts) {
  std::string text;
  for (const Part& part : parts) text += part.text;
  return text;
}

/// The text of the parts that are learned, each in brackets.
std::string learned(const std::vector<Part>& parts) {
  std::string text;
  for (const Part& part : parts)
    if (part.learned) text += "[" + part.text + "]";
  return text;
}

}  // namespace

TEST_CASE("chat template: conversations are written as the published templates write them") {
  const test::TemporaryFolder folder;
  test::write_bytes(folder / "tokenizer_config.json", tokens);
  const json golden = json::parse(test::read_bytes(DROPBP_TEST_DATA "/chat/golden.json"));
  const json& conversations = golden["conversations"];
  std::size_t texts = 0, refused = 0;
  for (const json& one : golden["templates"]) {
    const auto found = ChatTemplate::known(one["size"].get<std::size_t>(),
                                           one["crc32c"].get<std::uint32_t>(), folder.path());
    INFO(one["size"] << " bytes: " << (found ? found->name() : "unknown"));
    REQUIRE(found);
    const auto check = [&](const json& conversation, const json& text, bool begin_answer) {
      const std::vector<Message> messages = messages_of(conversation);
      INFO(conversation.dump());
      // A template that would leave a message out is refused, where transformers does not say so.
      std::string system = messages.front().role == "system" ? messages.front().content : "";
      for (const std::string word : {"/system_override", "/no_think", "/think"})  // SmolLM3's
        if (found->name() == "smollm3" && system.find(word) != std::string::npos)
          system.erase(system.find(word), word.size());
      std::erase_if(system, [](char c) { return c == ' ' || c == '\n'; });
      std::string bare = text.is_string() ? text.get<std::string>() : "";
      std::erase_if(bare, [](char c) { return c == ' ' || c == '\n'; });
      const bool drops = text.is_string() && bare.find(system) == std::string::npos;
      if (text.is_null() || drops) {
        CHECK_THROWS_AS(found->render(messages, begin_answer), std::runtime_error);
        ++refused;
        return;
      }
      CHECK(joined(found->render(messages, begin_answer)) == text.get<std::string>());
      ++texts;
    };
    REQUIRE(one["texts"].size() == conversations.size());
    REQUIRE(one["begun"].size() == conversations.size());
    for (std::size_t i = 0; i < conversations.size(); ++i) {
      check(conversations[i], one["texts"][i], false);
      if (conversations[i].back()["role"] == "user") check(conversations[i], one["begun"][i], true);
    }
  }
  CHECK(golden["templates"].size() == known_templates().size());
  CHECK(texts > 550);
  CHECK(refused > 70);
}

TEST_CASE("chat template: what the assistant says is learned, with the end of its turn") {
  const test::TemporaryFolder folder;
  test::write_bytes(folder / "tokenizer_config.json", tokens);
  const std::vector<Message> messages{
      {"user", "u"}, {"assistant", "a"}, {"user", "v"}, {"assistant", "b"}};
  const auto learned_by = [&](const char* name) {
    return learned(ChatTemplate::named(name, folder.path()).render(messages));
  };
  CHECK(learned_by("chatml") == "[a<|im_end|>][b<|im_end|>]");
  CHECK(learned_by("llama2") == "[ a </s>][ b </s>]");
  CHECK(learned_by("llama3") == "[a<|eot_id|>][b<|eot_id|>]");
  CHECK(learned_by("gemma") == "[a<end_of_turn>][b<end_of_turn>]");
  CHECK(learned_by("qwen3") == "[a<|im_end|>][<think>\n\n</think>\n\nb<|im_end|>]");
  CHECK(learned_by("smollm3") == "[a<|im_end|>][b<|im_end|>]");
  CHECK(learned(ChatTemplate::named("smollm3", folder.path())
                    .render(std::vector<Message>{{"system", "/no_think"}, {"assistant", "a"}})) ==
        "[a<|im_end|>]");
  CHECK(learned_by("phi3") == "[a<|end|>][b<|end|>]");
  CHECK(learned_by("zephyr") == "[a</s>][b</s>]");
}

TEST_CASE("chat template: a folder's own is found, and one that is not known is an error") {
  const test::TemporaryFolder folder;
  CHECK_FALSE(ChatTemplate::of_folder(folder.path()));
  test::write_bytes(folder / "tokenizer_config.json", tokens);
  CHECK_FALSE(ChatTemplate::of_folder(folder.path()));

  const std::string chatml =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
      "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
      "{{ '<|im_start|>assistant\\n' }}{% endif %}";
  json config = json::parse(tokens);
  const auto found_with = [&](const json& value) {
    config["chat_template"] = value;
    test::write_bytes(folder / "tokenizer_config.json", config.dump());
    const auto found = ChatTemplate::of_folder(folder.path());
    return found ? std::string(found->name()) : "none";
  };
  CHECK(found_with(chatml) == "chatml");
  CHECK(found_with(chatml + "\n") == "chatml");
  CHECK(found_with({{{"name", "tool_use"}, {"template", "x"}},
                    {{"name", "default"}, {"template", chatml}}}) == "chatml");
  CHECK(found_with(nullptr) == "none");
  test::check_throws<std::runtime_error>(
      [&] { (void)found_with("{{ messages }}"); },
      {"tokenizer_config.json' must be one that this program knows", "14 bytes", "--chat-template",
       "chatml", "'prompt' and 'completion'"});
  // The file of its own counts more.
  test::write_bytes(folder / "chat_template.jinja", chatml);
  CHECK(ChatTemplate::of_folder(folder.path()));
  test::write_bytes(folder / "chat_template.jinja", "{{ messages }}");
  test::check_throws<std::runtime_error>([&] { (void)ChatTemplate::of_folder(folder.path()); },
                                         {"chat_template.jinja' must be one"});

  test::check_throws<std::runtime_error>(
      [&] { (void)ChatTemplate::named("chatmm", folder.path()); }, {"must be one of", "'chatmm'"});
  test::write_bytes(folder / "tokenizer_config.json", R"({"bos_token": "<s>"})");
  test::check_throws<std::runtime_error>(
      [&] { (void)ChatTemplate::named("llama2", folder.path()); },
      {"needs the tokenizer's 'eos_token'"});
  CHECK_NOTHROW(ChatTemplate::named("chatml", folder.path()));
}
