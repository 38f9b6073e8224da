// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What does including the library cost? Compiles files that include only one header, with each
// compiler, all in turn. Compares the core with the four standard headers that its interface uses.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "benchmark.hpp"

namespace {

namespace fs = std::filesystem;

const std::string empty = "(empty)", standard = "<span> <vector> <string> <stdexcept>",
                  core = "dropbp/dropbp.hpp";

// A temporary folder, removed at the end.
class Workplace {
 public:
  Workplace() {
    std::string name = (fs::temp_directory_path() / "dropbp-include-cost-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr)
      throw std::system_error(errno, std::generic_category(), "cannot make " + name);
    path_ = name;
  }
  ~Workplace() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// Processor seconds of a command and its child processes. Throws if the command fails. `log` gets
// its messages.
double processor_seconds(const std::vector<std::string>& command, const fs::path& log) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t child = fork();
  if (child < 0)
    throw std::system_error(errno, std::generic_category(), "cannot start " + command.front());
  if (child == 0) {
    const int file = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file >= 0) dup2(file, STDOUT_FILENO), dup2(file, STDERR_FILENO);
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
  int status = 0;
  rusage usage{};
  if (wait4(child, &status, 0, &usage) != child)
    throw std::system_error(errno, std::generic_category(), "cannot wait for " + command.front());
  if (status != 0) throw std::runtime_error(command.front() + " failed");
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

using bench::median;

// One file to compile, and its times [compiler][round].
struct Row {
  std::string header;
  std::vector<std::string> includes;
  bool third_party = false;
  fs::path source = {};
  std::vector<std::vector<double>> seconds = {};
};

std::vector<std::string> headers_below(const fs::path& include_dir, const std::string& folder) {
  std::vector<std::string> headers;
  if (!fs::is_directory(include_dir / folder)) return headers;
  for (const fs::directory_entry& entry : fs::directory_iterator(include_dir / folder))
    if (entry.path().extension() == ".hpp")
      headers.push_back(folder + "/" + entry.path().filename().string());
  std::sort(headers.begin(), headers.end());
  return headers;
}

std::vector<Row> rows_for(const fs::path& include_dir) {
  std::vector<Row> rows{{empty, {}},
                        {"<vector>", {"vector"}},
                        {standard, {"span", "vector", "string", "stdexcept"}},
                        {core, {core}},
                        {"dropbp/dropbp_fwd.hpp", {"dropbp/dropbp_fwd.hpp"}},
                        {"dropbp/schedule.hpp", {"dropbp/schedule.hpp"}},
                        {"dropbp/layer.hpp", {"dropbp/layer.hpp"}},
                        {"dropbp/handler.hpp", {"dropbp/handler.hpp"}}};
  if (const auto ops = headers_below(include_dir, "dropbp/ops"); !ops.empty())
    rows.push_back({"dropbp/ops/*.hpp", ops, true});
  for (const std::string& header : headers_below(include_dir, "dropbp/interop"))
    rows.push_back({header, {header}, true});
  return rows;
}

// The reason why a compiler failed: its first error.
std::string first_error(const fs::path& log) {
  std::ifstream file(log);
  for (std::string line; std::getline(file, line);)
    if (const auto at = line.find("error: "); at != std::string::npos) return line.substr(at + 7);
  return "it does not run";
}

int run(int argc, char** argv) {
  CLI::App app(
      "Times compiling (-std=c++20 -O0 -c) a file that includes one header, in processor seconds, "
      "all headers and\n"
      "compilers in turn. The core is compared with " +
      standard + ".");
  std::vector<std::string> compilers{"g++", "clang++"}, directories{DROPBP_THIRD_PARTY};
  std::string include_dir = DROPBP_INCLUDE_DIR;
  int rounds = 9;
  double limit = 0.0;
  bench::Options common(app, "only the core, the first compiler that runs, one round", false);
  app.add_option("--compiler", compilers, "compilers to time; one that does not run is left out")
      ->capture_default_str();
  app.add_option(
         "--rounds", rounds,
         "compilations of each file; the median is reported; a quarter of them for ops and interop")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--include-dir", include_dir, "the library's headers")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  app.add_option("--third-party", directories, "more include folders, for ops and interop")
      ->capture_default_str();
  app.add_option(
      "--limit", limit,
      "exit code 1 if the core's ratio with the first compiler is above this; 0: no limit");
  CLI11_PARSE(app, argc, argv);
  common.begin();
  if (common.quick) rounds = 1;

  const Workplace workplace;
  const fs::path log = workplace.path() / "log", object = workplace.path() / "object.o";
  const auto compile = [&](const std::string& compiler, const Row& row) {
    std::vector<std::string> command{compiler, "-std=c++20", "-O0", "-I", include_dir};
    if (row.third_party)
      for (const std::string& directory : directories)
        command.insert(command.end(), {"-isystem", directory});
    command.insert(command.end(), {"-c", row.source.string(), "-o", object.string()});
    return processor_seconds(command, log);
  };

  // The first compilation finds out what is installed and warms the file cache.
  std::vector<Row> rows = rows_for(include_dir);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].source = workplace.path() / fmt::format("{}.cpp", i);
    std::ofstream file(rows[i].source);
    for (const std::string& header : rows[i].includes) file << "#include <" << header << ">\n";
  }
  std::erase_if(compilers, [&](const std::string& compiler) {
    try {
      compile(compiler, rows.front());
      return false;
    } catch (const std::runtime_error&) {
      fmt::print("{} is left out: {}\n", compiler, first_error(log));
      return true;
    }
  });
  if (common.quick && compilers.size() > 1) compilers.resize(1);
  if (compilers.empty()) throw std::runtime_error("no compiler runs; name one with --compiler");
  std::erase_if(rows, [&](const Row& row) {
    if (common.quick && row.third_party) {
      fmt::print("{} is left out by --quick\n", row.header);
      return true;
    }
    try {
      for (const std::string& compiler : compilers) compile(compiler, row);
      return false;
    } catch (const std::runtime_error&) {
      if (!row.third_party)
        throw std::runtime_error(row.header + " does not compile: " + first_error(log));
      fmt::print("{} is left out: {}\n", row.header, first_error(log));
      return true;
    }
  });

