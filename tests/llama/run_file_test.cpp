// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Options from a file, back into one, and completed by a shell.
#include <array>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "llama/app/options.hpp"
#include "llama/files.hpp"
#include "support/catch.hpp"

namespace {

using namespace llama;

CommandLine parse(std::vector<std::string> arguments) {
  std::vector<const char*> pointers{"llama-finetune"};
  for (const std::string& argument : arguments) pointers.push_back(argument.c_str());
  return parse_options(static_cast<int>(pointers.size()), pointers.data(), "1.2.3");
}

std::string output_of(const std::string& command) {
  std::FILE* const pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string text;
  std::array<char, 4096> buffer;
  for (std::size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    text.append(buffer.data(), n);
  CHECK(pclose(pipe) == 0);
  return text;
}

}  // namespace

TEST_CASE("config: a file gives options, and the command line goes before it") {
  const test::TemporaryFolder folder;
  const std::string file = (folder / "run.toml").string();
  test::write_bytes(
      file,
      "# a comment\nsteps = 300\ndrop-rate = 0.25\nquiet = true\n"
      "data = \"a folder/with spaces\"\nmode = \"lora\"\nlora-targets = \"q_proj\"\n");
  const CommandLine line = parse({"--config", file, "--steps", "7", "--seed", "3"});
  INFO(line.text);
  REQUIRE(line.options);
  CHECK(line.options->steps == 7);
  CHECK(line.options->seed == 3);
  CHECK(line.options->drop_rate == 0.25);
  CHECK(line.options->quiet);
  CHECK(line.options->data == "a folder/with spaces");
  CHECK(line.options->mode == ModeChoice::lora);
  CHECK(line.options->lora_targets == std::vector<std::string>{"q_proj"});
}

TEST_CASE("config: what is printed gives the same again") {
  const test::TemporaryFolder folder;
  const std::string file = (folder / "run.toml").string();
  const CommandLine printed = parse({"--print-config",
                                     "--steps",
                                     "12",
                                     "--data",
                                     "a 'b' c",
                                     "--mode",
                                     "qlora",
                                     "--rslora",
                                     "--dora",
                                     "--modules-to-save",
                                     "lm_head,norm",
                                     "--lora-rank-pattern",
                                     R"(layers\.0\..*=4,q_proj=2)",
                                     "--learning-rate",
                                     "3e-4",
                                     "--model",
                                     "m",
                                     "--out",
                                     R"(o"p)",
                                     "--sample-prompt",
                                     "",
                                     "--sample-every",
                                     "5"});
  INFO(printed.text);
  REQUIRE(printed.exit_code == 0);
  REQUIRE(!printed.options);
  test::write_bytes(file, printed.text);
  const CommandLine read = parse({"--config", file});
  INFO(read.text);
  REQUIRE(read.options);
  CHECK(read.options->steps == 12);
  CHECK(read.options->data == "a 'b' c");
  CHECK(read.options->out == R"(o"p)");
  CHECK(read.options->learning_rate == 3e-4);
  CHECK(read.options->rslora);
  CHECK(read.options->dora);
  CHECK(read.options->modules_to_save == std::vector<std::string>{"lm_head", "norm"});
  CHECK(read.options->lora_patterns.ranks == std::vector<std::pair<std::string, std::ptrdiff_t>>{
                                                 {R"(layers\.0\..*)", 4}, {"q_proj", 2}});
  CHECK(parse({"--config", file, "--print-config"}).text == printed.text);
  // Every option of the help stands in it.
  CHECK(printed.text.find("# warmup: ") != std::string::npos);
  CHECK(parse({"--print-config", "--data", "\"'"}).exit_code == 2);
}

TEST_CASE("config: a # within quotes is no comment") {
  const test::TemporaryFolder folder;
  const std::string file = (folder / "run.toml").string();
  test::write_bytes(file,
                    "steps = 30 # a comment with 'quotes\n  # another\n"
                    "data = \"c# and 'c'\"# the end\nout='#\\.\"'\nseed=2#\n");
  const CommandLine line = parse({"--config", file});
  INFO(line.text);
  REQUIRE(line.options);
  CHECK(line.options->steps == 30);
  CHECK(line.options->data == "c# and 'c'");
  CHECK(line.options->out == "#\\.\"");
  CHECK(line.options->seed == 2);
  const CommandLine printed = parse({"--config", file, "--print-config"});
  INFO(printed.text);
  REQUIRE(printed.exit_code == 0);
  test::write_bytes(file, printed.text);
  CHECK(parse({"--config", file, "--print-config"}).text == printed.text);
  // No form that all versions of the reader understand.
  CHECK(parse({"--print-config", "--data", "'\\"}).exit_code == 2);
}

TEST_CASE("config: what is wrong in a file is said as on the command line") {
  const test::TemporaryFolder folder;
  const std::string file = (folder / "run.toml").string();
  const auto message = [&](const char* text) {
    test::write_bytes(file, text);
    const CommandLine line = parse({"--config", file});
    CHECK(line.exit_code == 2);
    return line.text;
  };
  CHECK(message("steps = many\n").find("--steps must be a whole number") != std::string::npos);
  CHECK(message("stepz = 3\n").find("stepz") != std::string::npos);
  CHECK(message("[training]\nsteps = 3\n").find("training") != std::string::npos);
  CHECK(message("mode = \"lora\"\ndecay = 4\n").find("--decay is of --schedule wsd") !=
        std::string::npos);
  const CommandLine missing = parse({"--config", (folder / "none.toml").string()});
  CHECK(missing.exit_code == 2);
  CHECK(missing.text.find("--config must be a file that can be read") != std::string::npos);
}

TEST_CASE("completion: bash completes options and their choices") {
  const CommandLine line = parse({"--completion", "bash"});
  REQUIRE(line.exit_code == 0);
  const test::TemporaryFolder folder;
  const auto completed = [&](const std::string& words, int at) {
    test::write_bytes(folder / "try.sh", line.text + "COMP_WORDS=(" + words +
                                             ") COMP_CWORD=" + std::to_string(at) +
                                             "\n_llama_finetune\necho \"${COMPREPLY[@]}\"\n");
    return output_of("bash " + (folder / "try.sh").string());
  };
  CHECK(completed("llama-finetune --lora-r", 1) == "--lora-rank --lora-rank-pattern\n");
  CHECK(completed("llama-finetune --schedule ''", 2) == "cosine linear constant wsd\n");
  CHECK(completed("llama-finetune --schedule co", 2) == "cosine constant\n");
  CHECK(completed("llama-finetune --steps ''", 2) == "\n");
  CHECK(completed("llama-finetune --data " + (folder / "tr").string(), 2) ==
        (folder / "try.sh").string() + "\n");
  CHECK(parse({"--completion", "zsh"}).text.find("bashcompinit") != std::string::npos);
  CHECK(parse({"--completion", "fish"}).text.find("-l schedule -x -a 'cosine") !=
        std::string::npos);
  CHECK(parse({"--completion", "csh"}).exit_code == 2);
}
