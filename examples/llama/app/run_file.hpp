// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Options from a file and back into one, and their completion in a shell.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace llama {

/// Adds --config, --print-config and --completion to an app that has all other options. What
/// --config names is TOML with a line `steps = 300` for `--steps 300`; the command line goes before
/// it. The app must outlive this.
class RunFile {
 public:
  explicit RunFile(CLI::App& app);

  /// Whether --print-config was given.
  [[nodiscard]] bool asked() const;
  /// TOML from which --config reads what was given on the command line and by --config. The other
  /// options stand in it as comments.
  [[nodiscard]] std::string text() const;
  /// The script that --completion asks for; none without it. Throws UsageError for another shell.
  [[nodiscard]] std::optional<std::string> completion() const;
  /// The message for a file that could not be read.
  [[nodiscard]] std::string missing(std::string_view why) const;

 private:
  CLI::App& app_;
  std::string shell_;
  bool print_ = false;
};

}  // namespace llama
