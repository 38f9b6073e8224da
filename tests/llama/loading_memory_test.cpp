// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The most memory that is alive while a model is loaded: counted by replacing the global operator
// new of this program.
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "llama/files.hpp"
#include "llama/formats/safetensors.hpp"
#include "llama/model/model.hpp"
#include "support/catch.hpp"

namespace {

std::atomic<std::size_t> alive{0}, peak{0};

[[gnu::noinline]] void* counted(void* memory) noexcept {
  if (memory == nullptr) return nullptr;
  const std::size_t now = alive.fetch_add(malloc_usable_size(memory)) + malloc_usable_size(memory);
  std::size_t most = peak.load();
  while (now > most && !peak.compare_exchange_weak(most, now)) {
  }
  return memory;
}
[[gnu::noinline]] void* counted_or_throw(void* memory) {
  if (counted(memory) == nullptr) throw std::bad_alloc();
  return memory;
}
std::size_t at_least_one(std::size_t size) { return size == 0 ? 1 : size; }
void* aligned(std::size_t size, std::align_val_t alignment) noexcept {
  const auto grain = static_cast<std::size_t>(alignment);
  return std::aligned_alloc(grain, (at_least_one(size) + grain - 1) / grain * grain);
}
[[gnu::noinline]] void released(void* memory) noexcept {
  if (memory != nullptr) alive.fetch_sub(malloc_usable_size(memory));
  std::free(memory);
}

}  // namespace

void* operator new(std::size_t size) { return counted_or_throw(std::malloc(at_least_one(size))); }
void* operator new[](std::size_t size) { return counted_or_throw(std::malloc(at_least_one(size))); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return counted(std::malloc(at_least_one(size)));
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return counted(std::malloc(at_least_one(size)));
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  return counted_or_throw(aligned(size, alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  return counted_or_throw(aligned(size, alignment));
}
void operator delete(void* memory) noexcept { released(memory); }
void operator delete[](void* memory) noexcept { released(memory); }
void operator delete(void* memory, std::size_t) noexcept { released(memory); }
void operator delete[](void* memory, std::size_t) noexcept { released(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { released(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { released(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { released(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { released(memory); }

namespace {

using namespace llama;

const LlamaConfig shape{
    .vocabulary = 64, .hidden = 128, .intermediate = 512, .layers = 6, .heads = 4, .kv_heads = 2};

}  // namespace

TEST_CASE("loading: a quantised model takes its own size and one tensor, never the dense model") {
  const test::TemporaryFolder folder;
  {
    LlamaModel<float> model(shape, 8);
    model.initialize(1);
    save_weights(folder.path(), model);
  }
  for (const bool quantize : {false, true}) {
    CAPTURE(quantize);
    const std::size_t before = alive.load();
    peak.store(before);
    ops::LoraConfig lora;
    if (quantize) lora = {.rank = 1, .quantize = true};
    LlamaModel<float> model(shape, 8, {.lora = lora});
    load_weights(folder.path(), model);
    const std::size_t most = peak.load() - before, kept = alive.load() - before;
    const std::size_t dense = 4 * static_cast<std::size_t>(parameter_count(shape));
    const std::size_t tensor = 4 * 128 * 512;
    // The header, names and bookkeeping of the pools.
    const std::size_t small = 192 << 10;
    CAPTURE(most, kept, dense, model.base_bytes());
    CHECK(most <= model.base_bytes() + (quantize ? tensor : 0) + small);
    CHECK(kept >= model.base_bytes());
    if (quantize) CHECK(most < dense / 3);
    if (!quantize) CHECK(kept >= dense);
  }
}

namespace {

/// A file of this header and nothing else.
void write_header(const std::filesystem::path& path, const std::string& header) {
  const std::uint64_t length = header.size();
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);
  test::write_bytes(path, bytes + header);
}

/// As many different members made by `member(i)` as `bytes` hold, in an object.
std::string members(std::size_t bytes, const std::function<std::string(std::size_t)>& member) {
  std::string text = "{";
  for (std::size_t i = 0; text.size() < bytes; ++i)
    text.append(i == 0 ? "" : ",").append(member(i));
  return text + "}";
}

std::string many(std::string_view one, std::size_t bytes) {
  std::string text(one);
  while (text.size() < bytes) (text += ',') += one;
  return text;
}

/// The error of opening the file ("" for success), and the peak of memory without the header's
/// text.
std::pair<std::string, std::size_t> opened(const std::filesystem::path& path, std::size_t header) {
  std::string result;
  const std::size_t before = alive.load();
  peak.store(before);
  try {
    const SafetensorsFile file(path);
  } catch (const std::runtime_error& error) {
    result = error.what();
  }
  return {result, peak.load() - before - header};
}

}  // namespace

TEST_CASE("loading: any header takes at most a few times its own memory") {
  const test::TemporaryFolder folder;
  const std::size_t bytes = 16'000'000;  // a sixth of the largest header
  const std::string empty = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  const auto tensor = [&](std::size_t i) { return fmt::format(R"("{:x}":{})", i, empty); };
  const struct {
    const char* name;
    std::string header;
    const char* message;
  } cases[] = {
      {"tensors", members(bytes, tensor), "at most 262144 tensors"},
      {"metadata",
       R"({"__metadata__":)" +
           members(bytes, [](std::size_t i) { return fmt::format(R"("{:x}":"")", i); }) + "}",
       "at most 524288 values"},
      {"a shape", R"({"a":{"dtype":"U8","data_offsets":[0,0],"shape":[)" + many("0", bytes) + "]}}",
       "at most 524288 values"},
      {"shapes",
       members(bytes,
               [zeros = many("0", 1'000'000)](std::size_t i) {
                 return fmt::format(R"("{:x}":{{"dtype":"U8","data_offsets":[0,0],"shape":[{}]}})",
                                    i, zeros);
               }),
       ""},
      {"an unknown member", R"({"a":{"note":[)" + many("[]", bytes) + "]}}",
       "at most 524288 values"},
      {"a name", R"({")" + std::string(bytes, 'x') + R"(":)" + empty + "}", ""},
      {"a wrong name", R"({")" + std::string(bytes, 'x') + R"(":7})", "must be an object"},
      {"a wrong value", R"({"a":")" + std::string(bytes, 'x') + R"("})", "must be an object"},
      {"no JSON", R"({"a":)" + std::string(bytes, 'x'), "parse error"},
      {"a key twice",
       R"({")" + std::string(bytes / 2, 'x') + R"(":{"note":1,")" + std::string(bytes / 4, 'y') +
           R"(":1,")" + std::string(bytes / 4, 'y') + R"(":1}})",
       "occurs twice"},
  };
  for (const auto& c : cases) {
    INFO(c.name);
    write_header(folder / "file", c.header);
    const auto [result, most] = opened(folder / "file", c.header.size());
    CHECK((*c.message == '\0' ? result.empty() : result.find(c.message) != std::string::npos));
    CHECK(result.size() < 4000);
    CHECK(most < 6 * bytes);
  }
  // The largest number of tensors that is read.
  std::string header = "{" + tensor(0);
  for (std::size_t i = 1; i < (1u << 18); ++i) header.append(",").append(tensor(i));
  write_header(folder / "file", header + "}");
  const auto [result, most] = opened(folder / "file", header.size());
  CHECK(result == "");
  CHECK(most < 6 * header.size());
  write_header(folder / "file", header + "," + tensor(1u << 18) + "}");
  CHECK(opened(folder / "file", header.size()).first.find("tensors") != std::string::npos);
}
