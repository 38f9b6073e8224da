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
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "dropbp/backend/cuda/device.hpp"
#include "dropbp/backend/cuda/launch.cuh"
#include "dropbp/backend/staging.hpp"
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

// Whether the device has stream-ordered memory; some virtual GPUs have none.
inline bool has_memory_pools(int device) {
  int pools = 0;
  require_success(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, device),
                  "the device's kinds of memory must be known");
  return pools != 0;
}

// Makes the pool keep its memory. By default it returns all free memory to the driver at each
// synchronisation and has to request it again.
inline void keep_pool_memory() {
  static PerDevice done;
  const int device = current_device();
  if (device < remembered_devices && done.values[device].load(std::memory_order_relaxed) != 0)
    return;
  if (!has_memory_pools(device))
    throw std::runtime_error(dropbp::detail::sentence(
        "a device must have memory pools (cudaDevAttrMemoryPoolsSupported)",
        "device " + std::to_string(device) + " has none",
        "give a virtual machine the whole card instead of a part without them"));
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

/// Bytes of the current device.
struct DeviceMemory {
  std::size_t free, used, total;  ///< free: for this program; used: by it
};

inline DeviceMemory device_memory() {
  std::size_t free = 0, total = 0, held = 0, used = 0;
  cudaMemPool_t pool = nullptr;
  cudaMemGetInfo(&free, &total);
  if (cudaDeviceGetDefaultMemPool(&pool, current_device()) == cudaSuccess) {
    std::uint64_t reserved = 0, in_use = 0;
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved);
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &in_use);
    held = reserved, used = in_use;
  }
  return {free + (held - used), used, total};
}

/// There is not enough device memory; Runtime::allocate throws it.
struct OutOfDeviceMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void select_device(int device) {
  require_success(cudaSetDevice(device), "device " + std::to_string(device) + " must be usable");
}

// See staging.hpp. Pinned memory is never released, because CUDA may be shut down by then.
struct Pinned {
  static void* allocate_pinned(std::size_t bytes) {
    void* memory = nullptr;
    require_success(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable),
                    std::to_string(bytes) + " bytes of pinned host memory must be allocated");
    return memory;
  }
  static void release_pinned(void* memory) { cudaFreeHost(memory); }
  static void copy_pinned(void* to, const void* pinned, std::size_t bytes) {
    require_success(cudaMemcpyAsync(to, pinned, bytes, cudaMemcpyHostToDevice, current_stream()),
                    std::to_string(bytes) + " bytes must be copied to the device");
  }

  class Event {
   public:
    Event() {
      require_success(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming),
                      "an event must be made");
      require_success(cudaEventRecord(event_, current_stream()), "an event must be recorded");
    }
    Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
    Event& operator=(Event&&) = delete;
    ~Event() {
      if (event_ != nullptr) cudaEventDestroy(event_);
    }
    void wait() const {
      require_success(cudaEventSynchronize(event_), "the work before an event must succeed");
    }
    // Orders later work of the current stream after it.
    void precede_current_stream() const {
      require_success(cudaStreamWaitEvent(current_stream(), event_),
                      "a stream must wait for another one");
    }

   private:
    cudaEvent_t event_ = nullptr;
  };
};

// One for each device.
inline dropbp::detail::StagingRing<Pinned>& staging() {
  constexpr std::size_t bytes = 4 << 20;
  static std::mutex mutex;
  static std::map<int, dropbp::detail::StagingRing<Pinned>*>& rings =
      *new std::map<int, dropbp::detail::StagingRing<Pinned>*>;
  const std::lock_guard lock(mutex);
  dropbp::detail::StagingRing<Pinned>*& ring = rings[current_device()];
  if (ring == nullptr) ring = new dropbp::detail::StagingRing<Pinned>(bytes);
  return *ring;
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
  const detail::DeviceMemory device = detail::device_memory();
  throw detail::OutOfDeviceMemory(dropbp::detail::sentence(
      std::to_string(bytes) + " bytes of device memory are needed",
      std::to_string(device.free) + " of the card's " + std::to_string(device.total) +
          " are free (" + std::to_string(device.used) + " are in use here)",
      detail::remedy(error)));
}

template <class Tag>
void Runtime<Tag>::release(void* memory, std::size_t) noexcept {
  if (memory == nullptr) return;
  int current = 0;
  cudaPointerAttributes of_memory{};
  cudaError_t error = cudaGetDevice(&current);
  if (error == cudaSuccess) error = cudaPointerGetAttributes(&of_memory, memory);
  if (error == cudaSuccess && of_memory.device == current) {
    error = cudaFreeAsync(memory, detail::current_stream());
  } else if (error == cudaSuccess) {
    // The current stream does not order the work of another device. cudaFree waits for all of it.
    error = cudaSetDevice(of_memory.device);
    if (error == cudaSuccess) error = cudaFree(memory);
    cudaSetDevice(current);
  }
  if (error != cudaSuccess) cudaGetLastError();
}

template <class Tag>
void Runtime<Tag>::copy_to_device(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  require_no_capture("a copy from host memory");
  if (auto& ring = detail::staging(); bytes <= ring.limit()) return ring.copy(to, from, bytes);
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
Runtime<Tag>::Moment::Moment() {
  detail::require_success(cudaEventCreate(&event_), "an event must be made");
  detail::require_success(cudaEventRecord(event_, detail::current_stream()),
                          "an event must be recorded");
}

template <class Tag>
Runtime<Tag>::Moment::~Moment() {
  if (event_ != nullptr && cudaEventDestroy(event_) != cudaSuccess) cudaGetLastError();
}

template <class Tag>
double Runtime<Tag>::Moment::seconds_since(const Moment& earlier) const {
  float milliseconds = 0.0f;
  detail::require_success(cudaEventSynchronize(event_), "the work before an event must succeed");
  detail::require_success(cudaEventElapsedTime(&milliseconds, earlier.event_, event_),
                          "the time between two events must be known");
  return 1e-3 * static_cast<double>(milliseconds);
}

template <class Tag>
typename Runtime<Tag>::Place Runtime<Tag>::place() {
  return {detail::current_device(), detail::current_stream()};
}

template <class Tag>
Runtime<Tag>::PlaceScope::PlaceScope(const Place& where) : before_(place()) {
  if (where.device != before_.device) detail::select_device(where.device);
  exchange_stream(where.stream);
}

template <class Tag>
Runtime<Tag>::PlaceScope::~PlaceScope() {
  exchange_stream(before_.stream);
  cudaSetDevice(before_.device);  // costs nothing where it is current
}

template <class Tag>
void Runtime<Tag>::follow(const Place& other) {
  const auto recorded = [&] {
    const PlaceScope scope(other);
    return detail::Pinned::Event();
  };
  recorded().precede_current_stream();
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
  if (error == cudaSuccess)
    return detail::has_memory_pools(detail::current_device())
               ? ""
               : "no CUDA device can be used: the card has no memory pools; give a virtual machine "
                 "the whole card instead of a part without them";
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
