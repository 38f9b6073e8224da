// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Tests the safetensors reader with unusual, malformed, truncated and corrupted files, and the
// writer with the reader.
#include "llama/formats/safetensors.hpp"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "llama/files.hpp"
#include "llama/formats/atomic_file.hpp"
#include "llama/formats/crc32c.hpp"
#include "support/catch.hpp"
#include "support/promise.hpp"
#include "support/throws.hpp"

namespace {

using namespace llama;
using namespace std::string_literals;
using test::TemporaryFolder;

template <typename T>
std::string raw(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// A file with this header and so many zero bytes of data.
std::string file_of(const std::string& header, std::size_t data_bytes = 0) {
  return raw(std::uint64_t{header.size()}) + header + std::string(data_bytes, '\0');
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

struct Case {
  const char* name;
  std::string bytes;
  const char* message;  ///< a part of the error; null if the file is valid
};

std::vector<Case> cases() {
  const std::string f32 = R"("F32")";
  const std::string huge = "9223372036854775807";  // 2^63 - 1
  return {
      // Legal, some of it odd.
      {"no tensors", file_of("{}"), nullptr},
      {"only metadata", file_of(R"({"__metadata__":{"a":"b"}})"), nullptr},
      {"empty metadata", file_of(R"({"__metadata__":{}})"), nullptr},
      {"one tensor", file_of(one(f32, "[2]", "[0,8]"), 8), nullptr},
      {"padding spaces", file_of(one(f32, "[2]", "[0,8]") + "      ", 8), nullptr},
      {"rank 0", file_of(one(f32, "[]", "[0,4]"), 4), nullptr},
      {"empty tensor", file_of(one(f32, "[0]", "[0,0]")), nullptr},
      {"empty tensor of high rank", file_of(one(f32, "[0,3,5,7]", "[0,0]")), nullptr},
      {"empty tensor in the middle",
       file_of(
           R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"e":{"dtype":"U8","shape":[0],)"
           R"("data_offsets":[2,2]},)"
           R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
           3),
       nullptr},
      {"header out of order",
       file_of(
           R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},"a":{"dtype":"U8","shape":[2],)"
           R"("data_offsets":[0,2]}})",
           3),
       nullptr},
      {"unaligned data",
       file_of(
           R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"y":{"dtype":"F32","shape":[1],)"
           R"("data_offsets":[1,5]}})",
           5),
       nullptr},
      {"white space",
       file_of("{ \"a\" :\n{ \"shape\":[ 2 ],\t\"dtype\":\"F32\" , \"data_offsets\":[0 ,8]} }", 8),
       nullptr},
      {"empty name", file_of(R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
       nullptr},
      {"UTF-8 name",
       file_of("{\"\xc3\xa9\xe2\x82\xac\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
               1),
       nullptr},
      {"escaped NUL in a name",
       file_of(R"({"a\u0000b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1), nullptr},
      {"unknown member",
       file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"note":7}})", 1), nullptr},
      {"4-bit dtype on whole bytes", file_of(one(R"("F4")", "[4]", "[0,2]"), 2), nullptr},
      {"8-bit float", file_of(one(R"("F8_E4M3")", "[3]", "[0,3]"), 3), nullptr},

      // The length field.
      {"empty file", "", "at least 8 bytes"},
      {"7 bytes", std::string(7, '\0'), "at least 8 bytes"},
      {"only a length", raw(std::uint64_t{2}), "within the file"},
      {"length 0", raw(std::uint64_t{0}), "it is empty"},
      {"length one beyond the file", raw(std::uint64_t{3}) + "{}", "within the file"},
      {"length one too short", raw(std::uint64_t{1}) + "{}", "parse error"},
      {"length above the limit", raw(std::uint64_t{100'000'001}) + "{}", "at most 100000000"},
      {"length at the limit", raw(std::uint64_t{100'000'000}) + "{}", "within the file"},
      {"length 2^63", raw(std::uint64_t{1} << 63) + "{}", "at most 100000000"},
      {"length 2^64 - 1", raw(~std::uint64_t{0}) + "{}", "at most 100000000"},
      {"length 2^64 - 8", raw(~std::uint64_t{0} - 7) + "{}", "at most 100000000"},
      {"big-endian length", std::string("\0\0\0\0\0\0\0\2{}", 10), "at most 100000000"},

      // Another file in its place.
      {"Git LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
       "it is a Git LFS pointer"},
      {"HTML", "<!DOCTYPE html><title>Not found</title>", "it is an HTML page"},
      {"NumPy array", "\x93NUMPY\1\0v\0{'descr'"s, "it is a NumPy array"},

      // The JSON text.
      {"not an object", file_of("[]"), "begin with '{'"},
      {"a string", file_of("\"a\""), "begin with '{'"},
      {"a number", file_of("17"), "begin with '{'"},
      {"null", file_of("null"), "begin with '{'"},
      {"half an object", file_of("{"), "parse error"},
      {"a key without quotes", file_of("{a:1}"), "parse error"},
      {"a key without a value", file_of(R"({"a"})"), "parse error"},
      {"UTF-16", file_of("\xff\xfe{\0}\0"s), "it is UTF-16 text"},
      {"leading space", file_of(" {}"), "begin with '{'"},
      {"byte order mark", file_of("\xef\xbb\xbf{}"), "begin with '{'"},
      {"unclosed", file_of("{\"a\":{"), "parse error"},
      {"trailing text", file_of("{}x"), "parse error"},
      {"two objects", file_of("{}{}"), "parse error"},
      {"trailing comma", file_of("{\"__metadata__\":{},}"), "parse error"},
      {"comment", file_of("{/* */}"), "parse error"},
      {"single quotes", file_of("{'a':1}"), "parse error"},
      {"NUL padding", file_of("{}\0\0"s), "is a NUL"},
      {"text behind a NUL", file_of("{}\0{\"a\":1}"s), "is a NUL"},
      {"invalid UTF-8",
       file_of("{\"\xff\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1), "UTF-8"},
      {"overlong UTF-8",
       file_of("{\"\xc0\xaf\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1),
       "UTF-8"},
      {"surrogate in UTF-8",
       file_of("{\"\xed\xa0\x80\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1),
       "UTF-8"},
      {"lone surrogate escape",
       file_of(R"({"\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1), "parse error"},
      {"control character in a name",
       file_of("{\"a\nb\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1),
       "parse error"},
      {"deep arrays",
       file_of("{\"a\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}"), "nested"},
      {"deep arrays, unclosed", file_of("{\"a\":" + std::string(1'000'000, '[')), "nested"},
      {"deep objects", file_of([] {
         std::string text;
         for (int i = 0; i < 10'000; ++i) text += "{\"a\":";
         return text;
       }()),
       "nested"},

      // Duplicate keys.
      {"duplicate tensor",
       file_of(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],)"
           R"("data_offsets":[0,1]}})",
           1),
       "occurs twice"},
      {"duplicate tensor, escaped",
       file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8",)"
               R"("shape":[1],"data_offsets":[0,1]}})",
               1),
       "occurs twice"},
      {"duplicate member",
       file_of(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
       "occurs twice"},
      {"duplicate metadata", file_of(R"({"__metadata__":{},"__metadata__":{}})"), "occurs twice"},
      {"duplicate metadata key", file_of(R"({"__metadata__":{"k":"1","k":"2"}})"), "occurs twice"},

      // Metadata.
      {"metadata is a string", file_of(R"({"__metadata__":"x"})"),
       "'__metadata__' must be an object"},
      {"metadata is null", file_of(R"({"__metadata__":null})"), "'__metadata__' must be an object"},
      {"metadata with a number", file_of(R"({"__metadata__":{"a":1}})"), "strings to strings"},
      {"metadata is a list", file_of(R"({"__metadata__":[]})"), "'__metadata__' must be an object"},
      {"metadata with null", file_of(R"({"__metadata__":{"a":null}})"), "strings to strings"},
      {"metadata with a list", file_of(R"({"__metadata__":{"a":[]}})"), "strings to strings"},
      {"header checksum is wrong", file_of(R"({"__metadata__":{"dropbp.crc32c":"00000000"}})"),
       "checksum"},
      {"header checksum is no number", file_of(R"({"__metadata__":{"dropbp.crc32c":"0000000g"}})"),
       "checksum"},
      {"header checksum is short", file_of(R"({"__metadata__":{"dropbp.crc32c":""}})"), "checksum"},
      {"metadata with an object", file_of(R"({"__metadata__":{"a":{}}})"), "strings to strings"},

      // Tensor entries.
      {"entry is a list", file_of(R"({"a":["F32",[2],[0,8]]})", 8), "must be an object"},
      {"entry is null", file_of(R"({"a":null})"), "must be an object"},
      {"no dtype", file_of(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8),
       "must have a 'dtype'"},
      {"no shape", file_of(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8),
       "must have a 'shape'"},
      {"no offsets", file_of(R"({"a":{"dtype":"F32","shape":[2]}})", 8),
       "must have a 'data_offsets'"},
      {"unknown dtype", file_of(one(R"("F128")", "[1]", "[0,16]"), 16),
       "must be one of the format's"},
      {"dtype in lower case", file_of(one(R"("f32")", "[1]", "[0,4]"), 4),
       "must be one of the format's"},
      {"dtype is a number", file_of(one("32", "[1]", "[0,4]"), 4), "must be a string"},
      {"shape is a number", file_of(one(f32, "2", "[0,8]"), 8), "must be a list"},
      {"negative size", file_of(one(f32, "[-2]", "[0,8]"), 8), "whole number"},
      {"minus zero", file_of(one(f32, "[-0]", "[0,0]")), "whole number"},
      {"fractional size", file_of(one(f32, "[2.0]", "[0,8]"), 8), "whole number"},
      {"exponent size", file_of(one(f32, "[2e0]", "[0,8]"), 8), "whole number"},
      {"size as text", file_of(one(f32, "[\"2\"]", "[0,8]"), 8), "whole number"},
      {"size is NaN", file_of(one(f32, "[NaN]", "[0,4]"), 4), "parse error"},
      {"size with a plus", file_of(one(f32, "[+2]", "[0,8]"), 8), "parse error"},
      {"size with a zero in front", file_of(one(f32, "[02]", "[0,8]"), 8), "parse error"},
      {"size is true", file_of(one(f32, "[true]", "[0,4]"), 4), "whole number"},
      {"size is a list", file_of(one(f32, "[[2]]", "[0,8]"), 8), "whole number"},
      {"size of 2^64", file_of(one(f32, "[18446744073709551616]", "[0,8]"), 8), "whole number"},
      {"size of 2^63", file_of(one(f32, "[9223372036854775808]", "[0,8]"), 8), "below 2^63"},
      {"shape product wraps to the span", file_of(one(f32, "[4294967296,4294967296]", "[0,0]")),
       "whole number of bytes"},
      {"shape x dtype wraps to the span", file_of(one(f32, "[4611686018427387904]", "[0,0]")),
       "whole number of bytes"},
      {"shape product wraps, three sizes",
       file_of(one(f32, "[" + huge + "," + huge + ",4]", "[0,16]"), 16), "whole number of bytes"},
      {"half a byte", file_of(one(R"("F4")", "[3]", "[0,2]"), 2), "whole number of bytes"},
      {"6-bit dtype across bytes", file_of(one(R"("F6_E2M3")", "[2]", "[0,2]"), 2),
       "whole number of bytes"},
      {"complex, half", file_of(one(R"("C64")", "[1]", "[0,4]"), 4), "must span 8 bytes"},
      {"span too long", file_of(one(f32, "[2]", "[0,12]"), 12), "must span 8 bytes"},
      {"span too short", file_of(one(f32, "[2]", "[0,4]"), 4), "must span 8 bytes"},
      {"span of another dtype", file_of(one(R"("F16")", "[2]", "[0,8]"), 8), "must span 4 bytes"},
      {"rank 0 without data", file_of(one(f32, "[]", "[0,0]")), "must span 4 bytes"},

      // Offsets.
      {"one offset", file_of(one(f32, "[2]", "[8]"), 8), "two numbers"},
      {"three offsets", file_of(one(f32, "[2]", "[0,8,8]"), 8), "two numbers"},
      {"offsets are an object", file_of(one(f32, "[2]", "{\"0\":0,\"1\":8}"), 8), "two numbers"},
      {"negative offset", file_of(one(f32, "[2]", "[-8,0]"), 8), "whole number"},
      {"fractional offset", file_of(one(f32, "[2]", "[0,8.0]"), 8), "whole number"},
      {"offset of 2^64", file_of(one(f32, "[2]", "[0,18446744073709551616]"), 8), "whole number"},
      {"decreasing offsets", file_of(one(f32, "[2]", "[8,0]"), 8), "must not decrease"},
      {"offsets wrap", file_of(one(f32, "[2]", "[18446744073709551612,4]"), 8),
       "must not decrease"},
      {"not from 0", file_of(one(f32, "[2]", "[4,12]"), 12), "without holes"},
      {"far beyond the file",
       file_of(one(f32, "[2]", "[18446744073709551607,18446744073709551615]"), 8), "without holes"},
      {"hole",
       file_of(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],)"
           R"("data_offsets":[2,3]}})",
           3),
       "without holes"},
      {"overlap",
       file_of(
           R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],)"
           R"("data_offsets":[1,3]}})",
           3),
       "without overlap"},
      {"same bytes twice",
       file_of(
           R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],)"
           R"("data_offsets":[0,2]}})",
           2),
       "without overlap"},
      {"empty tensor inside another",
       file_of(
           R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[0],)"
           R"("data_offsets":[1,1]}})",
           2),
       "without overlap"},
      {"empty tensor beyond the end",
       file_of(
           R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[0],)"
           R"("data_offsets":[9,9]}})",
           2),
       "without holes"},
      {"data cut", file_of(one(f32, "[2]", "[0,8]"), 7), "truncated"},
      {"no data", file_of(one(f32, "[2]", "[0,8]")), "truncated"},
      {"bytes after the last tensor", file_of(one(f32, "[2]", "[0,8]"), 9),
       "the tensors end at byte 8"},
      {"bytes without tensors", file_of("{}", 1), "the tensors end at byte 0"},
  };
}

