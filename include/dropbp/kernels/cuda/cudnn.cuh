// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Attention in BFloat16 and Half by cuDNN, part of dropbp.cuh if DROPBP_CUDNN is defined. Whether
// cuDNN supports a shape is determined once per shape, device and pass. The two passes are
// independent, because the forward pass saves the same tensors with and without cuDNN.
#if !defined(__CUDACC__)
#error "dropbp: cudnn.cuh is for .cu files; other files include dropbp/dropbp.hpp"
#endif
#pragma once

#include <cuda_runtime.h>
#include <cudnn.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>

#include "dropbp/backend/cuda/device.cuh"
#include "dropbp/kernels/cuda/attention.hpp"
#include "dropbp/kernels/cuda/cudnn_plan.cuh"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

/// State for the whole program: a handle per device, and for each shape a plan or the fact that
/// there is none.
class CudnnAttention {
 public:
  // Never destroyed, because CUDA may already be shut down at the end of a program.
  static CudnnAttention& instance() {
    static CudnnAttention* const all = new CudnnAttention;
    return *all;
  }

  /// Returns false if cuDNN does not support the shape.
  bool run(const AttentionKey& key, const AttentionMemory& memory) {
    // A handle has one CUDA stream at a time, so the lock covers the whole call. Except in the
    // first call of a shape, the call only starts kernels.
    const std::lock_guard lock(mutex_);
    const std::optional<AttentionPlan>& plan = prepare(key);
    if (!plan) return false;
    const cudnnHandle_t handle = handles_[key.device];
    require_started(cudnnSetStream(handle, Runtime<>::stream()));
    const Workspace workspace(plan->workspace);
    for_each_part(key, plan->choice.part, memory,
                  [&](const AttentionCall& call) { start(handle, *plan, call, workspace.data()); });
    return true;
  }

 private:
  const std::optional<AttentionPlan>& prepare(const AttentionKey& key) {
    const auto known = plans_.find(key);
    if (known != plans_.end()) return known->second;
    const AllowedUnderCapture allowed;
    std::optional<AttentionPlan> plan;
    try {
      if (cudnnGetVersion() < oldest_cudnn) throw CudnnRefusal("cuDNN must be 9.18 or newer");
      cudnnHandle_t& handle = handles_[key.device];
      if (!handle) require_taken(cudnnCreate(&handle), "cuDNN must be ready");
      int major = 0, minor = 0;
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, key.device);
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, key.device);
      const CudnnTarget target{
          .capability = 10 * major + minor, .handle = handle, .properties = nullptr};
      plan.emplace(AttentionChoice::make(key, target), target);
    } catch (const CudnnRefusal&) {
      cudaGetLastError();  // the kernels that run instead must not report this error
    }
    return plans_.emplace(key, std::move(plan)).first->second;
  }

  static void start(cudnnHandle_t handle, const AttentionPlan& plan, const AttentionCall& call,
                    void* workspace) {
    try {
      Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
      pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, call.ids, call.count);
      pack.set_pointers(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, call.pointers, call.count);
      pack.set_pointers(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &workspace, 1);
      pack.finish("memory of the plan's tensors must be given");
      require_taken(cudnnBackendExecute(handle, plan.plan.get(), pack.get()),
                    "attention must start");
    } catch (const CudnnRefusal& error) {
      throw_failure(error.what());
    }
  }

  static void require_started(cudnnStatus_t status) {
    if (status != CUDNN_STATUS_SUCCESS) throw_failure(cudnnGetErrorString(status));
  }
  [[noreturn]] static void throw_failure(const std::string& reason) {
    throw std::runtime_error(dropbp::detail::sentence(
        "attention by cuDNN must start", "cuDNN says '" + reason + "'",
        "run the program with CUDNN_LOGLEVEL_DBG=2 for more, or compile without DROPBP_CUDNN"));
  }

  std::mutex mutex_;
  std::map<int, cudnnHandle_t> handles_;
  std::map<AttentionKey, std::optional<AttentionPlan>> plans_;
};

template <class T>
inline constexpr cudnnDataType_t cudnn_type = CUDNN_DATA_BFLOAT16;
template <>
inline constexpr cudnnDataType_t cudnn_type<Half> = CUDNN_DATA_HALF;

/// The requirements that are known without asking cuDNN: it accesses 16 bytes at a time, and does
/// not recognise attention over a single token.
template <class... R>
bool cudnn_may_take(const AttentionShape& shape, const float* statistics, const R&... rows) {
  return shape.statistics() > 0 && shape.sequence > 1 &&
         reinterpret_cast<std::uintptr_t>(statistics) % 16 == 0 &&
         (is_vectorizable(rows, shape.tokens(), shape.head_size) && ...);
}

/// Attention for a scalar type of 2 bytes.
template <class T>
struct CudnnDeviceAttention {
  static bool forward(Rows<T> o, float* lse, Rows<const T> qkv, const AttentionShape& shape) {
    require_attention(shape);
    if (!cudnn_may_take(shape, lse, qkv, o)) return false;
    const AttentionKey key{current_device(), cudnn_type<T>, false, shape,
                           qkv.stride,       o.stride,      0,     0};
    return CudnnAttention::instance().run(
        key, AttentionMemory{qkv.data, o.data, lse, nullptr, nullptr, nullptr});
  }
  static bool backward(Rows<T> grad_qkv, Rows<const T> grad_o, Rows<const T> qkv, Rows<const T> o,
                       const float* lse, float* delta, const AttentionShape& shape) {
    require_attention(shape);
    if (!cudnn_may_take(shape, lse, qkv, o, grad_o, grad_qkv) || !cudnn_may_take(shape, delta))
      return false;
    const AttentionKey key{current_device(), cudnn_type<T>,   true,         shape, qkv.stride,
                           o.stride,         grad_qkv.stride, grad_o.stride};
    return CudnnAttention::instance().run(
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
