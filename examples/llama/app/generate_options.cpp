// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/generate_options.hpp"

#include <limits>
#include <utility>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "llama/app/flags.hpp"

namespace llama {
namespace {

void declare(CLI::App& app, Flags::Conversions& conversions, GenerateOptions& o) {
  Flags flags(app, conversions);
  flags.group("Model");
  flags.path("--model", o.model, "DIR", "Hugging Face LLaMA folder");
  flags.path("--adapter", o.adapter, "DIR", "adapter in PEFT's format over it [default none]");
  flags.path("--tokenizer", o.tokenizer, "FILE",
             "tokenizer.json [default that of the model; without one, text is bytes]");

  flags.group("Text");
  flags.text("--prompt", o.prompt, "TEXT",
             "what is completed [default each line of standard input, one after the other]");
  flags.toggle("--chat", o.chat,
               "prompts are what a user says in one conversation, written as the model's chat "
               "template does");
  flags.name("--chat-template", o.chat_template,
             "one by its name, such as chatml, in place of the model's [default none]");
  flags.text("--system", o.system, "TEXT",
             "system message of the conversation [default the template's own, if it has one]");
  flags.path("--perplexity", o.perplexity, "FILE",
             "print how well the model predicts this text, and write none [default none]");

  flags.group("Sampling");
  flags.real(
      "--temperature", o.sampling.temperature, "[0, 100]",
      [](double x) { return x >= 0.0 && x <= 100.0; }, "X",
      "divides the logits; 0 takes the most probable token each time");
  flags.real(
      "--top-p", o.sampling.top_p, "(0, 1]", [](double x) { return x > 0.0 && x <= 1.0; }, "P",
      "draws from the most probable tokens that together have this share");
  flags.integer<std::uint64_t>("--seed", o.sampling.seed, 0,
                               std::numeric_limits<std::uint64_t>::max(), "N",
                               "random number that fixes the draws");
  flags.integer<std::ptrdiff_t>("--max-tokens", o.max_tokens, 1, 1 << 20, "N",
                                "most tokens that are written for a prompt");
  flags.integer<std::ptrdiff_t>("--context", o.context, 2, 1 << 20, "N",
                                "most tokens of prompt and text together; with --perplexity, of "
                                "the windows that the file is cut into");
  flags.integer<int>("--threads", o.threads, 0, 4096, "N", "threads", "0, all cores");
}

void check(const GenerateOptions& o) {
  if (!o.model)
    throw UsageError("a model is needed to write text, but no --model was given; add it");
  if (o.perplexity && (!o.prompt.empty() || o.chat))
    throw UsageError(
        fmt::format("--perplexity writes no text, but {} was given; leave one of the two out",
                    o.chat ? "--chat" : "--prompt"));
  if (!o.chat && (o.chat_template || !o.system.empty()))
    throw UsageError(fmt::format("{} is of a conversation, but --chat was not given; add it",
                                 o.chat_template ? "--chat-template" : "--system"));
}

}  // namespace

GenerateCommand parse_generate_options(int argc, const char* const* argv,
                                       std::string_view version) {
  CLI::App app("Writes text with a LLaMA-style model, or measures how well it predicts one.",
               "llama-generate");
  app.set_version_flag("--version", fmt::format("llama-generate {}", version),
                       "print the version and exit")
      ->group("Help");
  app.set_help_flag("-h,--help", "print this and exit")->group("Help");
  app.footer(
      "Exit code: 0 done, 1 a file or the machine failed, 2 wrong usage.\n"
      "Example: llama-generate --model my/model --chat --prompt 'What is a kernel?'");
  GenerateOptions options;
  Flags::Conversions conversions;
  declare(app, conversions, options);
  try {
    app.parse(argc, argv);
    for (const auto& convert_one : conversions) convert_one();
    check(options);
  } catch (const CLI::CallForHelp&) {
    return {std::nullopt, 0, app.help()};
  } catch (const CLI::CallForVersion& line) {
    return {std::nullopt, 0, fmt::format("{}\n", line.what())};
  } catch (const CLI::Error& error) {
    return {std::nullopt, 2,
            fmt::format("llama-generate: the command line must consist of known options with one "
                        "value each, but: {}; see llama-generate --help\n",
                        error.what())};
  } catch (const UsageError& error) {
    return {std::nullopt, 2, fmt::format("llama-generate: {}\n", error.what())};
  }
  return {std::move(options), 0, {}};
}

}  // namespace llama
