// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// llama-finetune: trains a LLaMA-style model with the backward passes of random branches dropped.
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include <fmt/format.h>
#include <dropbp/version.hpp>

#include "llama/app/errors.hpp"
#include "llama/app/options.hpp"
#include "llama/app/run.hpp"
#include "llama/app/standard_streams.hpp"

int main(int argc, char** argv) {
  using namespace llama;
  open_standard_streams("llama-finetune");
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe ends the printing, not the training
  const std::string version =
      fmt::format("{}.{}.{}", DROPBP_VERSION_MAJOR, DROPBP_VERSION_MINOR, DROPBP_VERSION_PATCH);
  const CommandLine command_line = parse_options(argc, argv, version);
  try {
    if (command_line.options) return run(*command_line.options);
    if (command_line.exit_code == 0)
      print(command_line.text);
    else
      std::fputs(command_line.text.c_str(), stderr);
    return command_line.exit_code;
  } catch (const UsageError& error) {
    say(error.what());
    return 2;
  } catch (const std::bad_alloc&) {
    say("the model and its activations must fit the memory, but there is not enough: lower "
        "--batch, --sequence or the model's sizes, or raise --drop-rate");
  } catch (const std::exception& error) {
    say(error.what());
  }
  return 1;
}
