// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Implements device.hpp: stream-ordered memory, copies, the current CUDA stream, and the reason why
// no device can be used.
#if !defined(__CUDACC__)
#error "dropbp: device.cuh is for .cu files; other files include dropbp/backend/cuda/device.hpp"
#endif
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>

#include "dropbp/backend/cuda/device.hpp"
#include "dropbp/backend/cuda/launch.cuh"
#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

/// Why no device can be used, in one sentence; empty for cudaSuccess.
inline std::string describe_missing_device(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "";
    case cudaErrorInsufficientDriver: {
      int version = 0;
      cudaRuntimeGetVersion(&version);
      return "no CUDA device can be used: there is no NVIDIA driver, or it is older than CUDA " +
             std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10) +
             " needs; install or update it";
    }
    case cudaErrorStubLibrary:
      return "no CUDA device can be used: libcuda.so.1 is the toolkit's stub, made for linking "
             "only; install NVIDIA's driver, or take the stubs folder out of the library path";
    case cudaErrorNoDevice:
      return "no CUDA device can be used: the driver finds no card; check nvidia-smi and "
             "CUDA_VISIBLE_DEVICES";
    default:
      return std::string("no CUDA device can be used: CUDA says '") + cudaGetErrorString(error) +
             "' (" + cudaGetErrorName(error) + ", " + std::to_string(static_cast<int>(error)) +
             "); check nvidia-smi";
  }
}

// The smallest kernel. If it cannot be loaded, no kernel of this build can be.
struct Nothing {
  static constexpr const char* name = "nothing";
  static constexpr unsigned threads = 32;
  static constexpr unsigned min_blocks = 1;
  template <class Context>
  DROPBP_DEVICE void operator()(Context) const {}
};

inline CUstream_st*& current_stream() noexcept {
  thread_local CUstream_st* stream = nullptr;
  return stream;
}

// Makes the pool keep its memory. By default it returns all free memory to the driver at each
// synchronisation and has to request it again.
inline void keep_pool_memory() {
  static PerDevice done;
  const int device = current_device();
  if (device < remembered_devices && done.values[device].load(std::memory_order_relaxed) != 0)
    return;
  cudaMemPool_t pool = nullptr;
  std::uint64_t threshold = UINT64_MAX;
  require_success(cudaDeviceGetDefaultMemPool(&pool, device), "the device must have a memory pool");
  require_success(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold),
                  "the memory pool must keep its memory");
  if (device < remembered_devices) done.values[device].store(1, std::memory_order_relaxed);
}

// Whether the device reads pageable host memory directly (Grace Hopper, and drivers with
// heterogeneous memory management). CUDA guarantees that a copy has read its source on return only
// if it stages the copy.
inline bool reads_pageable_memory() {
  static PerDevice known;  // 1: no, 2: yes
  const int device = current_device();
  const bool remembered = device < remembered_devices;
  std::size_t state = remembered ? known.values[device].load(std::memory_order_relaxed) : 0;
  if (state == 0) {
    int reads = 0;
    require_success(cudaDeviceGetAttribute(&reads, cudaDevAttrPageableMemoryAccess, device),
                    "the device's kind of memory must be known");
    state = reads != 0 ? 2 : 1;
    if (remembered) known.values[device].store(state, std::memory_order_relaxed);
  }
  return state == 2;
}

// Allows the setup that happens once per shape or stream to run while the stream is captured. The
// setup does not become part of the graph.
struct AllowedUnderCapture {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  AllowedUnderCapture() { cudaThreadExchangeStreamCaptureMode(&mode); }
  ~AllowedUnderCapture() { cudaThreadExchangeStreamCaptureMode(&mode); }
  AllowedUnderCapture(const AllowedUnderCapture&) = delete;
  AllowedUnderCapture& operator=(const AllowedUnderCapture&) = delete;
};

}  // namespace detail

template <class Tag>
CUstream_st* Runtime<Tag>::stream() noexcept {
  return detail::current_stream();
}

template <class Tag>
CUstream_st* Runtime<Tag>::exchange_stream(CUstream_st* stream) noexcept {
  CUstream_st* const before = detail::current_stream();
  detail::current_stream() = stream;
  return before;
}

