// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The most memory that is alive while a model is loaded: counted by replacing the global operator
// new of this program.
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <optional>

#include "llama/files.hpp"
#include "llama/model.hpp"
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

constexpr LlamaConfig shape{
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
    ops::LoraConfig adaptation;
    if (quantize) adaptation = {.rank = 1, .quantize = true};
    LlamaModel<float> model(shape, 8, {.adaptation = adaptation});
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
