// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Attention in BFloat16 and Half by cuDNN, part of dropbp.cuh if DROPBP_CUDNN is defined. Whether
// cuDNN supports a shape is determined once per shape, device and pass, and again where its memory
// is no longer free, or is free again. The two passes are independent, because the forward pass
// saves the same tensors with and without cuDNN.
#if !defined(__CUDACC__)
#error "dropbp: cudnn.cuh is for .cu files; other files include dropbp/dropbp.hpp"
#endif
#pragma once

#include <cuda_runtime.h>
#include <cudnn.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>

#include "dropbp/backend/cuda/device.cuh"
#include "dropbp/kernels/cuda/attention.hpp"
#include "dropbp/kernels/cuda/cudnn_plan.cuh"
#include "dropbp/kernels/cuda/elementwise.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

/// What CudnnAttention takes from the device besides cuDNN. A test replaces it.
struct CudnnDevice {
  /// Memory for the length of a call; throws OutOfDeviceMemory.
  using Workspace = detail::Workspace;

  static std::size_t free_bytes() { return device_memory().free; }
  static int capability(int device) {
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    return 10 * major + minor;
  }
  /// to [rows, columns] of that stride = the sum of parts [count, rows, columns].
  static void add_parts(cudnnDataType_t type, void* to, Index stride, const void* parts,
                        Index count, Index rows, Index columns) {
    const auto add = [&](auto zero) {
      using T = decltype(zero);
      auto launch = device_launcher<Cuda>::current();
      cuda::add_parts(launch, Rows<T>{static_cast<T*>(to), stride}, static_cast<const T*>(parts),
                      count, rows, columns);
    };
    if (type == CUDNN_DATA_HALF)
      add(Half{});
    else
      add(BFloat16{});
  }
};

/// State for the whole program: a handle per device, and for each shape a plan or the reason why
/// there is none.
template <class Device = CudnnDevice>
class CudnnAttention {
 public:
  // Never destroyed, because CUDA may already be shut down at the end of a program.
  static CudnnAttention& instance() {
    static CudnnAttention* const all = new CudnnAttention;
    return *all;
  }

  /// Does not run if cuDNN does not support the shape, or if its smallest part needs more memory
  /// than is free. A plan whose memory is no longer free is replaced by one that needs less, until
  /// more is free again.
  LibraryAttention run(const AttentionKey& key, const AttentionMemory& memory) {
    // A handle has one CUDA stream at a time, so the lock covers the whole call. Except in the
    // first call of a shape, the call only starts kernels.
    const std::lock_guard lock(mutex_);
    const auto [found, is_new] = plans_.try_emplace(key);
    Entry& entry = found->second;
    if (is_new || has_become_free(entry))
      prepare(entry, key, (std::numeric_limits<std::size_t>::max)());
    while (entry.plan) {
      const std::size_t bytes = entry.plan->scratch().end;
      try {
        start(*entry.plan, memory);
        return {true, entry.how};
      } catch (const OutOfDeviceMemory&) {
        entry.lacks(bytes);
        prepare(entry, key, bytes);
      } catch (const CudnnRefusal& refusal) {
        entry.plan.reset();
        entry.how = reason_of(refusal);
      }
    }
    return {false, entry.how};
  }

 private:
  struct Entry {
    std::optional<AttentionPlan> plan;
    std::string how;  // see LibraryAttention
    // Free bytes from which what could not be had is tried again; 0: nothing lacks. Each time twice
    // as much, so that a shape whose memory comes and goes is not planned anew in every step.
    std::size_t enough = 0, times = 2;

    void lacks(std::size_t bytes) { enough = (std::max)(enough, times * bytes); }
  };

  static bool has_become_free(Entry& entry) {
    if (entry.enough == 0) return false;
    const AllowedUnderCapture allowed;
    if (Device::free_bytes() < entry.enough) return false;
    entry.enough = 0, entry.times *= 2;
    return true;
  }

  // Makes the entry's plan, which needs less than `below` bytes, or says why there is none.
  void prepare(Entry& entry, const AttentionKey& key, std::size_t below) {
    const AllowedUnderCapture allowed;
    entry.plan.reset();
    try {
      if (cudnnGetVersion() < oldest_cudnn) throw CudnnRefusal("cuDNN must be 9.18 or newer");
      cudnnHandle_t& handle = handles_[key.device];
      if (!handle) require_taken(cudnnCreate(&handle), "cuDNN must be ready");
      const CudnnTarget target{
          .capability = Device::capability(key.device), .handle = handle, .properties = nullptr};
      const AttentionBudget budget{.free = Device::free_bytes(), .below = below};
      entry.plan.emplace(key, AttentionChoice::make(key, target, budget), target, budget);
      entry.how = entry.plan->text(budget);
    } catch (const CudnnRefusal& refusal) {
      cudaGetLastError();  // the kernels that run instead must not report this error
      entry.how = reason_of(refusal);
      if (const auto* const of_memory = dynamic_cast<const CudnnMemoryRefusal*>(&refusal))
        entry.lacks(of_memory->bytes);
    }
  }