  for (Row& row : rows) row.seconds.resize(compilers.size());
  for (int done = 0; done < rounds; ++done)
    for (std::size_t c = 0; c < compilers.size(); ++c)
      for (Row& row : rows)
        if (!row.third_party || done % 4 == 0)
          row.seconds[c].push_back(compile(compilers[c], row));  // third parties are slow

  const auto of = [&](const std::string& header,
                      std::size_t compiler) -> const std::vector<double>& {
    return std::find_if(rows.begin(), rows.end(),
                        [&](const Row& row) { return row.header == header; })
        ->seconds[compiler];
  };
  const auto over_empty = [&](const std::string& header, std::size_t compiler) {
    std::vector<double> seconds = of(header, compiler);
    for (std::size_t round = 0; round < seconds.size(); ++round)
      seconds[round] -= of(empty, compiler)[round];
    return seconds;
  };

  fmt::print("median of {} rounds, processor seconds; over: more than an empty file\n{:<38}",
             rounds, "");
  for (const std::string& compiler : compilers) fmt::print(" {:>12}     over", compiler);
  fmt::print("\n");
  bench::Json json{{"rows", bench::Json::array()}};
  llama::Plot plot{.title = "Compile time of a file that includes one header",
                   .x_label = "line of the table",
                   .y_label = "processor seconds",
                   .series = {}};
  for (const std::string& compiler : compilers) plot.series.push_back({compiler, {}});
  for (const Row& row : rows) {
    fmt::print("{:<38}", row.header);
    for (std::size_t c = 0; c < compilers.size(); ++c) {
      fmt::print(" {:>12.3f} {:>8.3f}", median(row.seconds[c]), median(over_empty(row.header, c)));
      plot.series[c].points.emplace_back(static_cast<double>(plot.series[c].points.size() + 1),
                                         median(row.seconds[c]));
      json["rows"].push_back({{"header", row.header},
                              {"compiler", compilers[c]},
                              {"seconds", median(row.seconds[c])}});
    }
    fmt::print("\n");
  }
  json["core_over_empty_seconds"] = median(over_empty(core, 0));
  json["rounds"] = rounds;
  double first_ratio = 0.0;
  for (std::size_t c = 0; c < compilers.size(); ++c) {
    std::vector<double> ratios = over_empty(core, c);
    const std::vector<double> reference = over_empty(standard, c);
    for (std::size_t round = 0; round < ratios.size(); ++round) ratios[round] /= reference[round];
    const double ratio = median(ratios);
    if (c == 0) first_ratio = ratio;
    fmt::print("{}: the core takes {:.2f} times as long as {}\n", compilers[c], ratio, standard);
    json["compilers"].push_back({{"compiler", compilers[c]},
                                 {"core_over_empty_seconds", median(over_empty(core, c))},
                                 {"standard_over_empty_seconds", median(reference)},
                                 {"ratio", ratio}});
  }
  common.write(json);
  common.write(plot);
  return limit > 0.0 && first_ratio > limit ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) { return bench::main_of("include_cost", argc, argv, run); }
