// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/run_file.hpp"

#include <algorithm>
#include <memory>
#include <sstream>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include "llama/app/errors.hpp"

namespace llama {
namespace {

constexpr const char* own_group = "Options in a file";

std::string long_name(const CLI::Option& option) {
  return option.get_lnames().empty() ? std::string() : option.get_lnames().front();
}

/// "a|b" of an option that takes one of them; empty for others.
std::vector<std::string> choices_of(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  if (type.find('|') == type.npos) return {};
  return CLI::detail::split(type, '|');
}

bool takes_path(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  return type == "PATH" || type == "FILE" || type == "DIR";
}

/// CLI11's reader takes a # within quotes for a comment too, and would cut the value there.
class TomlFile : public CLI::ConfigBase {
 public:
  TomlFile() { comment('\0'); }

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::string text;
    for (std::string line; std::getline(input, line);)
      text += line.substr(0, comment_begin(line)) + '\n';
    std::istringstream without_comments(text);
    return ConfigBase::from_config(without_comments);
  }

 private:
  static std::size_t comment_begin(const std::string& line) {
    char quote = '\0';
    for (std::size_t i = 0; i < line.size(); ++i) {
      const char c = line[i];
      if (quote != '\0' ? c == quote : c == '"' || c == '\'')
        quote = quote == '\0' ? c : '\0';
      else if (quote == '\0' && c == '#')
        return i;
    }
    return line.size();
  }
};

/// What CLI11 gives back as `text`: a number or a word as it is, all else in quotes. Versions of it
/// differ in escapes between double quotes, so that single ones come first, and a text with single
/// quotes and double ones or backslashes has no form.
std::string toml_value(const std::string& name, const std::string& text) {
  const bool plain = !text.empty() && std::ranges::all_of(text, [](char c) {
    return (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '+' || c == 'e';
  });
  if (plain || text == "true" || text == "false") return text;
  if (text.find_first_of("\n\r") != text.npos ||
      (text.find_first_of("\"\\") != text.npos && text.find('\'') != text.npos))
    throw UsageError(fmt::format(
        "--print-config must write --{} on one line, between single quotes, or between double "
        "ones without backslashes, but it is '{}'; give it on the command line only",
        name, text));
  const char quote = text.find('\'') == text.npos ? '\'' : '"';
  return fmt::format("{}{}{}", quote, text, quote);
}

std::string bash_script(const std::string& program, const CLI::App& app) {
  std::string words, cases;
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = long_name(*option);
    if (name.empty()) continue;
    words += (words.empty() ? "--" : " --") + name;
    if (const auto choices = choices_of(*option); !choices.empty())
      cases += fmt::format("    --{}) words='{}' ;;\n", name, fmt::join(choices, " "));
    else if (takes_path(*option))
      cases += fmt::format("    --{}) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n", name);
    else if (option->get_items_expected_max() > 0)
      cases += fmt::format("    --{}) return ;;\n", name);  // a number or a text
  }
  std::string function = program;
  std::ranges::replace(function, '-', '_');
  return fmt::format(
      "_{0}() {{\n"
      "  local word=${{COMP_WORDS[COMP_CWORD]}} words='{2}'\n"
      "  case ${{COMP_WORDS[COMP_CWORD-1]}} in\n{3}  esac\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
      "}}\n"
      "complete -o filenames -F _{0} {1}\n",
      function, program, words, cases);
}

std::string fish_script(const std::string& program, const CLI::App& app) {
  std::string lines = fmt::format("complete -c {} -f\n", program);
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = long_name(*option);
    if (name.empty()) continue;
    std::string help = option->get_description().substr(0, option->get_description().find(';'));
    std::erase(help, '\'');
    std::erase(help, '\\');
    std::string value;
    if (const auto choices = choices_of(*option); !choices.empty())
      value = fmt::format(" -x -a '{}'", fmt::join(choices, " "));
    else if (takes_path(*option))
      value = " -r -F";
    else if (option->get_items_expected_max() > 0)
      value = " -x";
    lines += fmt::format("complete -c {} -l {}{} -d '{}'\n", program, name, value, help);
  }
  return lines;
}

}  // namespace

RunFile::RunFile(CLI::App& app) : app_(app) {
  app.set_config("--config", "", "TOML file with options; those on the command line go before it")
      ->type_name("FILE")
      ->group(own_group);
  app.config_formatter(std::make_shared<TomlFile>());
  app.allow_config_extras(false);
  app.add_flag("--print-config", print_, "print such a file with the options given, and exit")
      ->configurable(false)
      ->group(own_group);
  app.add_option("--completion", shell_,
                 "print a script that completes options in a shell, and exit: "
                 "source <(llama-finetune --completion bash)")
      ->type_name("bash|zsh|fish")
      ->configurable(false)
      ->group(own_group);
}

bool RunFile::asked() const { return print_; }

std::string RunFile::text() const {
  std::string text = fmt::format("# For {} --config FILE.\n", app_.get_name()), group;
  for (const CLI::Option* option : app_.get_options()) {
    const std::string name = long_name(*option);
    if (!option->get_configurable() || name.empty() || name == "config" ||
        option->get_group() == "Help")
      continue;
    if (option->get_group() != group)
      text += fmt::format("\n# ---- {}\n", group = option->get_group());
    std::string help = option->get_description();
    std::ranges::replace(help, '\n', ' ');
    if (option->count() == 0)
      text += fmt::format("# {}: {}\n", name, help);
    else
      text += fmt::format("{} = {}\n", name, toml_value(name, option->results().back()));
  }
  return text;
}

std::optional<std::string> RunFile::completion() const {
  if (shell_.empty()) return std::nullopt;
  const std::string program = app_.get_name();
  if (shell_ == "bash") return bash_script(program, app_);
  if (shell_ == "zsh")
    return "autoload -U +X bashcompinit && bashcompinit\n" + bash_script(program, app_);
  if (shell_ == "fish") return fish_script(program, app_);
  throw UsageError(fmt::format(
      "--completion must be one of bash|zsh|fish, but '{}' was given; try --completion bash",
      shell_));
}

std::string RunFile::missing(std::string_view why) const {
  return fmt::format("{}: --config must be a file that can be read, but {}; correct its name\n",
                     app_.get_name(), why);
}

}  // namespace llama
