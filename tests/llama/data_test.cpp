// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Reading text and token files, and splitting them into reproducible batches.
#include "llama/app/data.hpp"

#include <algorithm>
#include <numeric>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "llama/files.hpp"
#include "support/catch.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using test::TemporaryFolder;
using Ids = std::vector<std::int32_t>;

std::string text_of(const TokenData& data) {
  std::string text;
  for (const auto part : {data.train(), data.validation()}) {
    for (const std::int32_t id : part) text += static_cast<char>(id);
  }
  return text;
}

template <typename Id>
std::string raw(const std::vector<Id>& ids) {
  return {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(Id)};
}

Ids counting(std::size_t size) {
  Ids ids(size);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

}  // namespace

TEST_CASE("data: text is bytes, the end of it is held out") {
  const TemporaryFolder folder;
  test::write_bytes(folder / "t", std::string("0123456789\xff\x80\1abcdefg", 20));
  const TokenData data = TokenData::from_text(folder / "t", {.validation_fraction = 0.25});
  CHECK(data.train().size() == 15);
  CHECK(data.validation().size() == 5);
  CHECK(data.train()[10] == 255);
  CHECK(data.train()[12] == 1);
  CHECK(data.notes().empty());
  CHECK(data.validation()[4] == 'g');
  CHECK(TokenData::from_text(folder / "t", {.validation_fraction = 0.0}).validation().empty());
  CHECK(text_of(TokenData::from_text(folder / "t", {.max_bytes = 7})) == "0123456");
  test::check_throws<std::invalid_argument>(
      [&] { (void)TokenData::from_text(folder / "t", {.validation_fraction = 1.0}); },
      {"[0, 1)", "it is 1"});
}

TEST_CASE(
    "data: a folder is read in byte order of its paths, independent of the order of creation") {
  const std::vector<std::string> names{"b/2", "a.txt", "B", "b/10", "a/z/q", "a-", "c"};
  for (const bool backwards : {false, true}) {
    const TemporaryFolder folder;
    auto order = names;
    if (backwards) std::ranges::reverse(order);
    for (const auto& name : order) test::write_bytes(folder / name, "<" + name + ">");
    test::write_bytes(folder / ".hidden", "<hidden>");
    test::write_bytes(folder / ".git/config", "<hidden>");
    test::write_bytes(folder / "binary", std::string("<bin\0ary>", 9));
    test::write_bytes(folder / "empty", "");
    std::filesystem::create_symlink("nowhere", folder / "dangling");
    std::filesystem::create_directory_symlink(".", folder / "loop");
    const TokenData data = TokenData::from_text(folder.path());
    CHECK(text_of(data) == "<B>\n<a->\n<a.txt>\n<a/z/q>\n<b/10>\n<b/2>\n<c>");
    CHECK(text_of(TokenData::from_text(folder.path(), {.max_bytes = 9})) == "<B>\n<a->\n<a");
    const std::string name = "'" + folder.path().string() + "'";
    REQUIRE(data.notes().size() == 2);
    CHECK(data.notes()[0] == "the 7 documents of " + name + " are separated by newlines");
    CHECK(data.notes()[1] == "1 of the files in " + name + " was left out, among them '" +
                                 (folder / "binary").string() +
                                 "' (a binary file (it has a NUL byte))");
  }
}

TEST_CASE("data: documents that end with a newline are joined without another one") {
  const TemporaryFolder folder;
  test::write_bytes(folder / "a", "one\n");
  test::write_bytes(folder / "b", "two\n");
  CHECK(text_of(TokenData::from_text(folder.path())) == "one\ntwo\n");
  // With an end-of-text token, it separates documents even if they end with a newline.
  const TokenData data = TokenData::from_text(
      folder.path(), {.end_of_text = EndOfText{.id = 7, .source = "'eos_token' of 'x'"}});
  CHECK(text_of(data) == "one\n\7two\n");
  REQUIRE(data.notes().size() == 1);
  CHECK(data.notes()[0].ends_with("are separated by the token 7, 'eos_token' of 'x'"));
}