  static std::string reason_of(const CudnnRefusal& refusal) {
    return std::string(refusal.what()) + " (" + cudnn_name() + ")";
  }

  void start(const AttentionPlan& plan, const AttentionMemory& memory) {
    const cudnnHandle_t handle = handles_[plan.key.device];
    require_started(cudnnSetStream(handle, Runtime<>::stream()));
    const AttentionScratch scratch = plan.scratch();
    const typename Device::Workspace workspace(scratch.end);
    const AttentionShape &whole = plan.key.shape, &part = plan.choice.part;
    for_each_part(
        plan.key, part, memory, scratch, workspace.data(),
        [&](const AttentionCall& call) { start(handle, plan, call, workspace.data()); },
        [&](void* to, const void* parts) {
          Device::add_parts(plan.key.type, to, plan.key.grad_qkv_stride, parts,
                            calls_for_kv_head(whole, part), whole.sequence, whole.head_size);
        });
  }

  static void start(cudnnHandle_t handle, const AttentionPlan& plan, const AttentionCall& call,
                    void* workspace) {
    Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, call.ids, call.count);
    pack.set_pointers(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, call.pointers, call.count);
    pack.set_pointers(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &workspace, 1);
    pack.finish("memory of the plan's tensors must be given");
    const cudnnStatus_t status = cudnnBackendExecute(handle, plan.plan.get(), pack.get());
    if (is_refusal(status)) require_taken(status, "attention must start");
    require_started(status);
  }

  static void require_started(cudnnStatus_t status) {
    if (status == CUDNN_STATUS_SUCCESS) return;
    throw std::runtime_error(dropbp::detail::sentence(
        "attention by cuDNN must start",
        std::string("cuDNN says '") + cudnnGetErrorString(status) + "'",
        "run the program with CUDNN_LOGLEVEL_DBG=2 for more, or compile without DROPBP_CUDNN"));
  }

  std::mutex mutex_;
  std::map<int, cudnnHandle_t> handles_;
  std::map<AttentionKey, Entry> plans_;
};

template <class T>
inline constexpr cudnnDataType_t cudnn_type = CUDNN_DATA_BFLOAT16;
template <>
inline constexpr cudnnDataType_t cudnn_type<Half> = CUDNN_DATA_HALF;

/// The requirements that are known without asking cuDNN: it accesses 16 bytes at a time, and does
/// not recognise attention over a single token. Returns what is missing; null if nothing is.
template <class... R>
const char* missing_for_cudnn(const AttentionShape& shape, const float* statistics,
                              const R&... rows) {
  if (shape.sequence < 2) return "cuDNN needs sequences of at least 2 tokens";
  return reinterpret_cast<std::uintptr_t>(statistics) % 16 == 0 &&
                 (is_vectorizable(rows, shape.tokens(), shape.head_size) && ...)
             ? nullptr
             : "cuDNN needs heads and rows that begin at multiples of 16 bytes";
}

/// Attention for a scalar type of 2 bytes.
template <class T>
struct CudnnDeviceAttention {
  static LibraryAttention forward(Rows<T> o, float* lse, Rows<const T> qkv,
                                  const AttentionShape& shape) {
    require_attention(shape);
    if (const char* const missing = missing_for_cudnn(shape, lse, qkv, o)) return {false, missing};
    const AttentionKey key{current_device(), cudnn_type<T>, false, shape,
                           qkv.stride,       o.stride,      0,     0};
    return CudnnAttention<>::instance().run(
        key, AttentionMemory{qkv.data, o.data, lse, nullptr, nullptr, nullptr});
  }
  static LibraryAttention backward(Rows<T> grad_qkv, Rows<const T> grad_o, Rows<const T> qkv,
                                   Rows<const T> o, const float* lse, float* delta,
                                   const AttentionShape& shape, bool any_order) {
    require_attention(shape);
    for (const char* const missing :
         {missing_for_cudnn(shape, lse, qkv, o, grad_o, grad_qkv), missing_for_cudnn(shape, delta)})
      if (missing != nullptr) return {false, missing};
    const AttentionKey key{current_device(), cudnn_type<T>,   true,          shape,    qkv.stride,
                           o.stride,         grad_qkv.stride, grad_o.stride, any_order};
    return CudnnAttention<>::instance().run(
        key, AttentionMemory{qkv.data, o.data, lse, grad_o.data, grad_qkv.data, delta});
  }
};

}  // namespace detail
}  // namespace cuda

/// Attention by cuDNN, if cuDNN supports the shape.
template <>
struct device_attention<Cuda, BFloat16> : cuda::detail::CudnnDeviceAttention<BFloat16> {};
/// Attention by cuDNN, if cuDNN supports the shape.
template <>
struct device_attention<Cuda, Half> : cuda::detail::CudnnDeviceAttention<Half> {};

DROPBP_NAMESPACE_END
