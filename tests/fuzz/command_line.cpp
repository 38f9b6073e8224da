// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Command lines of both programs: lines of the input up to a NUL are arguments, the word "@" is a
// file with the rest, for --config. What --print-config prints gives itself again.
#include <unistd.h>

#include <string>
#include <vector>

#include "fuzz.hpp"
#include "llama/app/generate_options.hpp"
#include "llama/app/options.hpp"

namespace {

llama::CommandLine parse(const std::vector<std::string>& words) {
  std::vector<const char*> arguments{"llama-finetune"};
  for (const std::string& word : words) arguments.push_back(word.c_str());
  return llama::parse_options(static_cast<int>(arguments.size()), arguments.data(), "1.2.3");
}

void check_line(const auto& line) {
  fuzz::require(line.exit_code == 0 || line.exit_code == 2, "an unknown exit code");
  fuzz::require(line.options.has_value() == line.text.empty(), "either options or a text");
  fuzz::require(!line.options || line.exit_code == 0, "options with an error");
}

void check_options(const llama::Options& o) {
  fuzz::require(!llama::problem_of(o.shape), "accepted options of an impossible model");
  fuzz::require(o.drop_rate >= 0.0 && o.drop_rate <= 1.0, "a drop rate outside [0, 1]");
  fuzz::require(o.batch > 0 && o.sequence > 0 && o.micro_steps > 0, "an empty batch");
  fuzz::require(!(o.data && o.tokens), "text and tokens");
  fuzz::require(o.learning_rate > 0.0 && o.learning_rate < 1e30, "a wrong learning rate");
  (void)llama::warnings_of(o, 4);
}

/// Of accepted words. A value that no file can hold is refused.
void check_printed(std::vector<std::string> words, const fuzz::MemoryFile& memory) {
  words.emplace_back("--print-config");
  const llama::CommandLine printed = parse(words);
  check_line(printed);
  if (printed.exit_code != 0) return;
  memory.write(printed.text);
  const llama::CommandLine again = parse({"--config", memory.path(), "--print-config"});
  fuzz::require(again.exit_code == 0, "a printed config is refused: " + again.text);
  fuzz::require(again.text == printed.text, "a printed config is another one when read");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::MemoryFile memory;
  fuzz::Input input(data, size);
  std::vector<std::string> words;
  fuzz::Input lines(data, input.until('\0').size());
  while (!lines.empty()) {
    std::string word(lines.until('\n'));
    std::erase(word, '/');  // no file of the machine is read
    words.push_back(word == "@" ? memory.path() : word);
  }
  memory.write(input.rest());
  std::vector<const char*> arguments{"llama-generate"};
  for (const std::string& word : words) arguments.push_back(word.c_str());
  check_line(
      llama::parse_generate_options(static_cast<int>(arguments.size()), arguments.data(), "1.2.3"));

  const llama::CommandLine line = parse(words);
  check_line(line);
  if (line.options) {
    check_options(*line.options);
    check_printed(words, memory);
  }
  return 0;
}