template <class Tag>
void* Runtime<Tag>::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  detail::keep_pool_memory();
  void* memory = nullptr;
  const cudaError_t error = cudaMallocAsync(&memory, bytes, detail::current_stream());
  if (error != cudaErrorMemoryAllocation) {
    detail::require_success(error, "device memory must be allocated");
    return memory;
  }
  cudaGetLastError();
  std::size_t free = 0, total = 0, held = 0, used = 0;
  cudaMemPool_t pool = nullptr;
  cudaMemGetInfo(&free, &total);
  if (cudaDeviceGetDefaultMemPool(&pool, detail::current_device()) == cudaSuccess) {
    std::uint64_t reserved = 0, in_use = 0;
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved);
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &in_use);
    held = reserved, used = in_use;
  }
  throw std::runtime_error(dropbp::detail::sentence(
      std::to_string(bytes) + " bytes of device memory are needed",
      std::to_string(free + (held - used)) + " of the card's " + std::to_string(total) +
          " are free (" + std::to_string(used) + " are in use here)",
      detail::remedy(error)));
}

template <class Tag>
void Runtime<Tag>::release(void* memory, std::size_t) noexcept {
  if (memory && cudaFreeAsync(memory, detail::current_stream()) != cudaSuccess) cudaGetLastError();
}

template <class Tag>
void Runtime<Tag>::copy_to_device(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  require_no_capture("a copy from host memory");
  detail::require_success(
      cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, detail::current_stream()),
      std::to_string(bytes) + " bytes must be copied to the device");
  // If the device cannot read pageable memory, CUDA has staged it by now. Pinned memory may still
  // be in use.
  cudaPointerAttributes attributes{};
  detail::require_success(cudaPointerGetAttributes(&attributes, from),
                          "the kind of the host memory must be known");
  if (attributes.type != cudaMemoryTypeUnregistered || detail::reads_pageable_memory())
    synchronize();
}

template <class Tag>
void Runtime<Tag>::copy_to_host(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  require_no_capture("a copy to host memory");
  detail::require_success(
      cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, detail::current_stream()),
      std::to_string(bytes) + " bytes must be copied to the host");
  synchronize();
}

template <class Tag>
void Runtime<Tag>::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  detail::require_success(
      cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, detail::current_stream()),
      std::to_string(bytes) + " bytes must be copied within the device");
}

template <class Tag>
void Runtime<Tag>::fill(void* memory, int byte, std::size_t bytes) {
  if (bytes == 0) return;
  detail::require_success(cudaMemsetAsync(memory, byte, bytes, detail::current_stream()),
                          std::to_string(bytes) + " bytes must be set");
}

template <class Tag>
void Runtime<Tag>::synchronize() {
  detail::require_success(cudaStreamSynchronize(detail::current_stream()),
                          "the work of the current stream must succeed");
}

template <class Tag>
void Runtime<Tag>::require_no_capture(const char* what) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  detail::require_success(cudaStreamIsCapturing(detail::current_stream(), &status),
                          "the current stream must be usable");
  if (status != cudaStreamCaptureStatusNone)
    dropbp::detail::throw_order(std::string(what) + " needs a stream that is not being captured",
                                "the current stream is being captured into a graph",
                                "move it before or behind the captured part");
}

template <class Tag>
unsigned Runtime<Tag>::processors() {
  return CudaLauncher{}.processors();
}

template <class Tag>
std::string Runtime<Tag>::unavailable_reason() {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count == 0) error = cudaErrorNoDevice;
  cudaFuncAttributes attributes{};
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, run_body<detail::Nothing>);
  if (error == cudaSuccess) return "";
  cudaGetLastError();
  if (error != cudaErrorNoKernelImageForDevice && error != cudaErrorInvalidDeviceFunction)
    return detail::describe_missing_device(error);
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return "no CUDA device can be used: this program has no code for a card of compute capability " +
         std::to_string(major) + "." + std::to_string(minor) +
         "; build it with CMAKE_CUDA_ARCHITECTURES=" + std::to_string(10 * major + minor);
}

// Several .cu files may include this header; the linker keeps one instance.
template struct Runtime<void>;

namespace detail {

/// Memory for the length of a call, released in the order of the current CUDA stream.
class Workspace {
 public:
  explicit Workspace(std::size_t bytes) : bytes_(bytes), data_(Runtime<>::allocate(bytes)) {}
  ~Workspace() { Runtime<>::release(data_, bytes_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* data() const noexcept { return data_; }

 private:
  std::size_t bytes_;
  void* data_;
};

}  // namespace detail

}  // namespace cuda

/// Launches into the calling thread's current CUDA stream.
template <>
struct device_launcher<Cuda> {
  static cuda::CudaLauncher current() { return {cuda::Runtime<>::stream()}; }  ///< for one op
};

DROPBP_NAMESPACE_END
