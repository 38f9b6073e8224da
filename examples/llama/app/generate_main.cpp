// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// llama-generate: writes text with a model that llama-finetune trained, or any other of its format.
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include <fmt/format.h>
#include <dropbp/version.hpp>

#include "llama/app/errors.hpp"
#include "llama/app/generate.hpp"
#include "llama/app/generate_options.hpp"
#include "llama/app/standard_streams.hpp"

int main(int argc, char** argv) {
  using namespace llama;
  open_standard_streams("llama-generate");
  const std::string version =
      fmt::format("{}.{}.{}", DROPBP_VERSION_MAJOR, DROPBP_VERSION_MINOR, DROPBP_VERSION_PATCH);
  const GenerateCommand command_line = parse_generate_options(argc, argv, version);
  try {
    if (command_line.options) {
      generate(*command_line.options);
      return 0;
    }
    if (command_line.exit_code == 0)
      print(command_line.text);
    else
      std::fputs(command_line.text.c_str(), stderr);
    return command_line.exit_code;
  } catch (const UsageError& error) {
    say(error.what());
    return 2;
  } catch (const std::bad_alloc&) {
    say("the model and its cache must fit the memory, but there is not enough: lower --context");
  } catch (const std::exception& error) {
    say(error.what());
  }
  return 1;
}
