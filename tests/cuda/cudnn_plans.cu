// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Checks cuDNN's answers to our attention graphs for GPUs that are only described: cuDNN accepts
// the graphs, has deterministic engines whose workspace fits the free memory, and builds their
// kernels up to the point where a driver must load them. It needs no GPU; the toolkit's stub of
// libcuda is enough. A shape that another version of cuDNN refuses is no failure: the library's own
// kernels run instead.
#include <cstddef>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "dropbp/kernels/cuda/cudnn.cuh"

namespace {

using namespace dropbp::cuda;
using namespace dropbp::cuda::detail;

struct Card {
  const char* name;
  int capability, processors, shared_bytes;

  std::string json() const {
    const auto number = [](const char* key, long long value) {
      return std::string(",\"") + key + "\":" + std::to_string(value);
    };
    return "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64]" +
           number("regsPerBlock", 65536) + number("multiProcessorCount", processors) +
           number("warpSize", 32) + number("maxSharedMemoryPerBlock", 49152) +
           number("maxSharedMemoryPerBlockOptin", shared_bytes) +
           number("reservedSharedMemoryPerBlock", 1024) + number("maxRegistersPerSM", 65536) +
           number("maxCtasPerSM", 32) + number("maxThreadsPerBlock", 1024) +
           number("maxThreadsPerSM", 2048) + number("pciDeviceId", 0) + number("isTccDriver", 0) +
           number("supportCoopLaunch", 1) + number("smClockRateKHz", 1980000) +
           number("memClockRateKHz", 2619000) + number("l2CacheSize", 52428800) +
           ",\"deviceName\":\"" + name + "\"" + number("deviceVer", 10 * capability) +
           number("driverVer", 13000) + number("totalGlobalMem", 80LL << 30) +
           number("cudaDeviceId", 0) + "}";
  }
};
/// Only for this version it is known which shapes run in parts and which are refused.
bool is_known_version() { return cudnnGetVersion() / 100 == 919; }

constexpr Card cards[] = {{"NVIDIA A100-SXM4-80GB", 80, 108, 166912},
                          {"NVIDIA H100 80GB HBM3", 90, 132, 232448},
                          {"NVIDIA B200", 100, 148, 232448}};

constexpr std::size_t GiB = std::size_t{1} << 30;

struct Case {
  AttentionShape shape;
  Index gap;  ///< elements between rows
  cudnnDataType_t type;
  Index part_batch, part_heads;  ///< of one call of the backward pass that stores ds
  std::size_t free = 80 * GiB;   ///< bytes
  /// Also without a fixed order, and with the kernels of the plans, which take seconds each.
  bool whole = true;
};
constexpr Case cases[] = {
    {{1, 4096, 32, 32, 128}, 0, CUDNN_DATA_BFLOAT16, 1, 16},                 // LLaMA2-7B
    {{1, 4096, 32, 32, 128}, 0, CUDNN_DATA_BFLOAT16, 1, 4, GiB / 2, false},  // little memory
    {{2, 4096, 64, 8, 128}, 0, CUDNN_DATA_BFLOAT16, 1, 16},                  // LLaMA2-70B
    {{1, 8192, 64, 8, 128}, 0, CUDNN_DATA_BFLOAT16, 1, 4, 80 * GiB, false},  // parts of a kv head
    {{1, 16384, 64, 8, 128}, 0, CUDNN_DATA_BFLOAT16, 1, 1, 80 * GiB, false},
    {{1, 32768, 64, 8, 128}, 0, CUDNN_DATA_BFLOAT16, 1, 1, 8 * GiB, false},  // more than 1 GiB
    {{4, 512, 12, 12, 64}, 0, CUDNN_DATA_HALF, 4, 12},
    {{2, 333, 8, 2, 64}, 16, CUDNN_DATA_BFLOAT16, 2, 8},
    {{1, 2, 1, 1, 8}, 0, CUDNN_DATA_HALF, 1, 1},
};

void require(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(what);
}

/// Whether the pass stores ds.
enum class Pass { forward, backward, backward_in_any_order };

/// Throws if a check fails.
void check(const Case& c, Pass pass, const CudnnTarget& target) {
  const AttentionShape& s = c.shape;
  const bool backward = pass != Pass::forward, any_order = pass == Pass::backward_in_any_order;
  const Index qkv = (s.heads + 2 * s.kv_heads) * s.head_size + c.gap,
              o = s.heads * s.head_size + c.gap;
  const AttentionKey key{
      0, c.type, backward, s, qkv, o, backward ? qkv : 0, backward ? o : 0, any_order};
  std::printf("sm_%-3d %-8s %td x %td tokens, %td / %td heads of %td: ", target.capability,
              backward ? "backward" : "forward", s.batch, s.sequence, s.heads, s.kv_heads,
              s.head_size);
  std::fflush(stdout);
  const AttentionBudget budget{.free = c.free};
  std::optional<AttentionChoice> choice;
  try {
    choice.emplace(AttentionChoice::make(key, target, budget));
  } catch (const CudnnRefusal& refusal) {
    if (is_known_version()) throw;
    std::printf("refused by this version of cuDNN: %s\n", refusal.what());
    return;
  }
  AttentionKey ordered = key;
  ordered.any_order = choice->any_order;
  const AttentionConfiguration& best = choice->configurations.front();
  std::printf("engine %lld, %zu bytes, %td x %td / %td heads at a time%s",
              static_cast<long long>(best.engine), choice->bytes(ordered, 0), choice->part.batch,
              choice->part.heads, choice->part.kv_heads, choice->any_order ? ", in any order" : "");
  std::fflush(stdout);
  const bool keeps_ds = backward && !any_order && target.capability / 10 != 10;
  if (is_known_version()) {
    require(choice->any_order == any_order, "another order was expected");
    // On Blackwell the workspace of grouped queries has their gradients, in bfloat16.
    require(!keeps_ds || (choice->part.batch == c.part_batch && choice->part.heads == c.part_heads),
            "another part was expected");
    require(backward || (choice->part.batch == s.batch && choice->part.heads == s.heads),
            "a forward pass was divided");
  }
  require(choice->bytes(ordered, 0) <= budget.most(), "it needs too much memory");
  require(choice->part.heads % choice->part.kv_heads == 0 && s.group() % choice->part.group() == 0,
          "query heads were cut off from their keys");
  if (!c.whole) {
    std::printf("\n");
    return;
  }
  try {
    const AttentionPlan plan(key, std::move(*choice), target, budget);
    std::printf("; loaded\n");
  } catch (const CudnnRefusal& refusal) {
    // The kernels exist; only the driver to load them is missing.
    const bool has_kernels =
        std::string(refusal.what()).find("cuLibraryLoadData") != std::string::npos;
    if (!has_kernels && is_known_version()) throw;
    std::printf("; not loaded: %s\n", has_kernels ? "there is no driver" : refusal.what());
  }
}

/// Shapes that cuDNN refuses, or that need more memory than is free: the library's own kernels run.
void check_refused(AttentionShape shape, bool backward, std::size_t free, const char* why,
                   const CudnnTarget& target) {
  const Index qkv = (shape.heads + 2 * shape.kv_heads) * shape.head_size,
              o = shape.heads * shape.head_size;
  std::string reason = "nothing was refused";
  try {
    AttentionChoice::make({0, CUDNN_DATA_BFLOAT16, backward, shape, qkv, o, qkv, o}, target,
                          {.free = free});
  } catch (const CudnnRefusal& refusal) {
    reason = refusal.what();
  }
  std::printf("sm_%-3d refused: %s\n", target.capability, reason.c_str());
  require(reason.find(why) != std::string::npos, why);
}

}  // namespace

int main() {
  int failures = 0;
  const auto count = [&](auto run) {
    try {
      run();
    } catch (const std::exception& error) {
      ++failures;
      std::printf("\n  FAILED: %s\n", error.what());
    }
  };
  for (const Card& card : cards) {
    Descriptor properties(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    const std::string json = card.json();
    properties.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, json.data(), json.size());
    properties.finish("the card's description must be understood");
    const CudnnTarget target{
        .capability = card.capability, .handle = nullptr, .properties = properties.get()};
    for (const Case& c : cases)
      for (const Pass pass : {Pass::forward, Pass::backward, Pass::backward_in_any_order})
        if (c.whole || pass == Pass::backward) count([&] { check(c, pass, target); });
    if (!is_known_version()) continue;
    count([&] { check_refused({1, 64, 2, 2, 20}, false, 80 * GiB, "no engine", target); });
    if (card.capability / 10 != 10)
      count([&] {
        check_refused({1, 32768, 4, 4, 64}, true, 2 * GiB,
                      "cuDNN needs 2.0 GiB for the smallest part, but may take 1.0 GiB of the 2.0 "
                      "GiB that are free",
                      target);
      });
  }
  std::printf(failures == 0 ? "cuDNN computes every graph\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
