// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which lines are samples, and what is said of those that are not.
#include "llama/formats/json_lines.hpp"

#include <initializer_list>
#include <string>
#include <string_view>

#include "llama/files.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;

void fails(std::string_view line, std::initializer_list<std::string_view> parts) {
  INFO(line);
  test::check_throws<std::runtime_error>([&] { (void)parse_record(line, "line 3 of 'x'"); }, parts);
}

}  // namespace

TEST_CASE("json lines: each form has its keys, and others are not read") {
  const Record text = parse_record(R"({"text": "a\n\u00e9", "id": 7, "meta": {"text": []}})", "x");
  CHECK(text.form == RecordForm::text);
  CHECK(text.text == "a\n\u00e9");
  const Record completion = parse_record(R"({"prompt": "p", "completion": "", "text": 3})", "x");
  CHECK(completion.form == RecordForm::completion);
  CHECK(completion.prompt == "p");
  CHECK(completion.completion.empty());
  const Record alpaca =
      parse_record(R"({"instruction": "i", "input": "n", "output": "o", "text": "t"})", "x");
  CHECK(alpaca.form == RecordForm::instruction);
  CHECK(alpaca.instruction + alpaca.input + alpaca.output == "ino");
  for (const char* line : {R"({"instruction": "i", "output": "o"})",
                           R"({"instruction": "i", "input": null, "output": "o"})"})
    CHECK(parse_record(line, "x").input.empty());
  CHECK(parse_record(R"({"text": "t", "prompt": "p", "completion": "c", "instruction": "i",
          "output": "o", "messages": [{"role": "assistant", "content": "a"}]})",
                     "x")
            .form == RecordForm::messages);
  CHECK(parse_record(R"({"text": "t", "prompt": "p", "completion": "c", "instruction": "i",
          "output": "o"})",
                     "x")
            .form == RecordForm::completion);
  // Half of a form's keys are no sign of it.
  for (const char* line : {R"({"text": "t", "prompt": "p"})", R"({"text": "t", "completion": "c"})",
                           R"({"text": "t", "instruction": "i"})",
                           R"({"text": "t", "output": "o"})", R"({"text": "t", "input": "n"})"})
    CHECK(parse_record(line, "x").text == "t");
  const Record chat = parse_record(
      R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
          {"role": "assistant", "content": "a", "tool_calls": null}], "tools": []})",
      "x");
  CHECK(chat.form == RecordForm::messages);
  REQUIRE(chat.messages.size() == 3);
  CHECK(chat.messages[0].role == "system");
  CHECK(chat.messages[2].content == "a");
}

TEST_CASE("json lines: a wrong line is an error with its place and what was expected") {
  const std::string_view place = "line 3 of 'x'";
  fails("{}", {place, "'messages', 'prompt' and 'completion'", "none is there"});
  fails(R"({"prompt": "p", "answer": "a"})", {place, "has 'answer', 'prompt'", "rename the keys"});
  fails(R"({"text": 3})", {place, "a string as 'text'", "it is 3"});
  fails(R"({"text": null})", {place, "a string as 'text'", "null"});
  fails(R"({"prompt": ["p"], "completion": "c"})", {place, "'prompt'", R"(["p"])"});
  fails(R"({"instruction": "i", "output": {}})", {place, "'output'", "{}"});
  fails(R"({"instruction": "i", "input": 1, "output": "o"})", {place, "'input'", "it is 1"});
  fails(R"(["text"])", {place, "one JSON object"});
  fails(R"({"text": "a"} {"text": "b"})", {place, "one JSON object"});
  fails(R"({"text": "a", "text": "b"})", {place, "'text' occurs twice"});
  fails(R"({"text": "a)", {place, "one JSON object"});
  fails("{\"text\": \"\xff\"}", {place, "UTF-8"});
  fails(R"({"messages": "u"})", {place, "a list of messages", "\"u\""});
  fails(R"({"messages": []})", {place, "a list of messages", "[]"});
  fails(R"({"messages": ["u"]})", {"message 1 of line 3", "role and content"});
  fails(R"({"messages": [{"role": "user"}]})", {"message 1 of", "'content'", "missing"});
  fails(R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})", {"'content'"});
  fails(R"({"messages": [{"role": "user", "content": "u"}]})", {place, "role assistant", "none"});
  fails(R"({"messages": [{"role": "human", "content": "u"}]})", {"message 1", "it is 'human'"});
  fails(R"({"messages": [{"role": "user", "content": "u"}, {"role": "system", "content": "s"}]})",
        {"message 2", "behind the first"});
  fails(R"({"messages": [{"role": "assistant", "content": "u", "tool_calls": [1]}]})",
        {"message 1", "tool_calls"});
  fails(R"({"messages": [{"role": "assistant", "content": "u"}], "tools": [1]})",
        {place, "without 'tools'"});
}

TEST_CASE("json lines: a file is read line by line, to its limit") {
  const test::TemporaryFolder folder;
  test::write_bytes(folder / "a.jsonl",
                    "\xEF\xBB\xBF{\"text\": \"one\"}\r\n\n   \n {\"text\": \"two\"}\n"
                    "{\"text\": \"three\"}");
  const JsonLines all = read_json_lines(folder / "a.jsonl", 1 << 20);
  REQUIRE(all.records.size() == 3);
  CHECK(all.complete);
  CHECK(all.records[0].text == "one");
  CHECK(all.records[1].text == "two");
  CHECK(all.records[1].line == 4);
  CHECK(all.records[2].line == 5);
  const JsonLines two = read_json_lines(folder / "a.jsonl", 30);
  CHECK(two.records.size() == 2);
  CHECK_FALSE(two.complete);
  CHECK(two.bytes >= 30);

  test::write_bytes(folder / "b.jsonl", "{\"text\": \"one\"}\n\n{\"text\": 2}\n");
  test::check_throws<std::runtime_error>(
      [&] { (void)read_json_lines(folder / "b.jsonl", 1 << 20); },
      {"line 3 of '" + (folder / "b.jsonl").string() + "'", "a string as 'text'"});
  test::write_bytes(folder / "c.jsonl", "\x1F\x8B rest");
  test::check_throws<std::runtime_error>([&] { (void)read_json_lines(folder / "c.jsonl", 99); },
                                         {"c.jsonl' must be JSON lines", "a gzip file"});
  test::write_bytes(folder / "d.jsonl", "[{\"text\": \"one\"}]\n");
  test::check_throws<std::runtime_error>([&] { (void)read_json_lines(folder / "d.jsonl", 99); },
                                         {"d.jsonl' must be JSON lines", "a JSON list"});
  CHECK(read_json_lines(folder / "a.jsonl", 0).records.empty());
}