/// Three tensors and metadata, as the writer makes them.
std::string small_file(const TemporaryFolder& folder) {
  const std::vector<float> a{1, -2, 3, 0.5f, -0.25f, 6}, b{7};
  const std::vector<TensorToWrite> tensors{
      {"a", {2, 3}, a}, {"scalar", {}, b}, {"empty", {0, 4}, {}}};
  write_safetensors(folder / "small", tensors, DType::f32, {{"format", "pt"}, {"k", "v"}});
  return test::read_bytes(folder / "small");
}

}  // namespace

TEST_CASE("safetensors: unusual files are read, malformed files are errors") {
  const TemporaryFolder folder;
  const auto path = folder / "case.safetensors";
  const auto all = cases();
  std::printf("safetensors: %zu odd or malformed files\n", all.size());
  CHECK(all.size() >= 100);
  std::size_t right = 0;
  for (const Case& c : all) {
    test::write_bytes(path, c.bytes);
    INFO(c.name);
    if (c.message == nullptr) {
      CHECK_NOTHROW(SafetensorsFile(path));
    } else {
      test::check_throws<std::runtime_error>([&] { SafetensorsFile file(path); },
                                             {path.string(), c.message, "; "});
    }
    ++right;
  }
  dropbp_test::promise(15, "files=%zu right_verdicts=%zu", all.size(), right);
}

