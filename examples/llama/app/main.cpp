// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// llama-finetune: trains a LLaMA-style model with the backward passes of random branches dropped.
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include <fmt/format.h>
#include <dropbp/interop/agreement.hpp>
#include <dropbp/version.hpp>

#include "llama/app/errors.hpp"
#include "llama/app/options.hpp"
#include "llama/app/ranks.hpp"
#include "llama/app/run.hpp"
#include "llama/app/standard_streams.hpp"

namespace {

using namespace llama;

int run_command_line(int argc, char** argv, Ranks& ranks) {
  const std::string version =
      fmt::format("{}.{}.{}", DROPBP_VERSION_MAJOR, DROPBP_VERSION_MINOR, DROPBP_VERSION_PATCH);
  const CommandLine command_line = parse_options(argc, argv, version);
  // Where ranks are several, one that fails ends the job: the others would wait for it.
  const auto failed = [&](const std::string& text, int code) {
    ranks.abort(text);
    say(text);
    return code;
  };
  try {
    if (command_line.options) return run(*command_line.options, ranks);
    if (command_line.exit_code == 0)
      print(command_line.text);
    else if (ranks.is_first())
      std::fputs(command_line.text.c_str(), stderr);
    return command_line.exit_code;
  } catch (const UsageError& error) {
    return failed(error.what(), 2);
  } catch (const dropbp::RanksDisagree&) {
    throw;
  } catch (const std::bad_alloc&) {
    return failed(
        "the model and its activations must fit the memory, but there is not enough: lower "
        "--batch, --sequence or the model's sizes, or raise --drop-rate",
        1);
  } catch (const std::exception& error) {
    return failed(error.what(), 1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_streams("llama-finetune");
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe ends the printing, not the training
  try {
    return run_ranks(argc, argv, [&](Ranks& ranks) {
      if (!ranks.is_first()) silence();
      return run_command_line(argc, argv, ranks);
    });
  } catch (const std::exception& error) {
    say(error.what());
    return 1;
  }
}
