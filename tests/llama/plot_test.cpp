// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A plot is an SVG file with its titles, or an error that leaves the old file.
#include "llama/plot.hpp"

#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>

#include "llama/atomic_file.hpp"
#include "llama/files.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

// PATH for as long as it lives.
class Path {
 public:
  explicit Path(const std::string& path) : before_(std::getenv("PATH")) {
    setenv("PATH", path.c_str(), 1);
  }
  ~Path() { setenv("PATH", before_.c_str(), 1); }
  Path(const Path&) = delete;
  Path& operator=(const Path&) = delete;

 private:
  std::string before_;
};

llama::Plot example() {
  return {.title = "a \"quoted\" title with a \\ in it",
          .x_label = "time (s)",
          .y_label = "loss",
          .series = {{"drop_rate 0.5",
                      {{0, 3}, {1, 2.5}, {2, std::numeric_limits<double>::quiet_NaN()}, {3, 2}}},
                     {"other", {{0, 3}, {3, 1}}}}};
}

}  // namespace

TEST_CASE("plot: an SVG file with its words") {
  if (std::system("gnuplot --version > /dev/null 2>&1") != 0) {
    WARN("SKIPPED: gnuplot is not installed");
    return;
  }
  const test::TemporaryFolder folder;
  llama::write_svg(folder / "loss.svg", example());
  const std::string svg = test::read_bytes(folder / "loss.svg");
  CHECK(svg.find("<svg") != std::string::npos);
  CHECK(svg.find("</svg>") != std::string::npos);
  CHECK(svg.find("drop_rate 0.5") != std::string::npos);
  CHECK(svg.find("a \"quoted\" title with a \\ in it") != std::string::npos);
  CHECK(svg.find("time (s)") != std::string::npos);
  CHECK(llama::temporaries_in(folder.path()).empty());
}

TEST_CASE("plot: without gnuplot, or where nothing can be written, the old file stays") {
  const test::TemporaryFolder folder;
  test::write_bytes(folder / "loss.svg", "old");
  {
    const Path nowhere((folder / "empty").string());
    test::check_throws<std::runtime_error>(
        [&] { llama::write_svg(folder / "loss.svg", example()); },
        {"gnuplot", "loss.svg", "install"});
    test::check_throws<std::runtime_error>([&] { llama::check_can_plot(folder / "loss.svg"); },
                                           {"gnuplot", "loss.svg", "install"});
  }
  CHECK(llama::temporaries_in(folder.path()).empty());
  CHECK(test::read_bytes(folder / "loss.svg") == "old");
  test::check_throws<std::runtime_error>(
      [&] { llama::write_svg(folder / "missing" / "loss.svg", example()); },
      {"missing/loss.svg", "No such file"});
}
