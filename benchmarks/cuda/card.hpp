// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Shared by the benchmarks on a GPU: the GPU's properties, its clock, and matrices with random
// values.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <dropbp/kernels/cuda.hpp>
#include <dropbp/ops/gemm.hpp>

#include "benchmark.hpp"

namespace bench {

using dropbp::Cuda;
using Device = dropbp::device_runtime<Cuda>;

inline void require_cuda(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

/// The current GPU.
struct Card {
  std::string name;
  int processors = 0, driver = 0;  ///< multiprocessors; the driver's CUDA version as
                                   ///< 1000 * major + 10 * minor
  std::size_t bytes = 0;           ///< of memory

  /// Without a GPU throws std::runtime_error that says what is missing.
  Card() {
    if (const std::string missing = Device::unavailable_reason(); !missing.empty())
      throw std::runtime_error(missing);
    cudaDeviceProp properties{};
    int device = 0;
    require_cuda(cudaGetDevice(&device));
    require_cuda(cudaGetDeviceProperties(&properties, device));
    require_cuda(cudaDriverGetVersion(&driver));
    name = properties.name, processors = properties.multiProcessorCount,
    bytes = properties.totalGlobalMem;
  }

  std::string text() const {
    return fmt::format("{}, {} multiprocessors, {:.1f} GiB, driver for CUDA {}.{}", name,
                       processors, static_cast<double>(bytes) * 0x1p-30, driver / 1000,
                       driver % 1000 / 10);
  }
  Json json() const {
    return {{"name", name}, {"multiprocessors", processors}, {"bytes", bytes}, {"driver", driver}};
  }
};

/// Bytes of GPU memory in use: by this process (with its context and its pool) and by others.
inline std::size_t used_bytes() {
  std::size_t free = 0, total = 0;
  require_cuda(cudaMemGetInfo(&free, &total));
  return total - free;
}

/// Returns the pool's unused memory to the driver.
inline void release_kept_memory() {
  cudaMemPool_t pool = nullptr;
  int device = 0;
  Device::synchronize();
  require_cuda(cudaGetDevice(&device));
  require_cuda(cudaDeviceGetDefaultMemPool(&pool, device));
  require_cuda(cudaMemPoolTrimTo(pool, 0));
}

class Event {
 public:
  Event() { require_cuda(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record() { require_cuda(cudaEventRecord(event_, Device::stream())); }
  double seconds_since(const Event& start) const {
    require_cuda(cudaEventSynchronize(event_));
    float milliseconds = 0.0f;
    require_cuda(cudaEventElapsedTime(&milliseconds, start.event_, event_));
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Median over several rounds. Each round makes enough calls to hide the launch.
inline double seconds_on_card(int rounds, const std::function<void()>& call) {
  Event start, end;
  const auto round = [&](int calls) {
    start.record();
    for (int i = 0; i < calls; ++i) call();
    end.record();
    return end.seconds_since(start) / calls;
  };
  round(2);
  const double once = round(1);
  const int calls = static_cast<int>(std::clamp(0.02 / once, 1.0, 200.0));
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) times.push_back(round(calls));
  return median(std::move(times));
}

/// Values in [-1, 1) that are the same in each run: a million random numbers, repeated. The rows
/// differ, because products of regular numbers take less power and run faster than products of a
/// model's values.
template <class T>
dropbp::ops::Matrix<T, Cuda> filled(dropbp::ops::Index rows, dropbp::ops::Index columns) {
  using dropbp::ops::Index, dropbp::ops::MatrixView;
  const Index size = rows * columns,
              period = std::min(size, Index{(1 << 20) + 7});  // not a multiple of a row
  std::vector<float> pattern(static_cast<std::size_t>(period));
  std::uint32_t state = 1;
  for (float& x : pattern)
    x = static_cast<float>((state = state * 1664525u + 1013904223u) >> 16) * 0x1p-15f - 1.0f;
  dropbp::ops::Matrix<float, Cuda> repeated(1, period);
  Device::copy_to_device(repeated.data(), pattern.data(), pattern.size() * sizeof(float));
  dropbp::ops::Matrix<T, Cuda> result(rows, columns);
  for (Index i = 0; i < size; i += period) {
    const Index count = std::min(period, size - i);
    dropbp::ops::kernels<dropbp::ops::op::elementwise, T, Cuda>::convert_from(
        MatrixView<T, Cuda>(result.data() + i, 1, count),
        MatrixView<const float, Cuda>(repeated.data(), 1, count));
  }
  return result;
}

/// FLOP/s of a large product: the upper bound of every kernel that multiplies.
template <class T>
double product_rate(int rounds, dropbp::ops::Index size = 8192) {
  dropbp::ops::Matrix<T, Cuda> a = filled<T>(size, size), b = filled<T>(size, size), c(size, size);
  const double n = static_cast<double>(size);
  return 2.0 * n * n * n /
         seconds_on_card(rounds, [&] { dropbp::ops::gemm_nt(c.view(), a.view(), b.view()); });
}

}  // namespace bench