TEST_CASE("safetensors: a path that is not a file is an error that says so") {
  const TemporaryFolder folder;
  test::check_throws<std::runtime_error>([&] { SafetensorsFile file(folder / "nothing"); },
                                         {"nothing", "No such file"});
  test::check_throws<std::runtime_error>([&] { SafetensorsFile file(folder.path()); }, {"folder"});
  test::check_throws<std::runtime_error>([&] { SafetensorsFile file("/dev/zero"); },
                                         {"not a regular file"});
}

TEST_CASE("safetensors: every truncation and extension of a good file is rejected") {
  const TemporaryFolder folder;
  const std::string good = small_file(folder);
  REQUIRE_NOTHROW(SafetensorsFile(folder / "small"));
  for (std::size_t size = 0; size < good.size(); ++size) {
    test::write_bytes(folder / "cut", good.substr(0, size));
    INFO("cut to " << size << " bytes");
    test::check_throws<std::runtime_error>([&] { SafetensorsFile file(folder / "cut"); }, {"cut"});
  }
  test::write_bytes(folder / "cut", good + '\0');
  test::check_throws<std::runtime_error>([&] { SafetensorsFile file(folder / "cut"); },
                                         {"the tensors end at"});
}

TEST_CASE("safetensors: every flipped bit of a file with checksums is an error") {
  const TemporaryFolder folder;
  const std::string good = small_file(folder);
  std::size_t accepted = 0;
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    test::write_bytes(folder / "flipped", bad);
    try {
      SafetensorsFile(folder / "flipped").verify();
      ++accepted;
    } catch (const std::runtime_error&) {
    }
  }
  CHECK(accepted == 0);
  CHECK_NOTHROW(SafetensorsFile(folder / "small").verify());
  dropbp_test::promise(14, "flips=%zu accepted=%zu", good.size() * 8, accepted);
}

