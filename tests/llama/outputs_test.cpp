// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Runs the program and checks that no model is lost or mixed up: two runs with one output, signals,
// closed terminals and pipes.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__)
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "llama/files.hpp"
#include "llama/formats/atomic_file.hpp"
#include "llama/formats/model_folder.hpp"
#include "llama/formats/output_lock.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using test::TemporaryFolder;
namespace fs = std::filesystem;
using Words = std::vector<std::string>;

/// A process of the program on a small text; the destructor kills it if it still runs. Its output
/// goes to a file, unless `prepare`, which runs in the child before the start, changes that.
class Process {
 public:
  Process(const fs::path& folder, const std::string& steps, const Words& extra,
          const std::function<void()>& prepare = {})
      : output_(folder / ("output-" + std::to_string(++count_))) {
    if (!fs::exists(folder / "text")) {
      std::string corpus;
      for (std::uint32_t i = 0; i < 4000; ++i) corpus += static_cast<char>('a' + i * i % 23);
      test::write_bytes(folder / "text", corpus);
    }
    Words words{DROPBP_LLAMA_FINETUNE,
                "--data",
                folder / "text",
                "--batch",
                "2",
                "--sequence",
                "16",
                "--steps",
                steps,
                "--threads",
                "1",
                "--eval-every",
                "0",
                "--warmup",
                "5",
                "--eval-batches",
                "1",
                "--layers",
                "2",
                "--hidden",
                "16",
                "--intermediate",
                "24",
                "--heads",
                "2",
                "--log-every",
                "1",
                "--progress",
                "never"};
    words.insert(words.end(), extra.begin(), extra.end());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    id_ = fork();
    if (id_ != 0) return;
    const int output = open(output_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    dup2(output, 1), dup2(output, 2), close(output);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) std::signal(signal, SIG_DFL);
    if (prepare) prepare();
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  ~Process() {
    if (id_ < 0) return;
    kill(id_, SIGKILL);
    waitpid(id_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t id() const { return id_; }
  std::string output() const { return test::read_bytes(output_); }
  void send(int signal) const { kill(id_, signal); }
  /// The exit code, or minus the signal that ended it.
  int wait() {
    int status = 0;
    waitpid(id_, &status, 0);
    id_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  /// Waits until it prints this; false if it ends before. After "parameters" it holds all locks and
  /// catches signals; after "stopping" it has caught one.
  bool prints(const std::string& text) const {
    while (output().find(text) == std::string::npos) {
      siginfo_t info{};
      if (waitid(P_PID, static_cast<id_t>(id_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
          info.si_pid != 0)
        return output().find(text) != std::string::npos;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }

 private:
  static inline int count_ = 0;
  fs::path output_;
  pid_t id_ = -1;
};

constexpr const char* endless = "100000000";

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void redirect(int stream, const char* path) {
  const int file = open(path, O_WRONLY);
  dup2(file, stream), close(file);
}

/// Redirects to a pipe without a reader.
void break_pipe(int stream) {
  int ends[2];
  if (pipe(ends) != 0) _exit(126);
  close(ends[0]), dup2(ends[1], stream), close(ends[1]);
}

}  // namespace

TEST_CASE(
    "outputs: each process has its own temporary names, and no other names count as temporary") {
  const TemporaryFolder folder;
  test::write_bytes(folder / "x.tmp", "another run's");
  test::write_bytes(folder / "x.123-0123abcd.tmp", "another run's");
  {
    AtomicFile one(folder / "x"), two(folder / "x");
    CHECK(one.temporary() != two.temporary());
    for (const AtomicFile* file : {&one, &two})
      CHECK(final_name(file->temporary().filename().string()) == "x");
    one.write("one"), two.write("two");
    check_writable(folder / "x");
    one.publish();
    CHECK(test::read_bytes(folder / "x") == "one");
    two.publish();
    CHECK(test::read_bytes(folder / "x") == "two");
  }
  CHECK(test::read_bytes(folder / "x.tmp") == "another run's");
  CHECK(names_in(folder.path()) == std::set<std::string>{"x", "x.tmp", "x.123-0123abcd.tmp"});

  for (const char* const name : {"x", "x.1-0123abcd", "tmp", ".tmp.", "x.tmp.y"}) {
    CAPTURE(name);
    CHECK(final_name(name) == name);
    CHECK_FALSE(is_temporary(name));
  }
  const struct {
    const char *name, *final;
  } cases[] = {{"x.tmp", "x"},
               {"x.7-0123abcd.tmp", "x"},
               {"a.b.7-01234567.tmp", "a.b"},
               {"x.7-123abcd.tmp", "x.7-123abcd"},
               {"x.-0123abcd.tmp", "x.-0123abcd"},
               {"x.7-0123ABCD.tmp", "x.7-0123ABCD"},
               {".7-0123abcd.tmp", ".7-0123abcd"}};
  for (const auto& c : cases) {
    CAPTURE(c.name);
    CHECK(final_name(c.name) == c.final);
    CHECK(is_temporary(c.name));
  }
}

TEST_CASE(
    "outputs: a lock belongs to one process, for every path to the output, until the process "
    "ends") {
  const TemporaryFolder folder;
  const fs::path dir = folder / "a/b", other = folder / "link", file = folder / "f.json";
  CHECK_FALSE(OutputLock::held_here(Output::folder, dir));
  fs::create_symlink("a/b", other);
  fs::create_symlink("f.json", folder / "l.json");
  test::write_bytes(file, "old");
  {
    const OutputLock lock(Output::folder, dir), file_lock(Output::file, file),
        neighbour(Output::file, folder / "g.json");
    REQUIRE(lock.missing().empty());
    CHECK(OutputLock::held_here(Output::folder, other));
    CHECK(OutputLock::held_here(Output::file, folder / "a/../l.json"));
    CHECK_FALSE(OutputLock::held_here(Output::folder, folder.path()));
    const std::string me = "process " + std::to_string(getpid()) + " on ";
    for (const fs::path& path : {dir, other, folder / "a/../a/b/"})
      test::check_throws<std::runtime_error>([&] { OutputLock(Output::folder, path); },
                                             {path.string(), "one run at a time", me, "; "});
    for (const fs::path& path : {file, folder / "l.json"})
      test::check_throws<std::runtime_error>([&] { OutputLock(Output::file, path); },
                                             {path.string(), "one run at a time", me, "; "});
    // The destructors in a child do not remove the parent's lock.
    const pid_t child = fork();
    if (child == 0) {
      const_cast<OutputLock&>(lock).~OutputLock();
      _exit(0);
    }
    waitpid(child, nullptr, 0);
    CHECK(OutputLock::held_here(Output::folder, dir));
  }
  CHECK_FALSE(OutputLock::held_here(Output::folder, dir));
  CHECK(fs::is_empty(dir));
  CHECK(names_in(folder.path()) == std::set<std::string>{"a", "link", "f.json", "l.json"});

  // A killed process leaves only the file.
  const pid_t child = fork();
  if (child == 0) {
    const OutputLock lock(Output::folder, dir);
    raise(SIGKILL);
  }
  waitpid(child, nullptr, 0);
  CHECK(names_in(dir) == std::set<std::string>{".dropbp.lock"});
  CHECK_FALSE(OutputLock::held_here(Output::folder, dir));
  {
    const OutputLock lock(Output::folder, dir);
  }
  CHECK(fs::is_empty(dir));

  // A file of that name from another program is unchanged.
  test::write_bytes(dir / ".dropbp.lock", "mine");
  test::check_throws<std::runtime_error>([&] { OutputLock(Output::folder, dir); },
                                         {".dropbp.lock", "something else has that name", "; "});
  CHECK(test::read_bytes(dir / ".dropbp.lock") == "mine");
  test::check_throws<std::runtime_error>([&] { OutputLock(Output::folder, file); },
                                         {"f.json", "must be a folder"});
  test::check_throws<std::runtime_error>([&] { OutputLock(Output::file, folder / "no/f"); },
                                         {"no/.f.dropbp.lock", "No such file"});
}

TEST_CASE(
    "outputs: a second run with an output of the first is refused at its start, naming both") {
  const TemporaryFolder folder;
  const std::string a = folder / "a", same = folder / "x/../a", link = folder / "link",
                    report = folder / "r.json", report_link = folder / "l.svg";
  fs::create_directories(folder / "x");
  const struct {
    Words first, second;
    std::string named;
  } cases[] = {
      {{"--out", a}, {"--out", a}, a},
      {{"--out", a}, {"--out", same}, same},
      {{"--out", a}, {"--out", link}, link},
      {{"--out", a}, {"--checkpoint", a}, a},
      {{"--checkpoint", a, "--checkpoint-every", "0"}, {"--out", link}, link},
      {{"--checkpoint", a, "--checkpoint-every", "0"}, {"--checkpoint", a, "--resume"}, a},
      {{"--out", a}, {"--mode", "lora", "--merge-out", same}, same},
      {{"--mode", "lora", "--merge-out", a}, {"--out", a}, a},
      {{"--report", report}, {"--report", report}, report},
      {{"--report", report_link}, {"--report", report}, report},
      {{"--report", report}, {"--plot", report_link}, report_link},
  };
  const bool can_plot = std::system("gnuplot --version > /dev/null 2>&1") == 0;
  if (!can_plot) WARN("SKIPPED: --plot, gnuplot is not installed");
  for (const auto& c : cases) {
    if (!can_plot && c.second[0] == "--plot") continue;
    CAPTURE(c.first, c.second);
    for (const fs::path& path : {fs::path(a), fs::path(link), fs::path(report_link)})
      fs::remove_all(path);
    fs::create_directories(a);
    test::write_bytes(report, "old");
    fs::create_symlink("a", link);
    fs::create_symlink("r.json", report_link);
    Process first(folder.path(), endless, c.first);
    REQUIRE(first.prints("parameters"));
    // Files that the first run may be writing now, with current and with earlier temporary names.
    const std::set<std::string> being_written{
        "model.safetensors.7-0123abcd.tmp", "model.safetensors.tmp",
        "step-00000001.safetensors.tmp", "step-00000001.safetensors.7-0123abcd.tmp"};
    for (const std::string& name : being_written) test::write_bytes(fs::path(a) / name, "x");
    test::write_bytes(folder / "r.json.tmp", "x");
    Process second(folder.path(), "3", c.second);
    CHECK(second.wait() == 1);
    const std::string refusal = second.output();
    INFO(refusal);
    CHECK(has(refusal, "'" + c.named + "' must belong to one run at a time, but process " +
                           std::to_string(first.id()) + " on "));
    CHECK_FALSE(has(refusal, "parameters"));  // before anything was loaded
    for (const std::string& name : being_written) CHECK(fs::exists(fs::path(a) / name));
    CHECK(fs::exists(folder / "r.json.tmp"));
    CHECK(test::read_bytes(report) == "old");

    first.send(SIGTERM);
    CHECK(first.wait() == 128 + SIGTERM);
    // The first run wrote its outputs, and left no temporary or lock files.
    for (const std::string& name : names_in(a)) CHECK_FALSE(has(name, "lock"));
    if (c.first[0] != "--report") CHECK(names_in(a).size() >= 1);
    if (c.first[0] == "--out")
      CHECK_FALSE(fs::exists(fs::path(a) / "model.safetensors.7-0123abcd.tmp"));
    if (c.first[0] == "--report") CHECK(test::read_bytes(report).starts_with("{\"config\""));
    fs::remove(folder / "r.json.tmp");
    Process third(folder.path(), "3", c.second);
    const bool other_steps = c.first[0] == "--checkpoint" && c.second[0] == "--checkpoint";
    CHECK(third.wait() == (other_steps ? 2 : 0));
    INFO(third.output());
  }

  // Neighbours do not disturb each other.
  Process first(folder.path(), endless, {"--report", folder / "1.json", "--out", folder / "1"});
  REQUIRE(first.prints("parameters"));
  Process second(folder.path(), "3", {"--report", folder / "2.json", "--out", folder / "2"});
  CHECK(second.wait() == 0);
}

TEST_CASE("outputs: temporary files of a killed run are removed by the next run only") {
  const TemporaryFolder folder;
  const fs::path out = folder / "out", ck = folder / "ck", report = folder / "r.json";
  const Words all{"--out", out, "--checkpoint", ck, "--checkpoint-every", "0", "--report", report};
  Process killed(folder.path(), endless, all);
  REQUIRE(killed.prints("parameters"));
  killed.send(SIGKILL);
  CHECK(killed.wait() == -SIGKILL);
  CHECK(fs::exists(out / ".dropbp.lock"));
  const fs::path left[] = {out / "model.safetensors.7-0123abcd.tmp",
                           out / "config.json.7-0123abcd.tmp",
                           out / "model-00001-of-00002.safetensors.7-0123abcd.tmp",
                           out / "model.safetensors.index.json.7-0123abcd.tmp",
                           ck / "step-00000001.safetensors.7-0123abcd.tmp",
                           folder / "r.json.7-0123abcd.tmp"};
  for (const fs::path& path : left) test::write_bytes(path, "half");
  test::write_bytes(out / "mine.7-0123abcd.tmp", "mine");
  test::write_bytes(folder / "q.json.7-0123abcd.tmp", "mine");

  const auto refuse_locks = [] {
#if defined(__linux__)
    sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_flock, 0, 1),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOLCK),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const sock_fprog program{sizeof code / sizeof code[0], code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0)
      return;
#endif
    _exit(125);
  };
  Process without(folder.path(), "3", {"--out", out, "--report", report}, refuse_locks);
  const int code = without.wait();
  if (code == 125) {
    WARN("SKIPPED: a file system without locks; seccomp is not available");
  } else {
    INFO(without.output());
    CHECK(code == 0);
    CHECK(has(without.output(), out.string() + "' must belong to one run at a time, but its file "
                                               "system has no locks"));
    // These may belong to a running process.
    for (const fs::path& path : left) CHECK(fs::exists(path));
    CHECK(fs::exists(out / "model.safetensors"));
  }

  Process next(folder.path(), "3", all);
  CHECK(next.wait() == 0);
  for (const fs::path& path : left) {
    CAPTURE(path);
    CHECK_FALSE(fs::exists(path));
  }
  CHECK(names_in(out) ==
        std::set<std::string>{"config.json", "model.safetensors", "mine.7-0123abcd.tmp"});
  CHECK(names_in(ck) == std::set<std::string>{"step-00000003.safetensors"});
  CHECK(fs::exists(folder / "q.json.7-0123abcd.tmp"));
}

TEST_CASE("outputs: a run that ends on a signal writes all outputs and names the signal") {
  const TemporaryFolder folder;
  const fs::path out = folder / "out", ck = folder / "ck";
  const Words words{"--out", out, "--checkpoint", ck, "--checkpoint-every", "0"};
  const auto check_written = [&](Process& run, int signal) {
    CHECK(run.wait() == 128 + signal);
    INFO(run.output());
    CHECK(has(run.output(), "continue with --resume"));
    CHECK(names_in(ck).size() == 1);
    CHECK(fs::exists(out / "model.safetensors"));
    fs::remove_all(out), fs::remove_all(ck);
  };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    CAPTURE(signal);
    Process run(folder.path(), endless, words);
    REQUIRE(run.prints("parameters"));
    run.send(signal);
    check_written(run, signal);
  }
  // timeout(1) sends its signal to the process and to its group; shells and schedulers repeat
  // theirs, too.
  for (const int signal : {SIGTERM, SIGHUP}) {
    CAPTURE(signal);
    Process run(folder.path(), endless, words);
    REQUIRE(run.prints("parameters"));
    for (int i = 0; i < 20; ++i) {
      run.send(signal);
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    check_written(run, signal);
  }
  // nohup(1)
  Process detached(folder.path(), endless, words, [] { std::signal(SIGHUP, SIG_IGN); });
  REQUIRE(detached.prints("parameters"));
  detached.send(SIGHUP);
  REQUIRE(detached.prints("step 5/"));
  detached.send(SIGTERM);
  check_written(detached, SIGTERM);

  // A second Ctrl-C does not wait for a step that takes minutes.
  Process slow(folder.path(), endless,
               {"--out", out, "--checkpoint", ck, "--micro-steps", "65536"});
  REQUIRE(slow.prints("parameters"));
  slow.send(SIGINT);
  REQUIRE(slow.prints("Ctrl-C once more ends at once"));
  slow.send(SIGINT);
  CHECK(slow.wait() == -SIGINT);
  CHECK(names_in(ck) == std::set<std::string>{".dropbp.lock"});
}

TEST_CASE("outputs: a run whose terminal is closed writes all outputs") {
  const TemporaryFolder folder;
  const fs::path out = folder / "out", ck = folder / "ck";
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (terminal < 0 || grantpt(terminal) != 0 || unlockpt(terminal) != 0) {
    WARN("SKIPPED: there are no terminals here");
    return;
  }
  const std::string name = ptsname(terminal);
  Process run(folder.path(), endless, {"--out", out, "--checkpoint", ck, "--checkpoint-every", "5"},
              [&] {
                setsid();
                const int own = open(name.c_str(), O_RDWR);
                ioctl(own, TIOCSCTTY, 0);
                dup2(own, 0), dup2(own, 1), dup2(own, 2), close(own);
              });
  std::string shown;
  while (!has(shown, "step 5/")) {
    char buffer[512];
    const ssize_t size = read(terminal, buffer, sizeof buffer);
    REQUIRE(size > 0);
    shown.append(buffer, static_cast<std::size_t>(size));
  }
  close(terminal);
  CHECK(run.wait() == 128 + SIGHUP);
  CHECK(fs::exists(out / "model.safetensors"));
  CHECK(names_in(ck).size() == 2);
}

TEST_CASE(
    "outputs: the training completes if its pipe has no reader or its output cannot be printed") {
  const TemporaryFolder folder;
  const auto model_of = [&](const char* name) {
    return test::read_bytes(folder / name / "model.safetensors");
  };
  Process plain(folder.path(), "20", {"--out", folder / "plain"});
  REQUIRE(plain.wait() == 0);
  const std::string expected = model_of("plain");
  REQUIRE(has(plain.output(), "validation"));
  const struct {
    const char* name;
    int code;
    void (*prepare)();
    const char* said;
  } cases[] = {
      {"broken-both", 0, [] { break_pipe(1), break_pipe(2); }, ""},
      {"broken-out", 0, [] { break_pipe(1); }, "step 20/20"},
      {"full-out", 1, [] { redirect(1, "/dev/full"); },
       "standard output, but that failed: No space"},
      {"full-error", 0, [] { redirect(2, "/dev/full"); }, "dropped"},
      {"full-both", 1, [] { redirect(1, "/dev/full"), redirect(2, "/dev/full"); }, ""},
      {"closed-out", 1, [] { close(1); }, "standard output, but that failed: Bad file descriptor"},
      {"closed-error", 0, [] { close(2); }, "dropped"},
      {"closed-all", 1, [] { close(0), close(1), close(2); }, ""},
  };
  for (const auto& c : cases) {
    CAPTURE(c.name);
    const fs::path report = folder / (std::string(c.name) + ".json");
    Process run(folder.path(), "20",
                {"--out", folder / c.name, "--report", report, "--checkpoint",
                 folder / (std::string(c.name) + "-ck"), "--checkpoint-every", "3"},
                c.prepare);
    CHECK(run.wait() == c.code);
    INFO(run.output());
    CHECK(has(run.output(), c.said));
    CHECK((model_of(c.name) == expected));
    CHECK(test::read_bytes(report).ends_with("}\n"));
  }
  for (const char* const flag : {"--help", "--version"}) {
    CAPTURE(flag);
    CHECK(Process(folder.path(), "1", {flag}, [] { redirect(1, "/dev/full"); }).wait() == 1);
    CHECK(Process(folder.path(), "1", {flag}, [] { break_pipe(1); }).wait() == 0);
  }
}

TEST_CASE("outputs: an output that cannot be written is an error before the training") {
  const TemporaryFolder folder;
  test::write_bytes(folder / "file", "x");
  Process first(folder.path(), "1", {"--out", folder / "model"});
  REQUIRE(first.wait() == 0);
  const std::string config = test::read_bytes(folder / "model/config.json"),
                    text = test::read_bytes(folder / "text");
  fs::create_symlink("text", folder / "text.svg");
  const fs::path report = folder / "r.json";
  const struct {
    Words words;
    int code;
    const char* said;
    void (*prepare)() = nullptr;
  } cases[] = {
      {{"--report", folder / "no/r.json"}, 1, "No such file"},
      {{"--plot", folder / "no/p.svg"}, 1, "No such file"},
      {{"--report", folder.path()}, 1, "it is a folder"},
      {{"--report", "/dev/null"}, 1, "regular file"},
      {{"--checkpoint", folder / "file"}, 1, "must be a folder"},
      {{"--checkpoint", folder / "file/below"}, 1, "must be a folder"},
      {{"--out", folder / "file"}, 1, "must be a folder"},
      {{"--mode", "lora", "--merge-out", folder / "file"}, 1, "must be a folder"},
      {{"--plot", folder / "p.svg"}, 1, "needs gnuplot", [] { setenv("PATH", "/nowhere", 1); }},
      {{"--report", folder / "r.svg", "--plot", folder / "x/../r.svg"}, 2, "also used by --report"},
      {{"--report", folder / "text"}, 2, "also used by --data"},
      {{"--plot", folder / "text.svg"}, 2, "also used by --data"},
      {{"--report", folder / "model/config.json", "--out", folder / "model"},
       2,
       "also used by --out"},
      {{"--report", folder / "model/model.safetensors", "--out", folder / "model"},
       2,
       "also used by --out"},
      {{"--report", folder / "model/tokenizer.json", "--out", folder / "model"},
       2,
       "also used by --out"},
      {{"--report", folder / "o/generation_config.json", "--out", folder / "o"},
       2,
       "also used by --out"},
      {{"--mode", "lora", "--out", folder / "adapter"}, 2, "add --model"},
      {{"--mode", "qlora", "--out", folder / "adapter"}, 2, "add --model"},
      {{"--mode", "lora", "--adapter", folder / "adapter", "--merge-out", folder / "m"},
       2,
       "add that model"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.words);
    Process run(folder.path(), "2", c.words, c.prepare != nullptr ? c.prepare : [] {});
    CHECK(run.wait() == c.code);
    INFO(run.output());
    CHECK(has(run.output(), c.said));
    CHECK_FALSE(has(run.output(), "parameters"));
  }
  CHECK(test::read_bytes(folder / "model/config.json") == config);
  CHECK(test::read_bytes(folder / "text") == text);
  CHECK_FALSE(fs::exists(folder / "adapter"));
}
