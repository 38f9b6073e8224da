// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Checks cuDNN's answers to our attention graphs for GPUs that are only described: cuDNN accepts
// the graphs, has deterministic engines with a small enough workspace, and builds their kernels up
// to the point where a driver must load them. It needs no GPU; the toolkit's stub of libcuda is
// enough.
#include <cstdio>
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

struct Case {
  AttentionShape shape;
  Index gap;  ///< elements between rows
  cudnnDataType_t type;
  Index part_batch, part_kv_heads;  ///< of one call of the backward pass that stores ds
};
constexpr Case cases[] = {
    {{1, 4096, 32, 32, 128}, 0, CUDNN_DATA_BFLOAT16, 1, 16},  // LLaMA2-7B
    {{2, 4096, 64, 8, 128}, 0, CUDNN_DATA_BFLOAT16, 1, 2},    // LLaMA2-70B
    {{4, 512, 12, 12, 64}, 0, CUDNN_DATA_HALF, 4, 12},
    {{2, 333, 8, 2, 64}, 16, CUDNN_DATA_BFLOAT16, 2, 2},
    {{1, 2, 1, 1, 8}, 0, CUDNN_DATA_HALF, 1, 1},
};

void require(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(what);
}

/// Throws if a check fails.
void check(const Case& c, bool backward, const CudnnTarget& target) {
  const AttentionShape& s = c.shape;
  const Index qkv = (s.heads + 2 * s.kv_heads) * s.head_size + c.gap,
              o = s.heads * s.head_size + c.gap;
  const AttentionKey key{0, c.type, backward, s, qkv, o, backward ? qkv : 0, backward ? o : 0};
  std::printf("sm_%-3d %-8s %td x %td tokens, %td / %td heads of %td: ", target.capability,
              backward ? "backward" : "forward", s.batch, s.sequence, s.heads, s.kv_heads,
              s.head_size);
  std::fflush(stdout);
  AttentionChoice choice = AttentionChoice::make(key, target);
  const AttentionConfiguration& best = choice.configurations.front();
  std::printf("engine %lld, %zu bytes of workspace, %td sequences and %td kv heads at a time",
              static_cast<long long>(best.engine), best.workspace, choice.part.batch,
              choice.part.kv_heads);
  std::fflush(stdout);
  const bool keeps_ds = backward && target.capability / 10 != 10;
  if (is_known_version())
    require(choice.part.batch == (keeps_ds ? c.part_batch : s.batch) &&
                choice.part.kv_heads == (keeps_ds ? c.part_kv_heads : s.kv_heads),
            "another part was expected");
  require(best.workspace <= AttentionChoice::most_workspace, "the workspace is too large");
  require(choice.part.heads == choice.part.kv_heads * s.group(),
          "query heads were cut off from their keys");
  try {
    const AttentionPlan plan(std::move(choice), target);
    require(plan.workspace <= AttentionChoice::most_workspace, "the plan needs too much workspace");
    std::printf("; loaded\n");
  } catch (const CudnnRefusal& refusal) {
    // The kernels exist; only the driver to load them is missing.
    if (std::string(refusal.what()).find("cuLibraryLoadData") == std::string::npos) throw;
    std::printf("; not loaded: there is no driver\n");
  }
}

/// Shapes that cuDNN refuses, or that would cost too much: the library's own kernels run.
void check_refused(AttentionShape shape, bool backward, const char* why,
                   const CudnnTarget& target) {
  const Index qkv = (shape.heads + 2 * shape.kv_heads) * shape.head_size,
              o = shape.heads * shape.head_size;
  std::string reason = "nothing was refused";
  try {
    AttentionChoice::make({0, CUDNN_DATA_BFLOAT16, backward, shape, qkv, o, qkv, o}, target);
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
      for (const bool backward : {false, true}) count([&] { check(c, backward, target); });
    if (!is_known_version()) continue;
    count([&] { check_refused({1, 64, 2, 2, 20}, false, "no engine", target); });
    if (card.capability / 10 != 10)
      count([&] { check_refused({1, 32768, 4, 4, 64}, true, "more than 1 GiB", target); });
  }
  std::printf(failures == 0 ? "cuDNN computes every graph\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