TEST_CASE(
    "safetensors: a flipped bit of a header without checksums is an error or another legal "
    "header") {
  const TemporaryFolder folder;
  const std::string good =
      file_of(R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
              R"("e":{"dtype":"F32","shape":[0,4],"data_offsets":[8,8]}})",
              8);
  std::size_t accepted = 0;
  for (std::size_t bit = 0; bit < (good.size() - 8) * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    test::write_bytes(folder / "flipped", bad);
    try {
      const SafetensorsFile file(folder / "flipped");
      ++accepted;  // a letter of a name or of the metadata
      for (const TensorInfo& tensor : file.tensors()) {
        std::vector<float> values(tensor.elements());
        if (tensor.dtype == DType::f32) file.read(tensor.name, values);
      }
      test::check_throws<std::runtime_error>([&] { file.verify(); },
                                             {"flipped", "must carry checksums"});
    } catch (const std::runtime_error&) {
    }
  }
  CHECK(accepted > 0);
  CHECK(accepted < 150);
}

TEST_CASE("safetensors: reading a tensor checks its checksum, in every dtype") {
  const TemporaryFolder folder;
  std::vector<float> values(70'000, 0.5f), other(3, 2.0f);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    write_safetensors(folder / "t",
                      std::vector<TensorToWrite>{{"a", {70'000}, values}, {"b", {3}, other}},
                      dtype);
    std::string bytes = test::read_bytes(folder / "t");
    bytes[bytes.size() - 10 * dtype_bits(dtype) / 8] ^= 1;
    test::write_bytes(folder / "t", bytes);
    const SafetensorsFile file(folder / "t");
    test::check_throws<std::runtime_error>([&] { file.read("a", values); },
                                           {"'a'", "checksum", "damaged"});
    CHECK_NOTHROW(file.read("b", other));
    std::vector<std::byte> raw_values(70'000 * dtype_bits(dtype) / 8);
    test::check_throws<std::runtime_error>([&] { file.read_bytes("a", raw_values); },
                                           {"'a'", "checksum"});
    test::check_throws<std::runtime_error>([&] { file.verify(); }, {"'a'", "checksum"});
    values.assign(70'000, 0.5f);
  }
}

TEST_CASE("safetensors: tensors of any dtype are written unchanged and read back") {
  const TemporaryFolder folder;
  const std::vector<double> doubles{0.1, -0.0, std::numeric_limits<double>::quiet_NaN()};
  const std::vector<std::uint64_t> counts{~std::uint64_t{0}, 1};
  const std::vector<RawTensor> tensors{{"d", DType::f64, {3}, std::as_bytes(std::span(doubles))},
                                       {"none", DType::u8, {0, 7}, {}},
                                       {"c", DType::u64, {2, 1}, std::as_bytes(std::span(counts))}};
  AtomicFile out(folder / "t");
  write_safetensors(out, tensors, {{"k", "v"}});
  out.publish();
  const SafetensorsFile file(folder / "t");
  file.verify();
  CHECK(file.metadata() == std::map<std::string, std::string>{{"k", "v"}});
  for (const RawTensor& tensor : tensors) {
    const TensorInfo* const info = file.find(tensor.name);
    REQUIRE(info != nullptr);
    CHECK(info->dtype == tensor.dtype);
    CHECK(info->shape == tensor.shape);
    std::vector<std::byte> bytes(tensor.bytes.size());
    file.read_bytes(tensor.name, bytes);
    CHECK(std::ranges::equal(bytes, tensor.bytes));
  }
  std::vector<std::byte> two(2);  // as many as "c" has elements
  test::check_throws<std::invalid_argument>([&] { file.read_bytes("c", two); },
                                            {"'c'", "16 bytes", "2 were given"});
  test::check_throws<std::runtime_error>([&] { file.read_bytes("x", two); }, {"'x'"});
  AtomicFile refused(folder / "u");
  test::check_throws<std::invalid_argument>(
      [&] { write_safetensors(refused, tensors, {{"dropbp.crc32c.d", "0"}}); },
      {"checksums", "dropbp.crc32c.d"});
}

TEST_CASE("crc32c: the known answers of RFC 3720, in one piece and in two") {
  std::string rising(32, '\0');
  for (std::size_t i = 0; i < 32; ++i) rising[i] = static_cast<char>(i);
  const struct {
    std::string bytes;
    std::uint32_t checksum;
  } cases[] = {{"", 0},
               {"123456789", 0xe3069283u},
               {std::string(32, '\0'), 0x8a9136aau},
               {std::string(32, '\xff'), 0x62a8ab43u},
               {rising, 0x46dd794eu},
               {std::string(rising.rbegin(), rising.rend()), 0x113fdb5cu}};
  for (const auto& c : cases) {
    CHECK(crc32c(0, c.bytes.data(), c.bytes.size()) == c.checksum);
    for (std::size_t cut = 0; cut <= c.bytes.size(); ++cut)
      CHECK(crc32c(crc32c(0, c.bytes.data(), cut), c.bytes.data() + cut, c.bytes.size() - cut) ==
            c.checksum);
  }
}

TEST_CASE("safetensors: random bytes in the header give at most an error") {
  const TemporaryFolder folder;
  const std::string good = small_file(folder);
  std::mt19937 random(1);
  const std::string alphabet = "{}[],:\"0123456789-.eE \\u\0aF\xff"s;
  for (int i = 0; i < 3000; ++i) {
    std::string bad = good;
    for (unsigned k = 0; k < 1 + random() % 4; ++k)
      bad[8 + random() % (good.size() - 8 - 28)] = alphabet[random() % alphabet.size()];
    test::write_bytes(folder / "fuzzed", bad);
    try {
      const SafetensorsFile file(folder / "fuzzed");
    } catch (const std::runtime_error&) {
    }
  }
  SUCCEED();
}

TEST_CASE("safetensors: a written file is read back") {
  const TemporaryFolder folder;
  const std::vector<float> a{1.5f,
                             -0.0f,
                             std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::denorm_min(),
                             3e38f,
                             6};
  const std::vector<float> b{7};
  std::vector<float> large(200'000);
  for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<float>(i % 1000) - 500.0f;
  const std::vector<TensorToWrite> tensors{{"z.first", {2, 3}, a},
                                           {"scalar", {}, b},
                                           {"empty", {3, 0}, {}},
                                           {"large \"quoted\" \xc3\xa9", {400, 500}, large}};

  for (const DType dtype : {DType::f32, DType::bf16}) {
    write_safetensors(folder / "t", tensors, dtype, {{"format", "pt"}, {"note", "line\nline"}});
    const SafetensorsFile file(folder / "t");
    CHECK(file.metadata() ==
          std::map<std::string, std::string>{{"format", "pt"}, {"note", "line\nline"}});
    REQUIRE(file.tensors().size() == 4);
    CHECK(file.tensors()[0].name == "z.first");
    CHECK(file.tensors()[3].begin == (dtype == DType::f32 ? 28u : 14u));
    std::uint64_t header = 0;
    const std::string bytes = test::read_bytes(folder / "t");
    std::memcpy(&header, bytes.data(), 8);
    CHECK(header % 8 == 0);
    for (const TensorToWrite& tensor : tensors) {
      const TensorInfo* info = file.find(tensor.name);
      REQUIRE(info != nullptr);
      CHECK(info->shape == tensor.shape);
      CHECK(info->dtype == dtype);
      std::vector<float> values(tensor.values.size());
      file.read(tensor.name, values);
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        const float expected = dtype == DType::f32
                                   ? tensor.values[i]
                                   : bfloat16_to_float(float_to_bfloat16(tensor.values[i]));
        wrong += std::bit_cast<std::uint32_t>(values[i]) != std::bit_cast<std::uint32_t>(expected);
      }
      CHECK(wrong == 0);
    }
  }
  CHECK(!std::filesystem::exists(folder / "t.tmp"));
}

TEST_CASE("safetensors: the largest F16 and BF16 are written") {
  const TemporaryFolder folder;
  for (const auto& [dtype, largest] :
       {std::pair(DType::f16, 65504.0f), std::pair(DType::bf16, bfloat16_to_float(0x7f7f))}) {
    const std::vector<float> ends{largest, -largest};
    write_safetensors(folder / "t", std::vector<TensorToWrite>{{"a", {2}, ends}}, dtype);
    std::vector<float> values(2);
    SafetensorsFile(folder / "t").read("a", values);
    CHECK(values == ends);
  }
}

TEST_CASE("safetensors: a part of a tensor is read, and never beyond its end") {
  const TemporaryFolder folder;
  const std::vector<float> three{1, 2, 3};
  for (const DType dtype : {DType::f32, DType::f16}) {
    write_safetensors(folder / "t", std::vector<TensorToWrite>{{"a", {3}, three}}, dtype);
    const SafetensorsFile file(folder / "t");
    std::vector<float> two(2), none;
    file.read("a", 1, two);
    CHECK(two == std::vector<float>{2, 3});
    CHECK_NOTHROW(file.read("a", 3, none));
    constexpr std::size_t last = ~std::size_t{0};
    for (const std::size_t first : {std::size_t{2}, std::size_t{3}, std::size_t{4}, last})
      test::check_throws<std::invalid_argument>([&] { file.read("a", first, two); },
                                                {"its 3 values", "2 from"});
    test::check_throws<std::invalid_argument>([&] { file.read("a", 4, none); }, {"0 from 4"});
    test::check_throws<std::runtime_error>([&] { file.read("b", 0, two); }, {"tensor 'b'"});
    CHECK(two == std::vector<float>{2, 3});
  }
}

TEST_CASE("safetensors: wrong arguments of the writer are named") {
  const TemporaryFolder folder;
  const std::vector<float> two{1, 2};
  const auto write = [&](std::vector<TensorToWrite> tensors, DType dtype = DType::f32) {
    write_safetensors(folder / "t", tensors, dtype);
  };
  test::check_throws<std::invalid_argument>([&] { write({{"a", {3}, two}}); },
                                            {"'a'", "[3]", "has 2"});
  test::check_throws<std::invalid_argument>([&] { write({{"a", {-1, -2}, two}}); },
                                            {"'a'", "[-1, -2]"});
  test::check_throws<std::invalid_argument>([&] { write({{"a", {2}, two}, {"a", {2}, two}}); },
                                            {"unique", "'a'"});
  test::check_throws<std::invalid_argument>([&] { write({{"__metadata__", {2}, two}}); },
                                            {"'__metadata__'"});
  test::check_throws<std::invalid_argument>([&] { write({{"\xff", {2}, two}}); }, {"UTF-8"});
  test::check_throws<std::invalid_argument>([&] { write({{"a", {2}, two}}, DType::i32); },
                                            {"F32, F16 or BF16", "I32"});
  const std::vector<float> large{1.0f, 65520.0f};
  test::check_throws<std::runtime_error>([&] { write({{"a", {2}, large}}, DType::f16); },
                                         {"'a'", "F16", "65520"});
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("safetensors: F16 and BF16 convert exactly, and round to nearest even") {
  std::size_t wrong = 0;
  for (std::uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float from_half = half_to_float(half), from_bf16 = bfloat16_to_float(half);
    // An independent value: sign, 2^exponent, mantissa.
    const int exponent = (half >> 10) & 31;
    if (exponent != 31) {
      const double magnitude = exponent == 0 ? std::ldexp(half & 1023, -24)
                                             : std::ldexp((half & 1023) | 1024, exponent - 25);
      wrong += static_cast<double>(from_half) != ((half & 0x8000) != 0 ? -magnitude : magnitude);
      wrong += std::signbit(from_half) != ((half & 0x8000) != 0);
    }
    // A NaN keeps its sign and the bits that fit, and becomes a quiet one.
    wrong += float_to_half(from_half) != (std::isnan(from_half) ? half | 0x200 : half);
    wrong += float_to_bfloat16(from_bf16) != (std::isnan(from_bf16) ? half | 0x40 : half);
    if (exponent == 31 || half >= 0x7bff) continue;
    // Between this half and the next: below, at and above the middle.
    const float next = half_to_float(static_cast<std::uint16_t>(half + 1)),
                middle = (from_half + next) / 2;
    wrong += float_to_half(std::nextafter(middle, 0.0f)) != half;
    wrong += float_to_half(middle) != (half % 2 == 0 ? half : half + 1);
    wrong += float_to_half(std::nextafter(middle, 1e9f)) != half + 1;
  }
  CHECK(wrong == 0);
  CHECK(float_to_half(65519.996f) == 0x7bff);
  CHECK(float_to_half(65520.0f) == 0x7c00);
  CHECK(float_to_half(-std::numeric_limits<float>::infinity()) == 0xfc00);
  CHECK(float_to_half(std::numeric_limits<float>::denorm_min()) == 0);
  CHECK(float_to_bfloat16(std::bit_cast<float>(0x3f808000u)) == 0x3f80);  // ties to even, down
  CHECK(float_to_bfloat16(std::bit_cast<float>(0x3f818000u)) == 0x3f82);  // and up
  CHECK(float_to_bfloat16(std::bit_cast<float>(0x3f808001u)) == 0x3f81);
  CHECK(std::isnan(bfloat16_to_float(float_to_bfloat16(std::bit_cast<float>(0x7f800001u)))));
}

TEST_CASE("safetensors: numbers are converted only if they fit") {
  const TemporaryFolder folder;
  const auto file_with = [&](const std::string& dtype, const std::string& data, std::size_t count) {
    test::write_bytes(folder / "t",
                      file_of(one('"' + dtype + '"', '[' + std::to_string(count) + ']',
                                  "[0," + std::to_string(data.size()) + ']')) +
                          data);
    return SafetensorsFile(folder / "t");
  };
  std::vector<std::int32_t> two(2);
  std::vector<float> floats(2);

  file_with("I64", raw(std::int64_t{-5}) + raw(std::int64_t{2147483647}), 2).read("a", two);
  CHECK(two == std::vector<std::int32_t>{-5, 2147483647});
  file_with("U16", raw(std::uint16_t{65535}) + raw(std::uint16_t{1}), 2).read("a", two);
  CHECK(two == std::vector<std::int32_t>{65535, 1});
  file_with("I8", raw(std::int8_t{-128}) + raw(std::int8_t{127}), 2).read("a", two);
  CHECK(two == std::vector<std::int32_t>{-128, 127});
  file_with("U8", raw(std::uint8_t{255}) + raw(std::uint8_t{0}), 2).read("a", two);
  CHECK(two == std::vector<std::int32_t>{255, 0});
  test::check_throws<std::runtime_error>(
      [&] {
        file_with("I64", raw(std::int64_t{1}) + raw(std::int64_t{2147483648}), 2).read("a", two);
      },
      {"'a'", "2147483648"});
  test::check_throws<std::runtime_error>(
      [&] { file_with("U32", raw(~0u) + raw(1u), 2).read("a", two); }, {"'a'", "4294967295"});
  test::check_throws<std::runtime_error>(
      [&] { file_with("U64", raw(~std::uint64_t{0}) + raw(std::uint64_t{1}), 2).read("a", two); },
      {"18446744073709551615"});
  test::check_throws<std::runtime_error>(
      [&] { file_with("F32", raw(1.0f) + raw(2.0f), 2).read("a", two); }, {"integer dtype", "F32"});

  file_with("F64", raw(0.1) + raw(-std::numeric_limits<double>::infinity()), 2).read("a", floats);
  CHECK(floats[0] == 0.1f);
  CHECK(std::isinf(floats[1]));
  test::check_throws<std::runtime_error>(
      [&] { file_with("F64", raw(1e39) + raw(1.0), 2).read("a", floats); },
      {"fit a float", "1e+39"});
  test::check_throws<std::runtime_error>(
      [&] { file_with("I32", raw(1) + raw(2), 2).read("a", floats); },
      {"F32, F16, BF16 or F64", "I32"});
  test::check_throws<std::runtime_error>([&] { file_with("F32", raw(1.0f), 1).read("b", floats); },
                                         {"tensor 'b'"});
  test::check_throws<std::invalid_argument>(
      [&] { file_with("F32", raw(1.0f), 1).read("a", floats); }, {"room for 1", "2 were given"});
}

TEST_CASE("safetensors: a file that is cut after it was opened is an error, not a crash") {
  const TemporaryFolder folder;
  const std::string good = small_file(folder);
  const SafetensorsFile file(folder / "small");
  std::filesystem::resize_file(folder / "small", good.size() - 20);
  std::vector<float> values(6);
  test::check_throws<std::runtime_error>([&] { file.read("a", values); }, {"small", "cut"});

  // Whole pages: touching their map raises SIGBUS.
  std::vector<float> large(100'000, 1.0f);
  for (const DType dtype : {DType::f32, DType::f16}) {
    write_safetensors(folder / "large", std::vector<TensorToWrite>{{"a", {100'000}, large}}, dtype);
    const SafetensorsFile mapped(folder / "large");
    std::filesystem::resize_file(folder / "large", 50'000);
    for (int repeat = 0; repeat < 2; ++repeat)
      test::check_throws<std::runtime_error>([&] { mapped.read("a", large); }, {"large", "cut"});
    std::filesystem::resize_file(folder / "large", 0);
    test::check_throws<std::runtime_error>([&] { mapped.read("a", large); }, {"large", "cut"});
  }
}

TEST_CASE("safetensors: a bus error outside of the library's maps still ends the program") {
  const TemporaryFolder folder;
  small_file(folder);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    close(STDERR_FILENO);  // a sanitizer's report is what is wanted here
    const SafetensorsFile file(folder / "small");
    raise(SIGBUS);
    raise(SIGBUS);  // a faulting access repeats itself
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(status != 0);  // a signal, or a sanitizer's report
}

TEST_CASE("safetensors: the golden model reads as python's struct module reads it") {
  const SafetensorsFile file(std::filesystem::path(DROPBP_TEST_DATA) /
                             "llama-tiny/model.safetensors");
  CHECK(file.metadata().at("format") == "pt");
  std::vector<float> embedding(64 * 16);
  file.read("model.embed_tokens.weight", embedding);
  CHECK(embedding[0] == -0.21790269f);
  CHECK(embedding[1023] == 0.128403217f);
  std::vector<float> head(64 * 16);
  file.read("lm_head.weight", head);
  CHECK(head[777] == 0.486332864f);
  const SafetensorsFile tokens(std::filesystem::path(DROPBP_TEST_DATA) /
                               "llama-tiny/tokens.safetensors");
  const TensorInfo& ids = *tokens.find("input_ids");
  std::vector<std::int32_t> values(ids.elements());
  tokens.read("input_ids", values);
  CHECK(values.front() == 10);
  CHECK(values.back() == 26);
}