TEST_CASE(
    "data: a file that is not text is refused with the name of its format, also in a folder") {
  struct Case {
    std::string bytes;
    const char* name;
    const char* advice;
    bool may_hold_text = true;
  };
  const auto binary = [](std::string_view bytes) { return std::string(bytes); };
  using namespace std::string_view_literals;
  const std::string tar = std::string("notes.txt") + std::string(248, '\0') +
                          std::string(
                              "ustar\0"
                              "00",
                              8) +
                          std::string(243, '\0') + "text";
  std::string little, big;
  for (const char c : std::string_view("Plain English text")) {
    little += c, little += '\0';
    big += '\0', big += c;
  }
  const Case cases[] = {
      {binary("\x1F\x8B\x08\0\0\0\0\0\0\3abc"sv), "a gzip file", "unpack it"},
      {binary("\x28\xB5\x2F\xFD\x24\1abc"sv), "a zstd file", "unpack it"},
      {binary("\xFD"
              "7zXZ\0\0\4"sv),
       "an xz file", "unpack it"},
      {"BZh91AY&SY\x12\x34", "a bzip2 file", "unpack it"},
      {binary("PK\3\4\x14\0\0\0"sv), "a zip archive", "unpack it"},
      {tar, "a tar archive", "unpack it"},
      {binary("PAR1\x15\4\x15"sv), "a Parquet file", "plain text"},
      {binary("ARROW1\0\0"sv), "an Arrow file", "plain text"},
      {"FEA1....", "a Feather file", "plain text"},
      {binary("\xFF\xFF\xFF\xFF\x10\1\0\0"sv), "an Arrow stream", "plain text"},
      {binary("\x93NUMPY\1\0v\0{'descr': '<i4'"sv), "a NumPy array", "--tokens"},
      {binary("SQLite format 3\0\x10"sv), "an SQLite database", "plain text"},
      {binary("\x80\4\x95\x10"sv), "a Python pickle", "plain text"},
      {"%PDF-1.7\n", "a PDF document", "pdftotext"},
      {binary("\xFF\xFEH\0i\0"sv), "UTF-16 text", "UTF-8"},
      {binary("\xFE\xFF\0H\0i"sv), "UTF-16 text", "UTF-8"},
      {binary("\xFF\xFE\0\0H\0\0\0"sv), "UTF-32 text", "UTF-8"},
      {little, "UTF-16 text without a byte order mark", "UTF-8"},
      {big, "UTF-16 text without a byte order mark", "UTF-8"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "a Git LFS pointer",
       "git lfs pull"},
      {"\n<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page", "plain text"},
      {"<html lang=\"en\"><head>", "an HTML page", "plain text"},
      {"[{\"text\": \"a\"}, {\"text\": \"b\"}]", "a JSON list", "an object a line"},
      {"\xEF\xBB\xBF[\n  \"one\",\n  \"two\"\n]", "a JSON list", "an object a line"},
      {"{\"text\": \"a\"}\n{\"text\": \"b\"}\n", "JSON lines", "name it .jsonl"},
      {"{\"id\": 1, \"messages\" : [" + std::string(20'000, ' '), "JSON lines", "name it .jsonl"},
      {binary("\x89PNG\r\n\x1A\n\0\0"sv), "a PNG image", "text", false},
      {binary("\x40\0\0\0\0\0\0\0{\"a\":"sv), "a safetensors file", "text", false},
      {binary("\x7F"
              "ELF\2\1"sv),
       "a program", "text", false},
      {binary("ab\0cd"sv), "a binary file", "text", false},
  };
  for (const Case& one : cases) {
    const TemporaryFolder folder;
    INFO(one.name);
    test::write_bytes(folder / "x.data", one.bytes);
    test::check_throws<std::runtime_error>([&] { (void)TokenData::from_text(folder / "x.data"); },
                                           {"x.data'", "must be text", one.name, one.advice});
    test::write_bytes(folder / "a.txt", "text");
    if (one.may_hold_text) {
      test::check_throws<std::runtime_error>(
          [&] { (void)TokenData::from_text(folder.path()); },
          {"x.data'", "must be text", one.name, one.advice, "take the file out"});
      continue;
    }
    const TokenData data = TokenData::from_text(folder.path());
    CHECK(text_of(data) == "text");
    CHECK_THAT(data.notes().back(), contains(one.name));
    std::filesystem::remove(folder / "a.txt");
    test::check_throws<std::runtime_error>([&] { (void)TokenData::from_text(folder.path()); },
                                           {"no readable text file", one.name});
  }
}

TEST_CASE("data: text that resembles another format is read as text") {
  const TemporaryFolder folder;
  for (const char* text :
       {"[1] Introduction", "[link](x.md) and more", "[section]\nkey = 1", "[\"Hello,\" she said]",
        "[[wiki]] page", "{ \"name\": \"package\", \"version\": 1 }",
        "{\n  \"text\": \"one object over several lines\"\n}", "{\\em emphasis} in TeX",
        "BZh is no format", "PK", "a page about <html>", "<htmlx>", "<?xml version='1.0'?><a/>",
        "RIFF raff", "\x80 bytes of Latin-1 \xe9", "version https://example.org/"}) {
    INFO(text);
    test::write_bytes(folder / "t", text);
    CHECK(text_of(TokenData::from_text(folder / "t", {.validation_fraction = 0.0})) == text);
  }
}

TEST_CASE("data: no text is an error that says what to pass") {
  const TemporaryFolder folder;
  test::write_bytes(folder / "empty", "");
  test::check_throws<std::runtime_error>([&] { (void)TokenData::from_text(folder / "none"); },
                                         {"none", "No such file"});
  test::check_throws<std::runtime_error>([&] { (void)TokenData::from_text(folder / "empty"); },
                                         {"empty", "--data"});
  test::check_throws<std::runtime_error>([&] { (void)TokenData::from_text(folder.path()); },
                                         {"no readable text", "--data"});
  test::check_throws<std::runtime_error>([&] { (void)TokenData::from_text("/dev/zero"); },
                                         {"not a regular file"});
  test::write_bytes(folder / "bytes", "abc\xc8");
  test::check_throws<std::runtime_error>(
      [&] { (void)TokenData::from_text(folder / "bytes", {.vocabulary = 128}); },
      {"position 3", "200", "vocabulary of 128"});
}

TEST_CASE("data: token files") {
  const TemporaryFolder folder;
  test::write_bytes(folder / "t.u16", raw<std::uint16_t>({0, 1, 65535, 7}));
  test::write_bytes(folder / "t.i32", raw<std::int32_t>({0, 100000, 7}));
  test::write_bytes(folder / "t.bin", raw<std::int32_t>({5, 6}));
  const DataOptions large{.vocabulary = 1 << 20, .validation_fraction = 0.0};
  const auto ids = [](const TokenData& data) {
    return Ids(data.train().begin(), data.train().end());
  };
  CHECK(ids(TokenData::from_tokens(folder / "t.u16", TokenType::automatic, large)) ==
        Ids{0, 1, 65535, 7});
  CHECK(ids(TokenData::from_tokens(folder / "t.i32", TokenType::automatic, large)) ==
        Ids{0, 100000, 7});
  CHECK(ids(TokenData::from_tokens(folder / "t.bin", TokenType::i32, large)) == Ids{5, 6});
  CHECK(ids(TokenData::from_tokens(folder / "t.bin", TokenType::u16, large)) == Ids{5, 0, 6, 0});

  const auto load = [&](const char* name, TokenType type, std::ptrdiff_t vocabulary) {
    (void)TokenData::from_tokens(folder / name, type, {.vocabulary = vocabulary});
  };
  CHECK_NOTHROW(load("t.u16", TokenType::u16, 65536));
  test::check_throws<std::runtime_error>([&] { load("t.u16", TokenType::u16, 65535); },
                                         {"t.u16", "0 to 65534", "position 2", "65535"});
  test::check_throws<std::runtime_error>([&] { load("t.bin", TokenType::automatic, 9); },
                                         {"t.bin", ".u16 or .i32", "--token-type"});
  test::write_bytes(folder / "t.i32", raw<std::int32_t>({0, 3, -1}));
  test::check_throws<std::runtime_error>([&] { load("t.i32", TokenType::i32, 9); },
                                         {"position 2", "-1"});
  test::write_bytes(folder / "t.i32", "12345");
  test::check_throws<std::runtime_error>([&] { load("t.i32", TokenType::i32, 9); },
                                         {"4-byte ids", "5 bytes"});
  test::write_bytes(folder / "t.i32", "");
  test::check_throws<std::runtime_error>([&] { load("t.i32", TokenType::i32, 9); },
                                         {"empty", "--tokens"});
  // Headers and containers are refused as ids; a few bytes may be ids.
  for (const auto& [bytes, name] :
       {std::pair(std::string("\x93NUMPY\1\0", 8), "a NumPy array"),
        std::pair(std::string("\x40\0\0\0\0\0\0\0{\"a\":1}", 16), "a safetensors file"),
        std::pair(std::string("version https://git-lfs.github.com/spec/v1\noid sha256:12\n"),
                  "a Git LFS pointer")}) {
    test::write_bytes(folder / "t.u16", bytes);
    test::check_throws<std::runtime_error>([&] { load("t.u16", TokenType::u16, 65536); },
                                           {"t.u16", "raw token ids", name});
  }
  test::write_bytes(folder / "t.u16", raw<std::uint16_t>({0x8B1F, 0x4B50, 0x3150}));
  CHECK_NOTHROW(load("t.u16", TokenType::u16, 65536));
  // The position counts over the whole file, not over the piece that is read at a time.
  auto many = std::vector<std::uint16_t>(100'000, 3);
  many[70'001] = 9;
  test::write_bytes(folder / "t.u16", raw(many));
  test::check_throws<std::runtime_error>([&] { load("t.u16", TokenType::u16, 9); },
                                         {"position 70001", "is 9"});
}

TEST_CASE("data: the default text is the newest C++ standard library") {
  const TemporaryFolder root;
  test::check_throws<std::runtime_error>([&] { (void)find_default_corpus(root.path()); },
                                         {"standard library", root.path().string(), "--data"});
  test::write_bytes(root / "usr/lib/llvm-19/include/c++/v1/vector", "x");
  test::write_bytes(root / "usr/lib/llvm-9/include/c++/v1/vector", "x");
  CHECK(find_default_corpus(root.path()) == (root / "usr/lib/llvm-19/include/c++/v1"));
  test::write_bytes(root / "usr/include/c++/9/vector", "x");
  test::write_bytes(root / "usr/include/c++/12/vector", "x");
  test::write_bytes(root / "usr/include/c++/13/bits/only_a_part", "x");
  CHECK((find_default_corpus(root.path()) / "vector") == (root / "usr/include/c++/12/vector"));
  // On this machine, which has compiled this test.
  const TokenData data = TokenData::from_text(find_default_corpus());
  CHECK(data.train().size() > 1'000'000);
  CHECK(data.validation().size() > 100'000);
}

TEST_CASE("data: batches are a pure function of seed, step and micro-step") {
  const Ids tokens = counting(10'000);
  const std::size_t batch = 3, sequence = 17;
  const BatchSampler sampler(tokens, 3, 17, 42), same(tokens, 3, 17, 42), other(tokens, 3, 17, 43);
  const auto draw = [&](const BatchSampler& from, std::uint64_t step, std::uint32_t micro_step) {
    Ids ids(batch * sequence), labels(batch * sequence);
    from.fill(step, micro_step, ids, labels);
    for (std::size_t i = 0; i < ids.size(); ++i)
      REQUIRE(labels[i] == ids[i] + 1);  // shifted by one
    for (std::size_t i = 0; i < ids.size(); ++i)
      REQUIRE(ids[i] - ids[i - i % sequence] == std::int32_t(i % sequence));  // neighbours
    return ids;
  };
  const Ids late_first = draw(sampler, 1'000'000, 5);
  const Ids first = draw(sampler, 0, 0);
  CHECK(draw(same, 0, 0) == first);  // no state: the order of the calls does not matter
  CHECK(draw(same, 1'000'000, 5) == late_first);
  CHECK(draw(other, 0, 0) != first);
  CHECK(draw(sampler, 1, 0) != first);
  CHECK(draw(sampler, 0, 1) != first);
  CHECK(draw(sampler, 0, 1) != draw(sampler, 1, 0));
  CHECK(first[0] != first[sequence]);
  // Pinned: the same on every machine and in every version, or saved runs could not be repeated.
  CHECK(first[0] == 3590);
  CHECK(first[sequence] == 7902);
}

TEST_CASE("data: starts cover all places evenly") {
  const Ids tokens = counting(44);
  const BatchSampler sampler(tokens, 4, 10, 7);
  std::vector<int> starts(44);
  Ids ids(40), labels(40);
  for (std::uint64_t step = 0; step < 3000; ++step) {
    sampler.fill(step, 0, ids, labels);
    for (std::size_t row = 0; row < 4; ++row) ++starts[static_cast<std::size_t>(ids[row * 10])];
  }
  // 34 starts, 353 expected each; 5.5 standard deviations are 102.
  for (std::size_t i = 0; i < 34; ++i) CHECK(std::abs(starts[i] - 353) < 102);
  for (std::size_t i = 34; i < 44; ++i) CHECK(starts[i] == 0);
}

TEST_CASE("data: text shorter than a batch is an error with both numbers") {
  const Ids tokens = counting(44);
  CHECK_NOTHROW(BatchSampler(tokens, 4, 10, 1));
  test::check_throws<std::runtime_error>([&] { BatchSampler(tokens, 4, 11, 1); },
                                         {"4 x 12 = 48", "it has 44", "--batch", "--sequence"});
  test::check_throws<std::runtime_error>(
      [&] { BatchSampler(tokens, 1, std::ptrdiff_t{1} << 62, 1); }, {"it has 44"});
  test::check_throws<std::runtime_error>([&] { BatchSampler({}, 1, 1, 1); }, {"it has 0"});
  test::check_throws<std::invalid_argument>([&] { BatchSampler(tokens, 0, 1, 1); },
                                            {"batch", "it is 0"});
  test::check_throws<std::invalid_argument>([&] { BatchSampler(tokens, 1, -1, 1); },
                                            {"sequence", "it is -1"});
  CHECK_NOTHROW(EvaluationWindows(tokens, 4, 43, 2));
  test::check_throws<std::runtime_error>([&] { EvaluationWindows(tokens, 4, 44, 2); },
                                         {"validation", "45", "it has 44"});
  Ids ids(40), labels(39);
  test::check_throws<std::invalid_argument>(
      [&] { BatchSampler(tokens, 4, 10, 1).fill(0, 0, ids, labels); },
      {"4 x 10 = 40", "40 and 39"});
}

TEST_CASE("data: validation windows are the same every time, evenly spaced, first to last") {
  const Ids tokens = counting(1000);
  const EvaluationWindows windows(tokens, 2, 9, 5);
  CHECK(windows.batches() == 5);
  Ids ids(18), labels(18), starts;
  for (std::size_t i = 0; i < 5; ++i) {
    windows.fill(i, ids, labels);
    for (std::size_t k = 0; k < 18; ++k) CHECK(labels[k] == ids[k] + 1);
    starts.insert(starts.end(), {ids[0], ids[9]});
  }
  CHECK(starts == Ids{0, 110, 220, 330, 440, 550, 660, 770, 880, 990});
  test::check_throws<std::invalid_argument>([&] { windows.fill(5, ids, labels); },
                                            {"5 batches", "number 5"});

  const Ids few = counting(10);  // exactly one window
  const EvaluationWindows short_windows(few, 2, 9, 1);
  short_windows.fill(0, ids, labels);
  CHECK(ids[0] == 0);
  CHECK(ids[9] == 0);
  const EvaluationWindows single(tokens, 1, 18, 1);
  single.fill(0, ids, labels);
  CHECK(ids[0] == 0);
}
