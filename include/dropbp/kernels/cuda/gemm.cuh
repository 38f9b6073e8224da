// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The matrix products of gemm.hpp by cuBLASLt. Descriptors and algorithm are determined once per
// shape and device.
#if !defined(__CUDACC__)
#error "dropbp: gemm.cuh is for .cu files; other files include dropbp/kernels/cuda/gemm.hpp"
#endif
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>

#include "dropbp/backend/cuda/device.cuh"
#include "dropbp/kernels/cuda/gemm.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

template <class T>
inline constexpr cudaDataType_t cuda_type = CUDA_R_32F;
template <>
inline constexpr cudaDataType_t cuda_type<BFloat16> = CUDA_R_16BF;
template <>
inline constexpr cudaDataType_t cuda_type<Half> = CUDA_R_16F;

/// Everything that determines the descriptors and the algorithm.
struct ProductKey {
  int device;
  cudaDataType_t type;
  ops::GemmLayout layout;
  std::ptrdiff_t m, n, k, lda, ldb, ldc;
  std::uint32_t align_a, align_b, align_c;  ///< bytes
  bool add;

  auto values() const {
    return std::tie(device, type, layout, m, n, k, lda, ldb, ldc, align_a, align_b, align_c, add);
  }
  friend bool operator<(const ProductKey& x, const ProductKey& y) {
    return x.values() < y.values();
  }

  std::string text() const {
    const bool at = layout == ops::GemmLayout::tn, bt = layout == ops::GemmLayout::nt;
    const auto shape = [](std::ptrdiff_t rows, std::ptrdiff_t columns, std::ptrdiff_t ld) {
      return "[" + std::to_string(rows) + ", " + std::to_string(columns) + "] (rows " +
             std::to_string(ld) + " apart)";
    };
    const char* const scalar = type == CUDA_R_32F    ? "float"
                               : type == CUDA_R_16BF ? "BFloat16"
                                                     : "Half";
    return std::string("the product C ") + (add ? "+= " : "= ") +
           (at   ? "A^T B"
            : bt ? "A B^T"
                 : "A B") +
           " of " + scalar + ", C " + shape(m, n, ldc) + ", A " +
           shape(at ? k : m, at ? m : k, lda) + ", B " + shape(bt ? n : k, bt ? k : n, ldb);
  }
};

inline void require_success(cublasStatus_t status, const std::string& required) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(dropbp::detail::sentence(
      required, std::string("cuBLASLt says ") + cublasLtGetStatusString(status),
      status == CUBLAS_STATUS_NOT_INITIALIZED || status == CUBLAS_STATUS_ALLOC_FAILED
          ? "run where a CUDA card with free memory is; lower --batch or --sequence"
          : "give rows a multiple of 16 bytes apart, or update the CUDA Toolkit"));
}

template <class Handle, cublasStatus_t (*destroy)(Handle)>
struct LtDeleter {
  using pointer = Handle;
  void operator()(Handle handle) const noexcept { destroy(handle); }
};
using Operation = std::unique_ptr<void, LtDeleter<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>>;
using Layout =
    std::unique_ptr<void, LtDeleter<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>>;
using Preference =
    std::unique_ptr<void, LtDeleter<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>>;

// The size that cuBLASLt recommends on Hopper and newer; older devices need less.
inline constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

/// A column-major matrix.
inline Layout layout_of(cudaDataType_t type, std::ptrdiff_t rows, std::ptrdiff_t columns,
                        std::ptrdiff_t ld, const std::string& what) {
  cublasLtMatrixLayout_t created = nullptr;
  const auto size = [](std::ptrdiff_t n) { return static_cast<std::uint64_t>(n); };
  require_success(cublasLtMatrixLayoutCreate(&created, type, size(rows), size(columns), ld), what);
  return Layout(created);
}

/// The operands of cuBLASLt: two factors and the result.
template <class E>
struct Operands {
  E first, second, result;
};

/// Finds the algorithm that cuBLASLt recommends, and the bytes of its workspace.
inline cublasStatus_t find_algorithm(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                     Operands<cublasLtMatrixLayout_t> layouts,
                                     Operands<std::uint32_t> alignments, const std::string& what,
                                     cublasLtMatmulAlgo_t& algorithm, std::size_t& workspace) {
  cublasLtMatmulPreference_t created = nullptr;
  require_success(cublasLtMatmulPreferenceCreate(&created), what);
  const Preference preference(created);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    require_success(cublasLtMatmulPreferenceSetAttribute(created, attribute, &value, sizeof value),
                    what);
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_bytes});
  // Sums over k are not split, or their parts are added in float and in a fixed order: two runs
  // give the same bits.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignments.first);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignments.second);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignments.result);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignments.result);
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, operation, layouts.first, layouts.second,
                                     layouts.result, layouts.result, created, 1, &found, &count);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (count == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  algorithm = found.algo;
  workspace = found.workspaceSize;
  return found.state;
}

/// Descriptors of a row-major product. Matrices of cuBLASLt are column-major, so it computes C^T =
/// op(B)^T op(A)^T.
struct ProductPlan {
  Operation operation;
  Layout a, b, c;  ///< of A, B and C of the row-major product
  cublasLtMatmulAlgo_t algorithm;
  std::size_t workspace = 0;  ///< bytes

  ProductPlan(cublasLtHandle_t handle, const ProductKey& key) {
    const std::string what = key.text() + " must be possible";
    const bool at = key.layout == ops::GemmLayout::tn, bt = key.layout == ops::GemmLayout::nt;
    cublasLtMatmulDesc_t description = nullptr;
    require_success(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F), what);
    operation.reset(description);
    const cublasOperation_t first = bt ? CUBLAS_OP_T : CUBLAS_OP_N,
                            second = at ? CUBLAS_OP_T : CUBLAS_OP_N;
    set(CUBLASLT_MATMUL_DESC_TRANSA, first, what);
    set(CUBLASLT_MATMUL_DESC_TRANSB, second, what);
    a = layout_of(key.type, at ? key.m : key.k, at ? key.k : key.m, key.lda, what);
    b = layout_of(key.type, bt ? key.k : key.n, bt ? key.n : key.k, key.ldb, what);
    c = layout_of(key.type, key.n, key.m, key.ldc, what);

    require_success(
        find_algorithm(handle, description, {b.get(), a.get(), c.get()},
                       {key.align_b, key.align_a, key.align_c}, what, algorithm, workspace),
        what);
  }

 private:
  template <class V>
  void set(cublasLtMatmulDescAttributes_t attribute, const V& value, const std::string& what) {
    require_success(
        cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof value), what);
  }
};

/// State for the whole program: a handle per device, and a plan per shape.
template <class Key, class Plan>
class PlannedProducts {
 public:
  // Never destroyed, because CUDA may already be shut down at the end of a program.
  static PlannedProducts& instance() {
    static PlannedProducts* const all = new PlannedProducts;
    return *all;
  }

  struct Prepared {
    cublasLtHandle_t handle;
    const Plan* plan;
  };

  /// The plan for a key; a new one is made from the handle, the key and the arguments.
  template <class... A>
  Prepared prepare(const Key& key, const A&... arguments) {
    const std::lock_guard lock(mutex_);
    const AllowedUnderCapture allowed;
    cublasLtHandle_t& handle = handles_[key.device];
    if (!handle) require_success(cublasLtCreate(&handle), "cuBLASLt must be ready");
    auto plan = plans_.find(key);
    if (plan == plans_.end()) plan = plans_.try_emplace(key, handle, key, arguments...).first;
    return {handle, &plan->second};
  }

 private:
  std::mutex mutex_;
  std::map<int, cublasLtHandle_t> handles_;
  std::map<Key, Plan> plans_;
};
using Products = PlannedProducts<ProductKey, ProductPlan>;

inline std::uint32_t alignment(const void* p) {
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  return static_cast<std::uint32_t>((std::min)(address & (~address + 1), std::uintptr_t{256}));
}

}  // namespace detail
}  // namespace cuda

namespace ops {

template <cuda::Scalar T>
void kernels<op::gemm, T, Cuda>::run(GemmLayout layout, MatrixView<T, Cuda> c_rows,
                                     MatrixView<const T, Cuda> a_rows,
                                     MatrixView<const T, Cuda> b_rows, Accumulate mode) {
  namespace detail = cuda::detail;
  const bool at = layout == GemmLayout::tn, bt = layout == GemmLayout::nt;
  const bool add = mode == Accumulate::add;
  const Index m = c_rows.rows, n = c_rows.columns, k = at ? a_rows.rows : a_rows.columns;
  const Index ldc = c_rows.stride, lda = a_rows.stride, ldb = b_rows.stride;
  T* const c = c_rows.data;
  const T *const a = a_rows.data, *const b = b_rows.data;
  detail::ProductKey key{detail::current_device(),
                         detail::cuda_type<T>,
                         layout,
                         m,
                         n,
                         k,
                         lda,
                         ldb,
                         ldc,
                         detail::alignment(a),
                         detail::alignment(b),
                         detail::alignment(c),
                         add};
  if (m < 0 || n < 0 || k < 0 || ldc < n || lda < (at ? m : k) || ldb < (bt ? k : n))
    dropbp::detail::throw_invalid(
        "a product needs sizes of at least 0 and rows that do not overlap",
        key.text() + " was given", "pass the distance between the starts of rows");
  if (m == 0 || n == 0) return;
  const cudaStream_t stream = cuda::Runtime<>::stream();
  if (k == 0) {
    if (!add)
      detail::require_success(cudaMemset2DAsync(c, static_cast<std::size_t>(ldc) * sizeof(T), 0,
                                                static_cast<std::size_t>(n) * sizeof(T),
                                                static_cast<std::size_t>(m), stream),
                              "a product over no terms must be set to zero");
    return;
  }
  const detail::Products::Prepared prepared = detail::Products::instance().prepare(key);
  const detail::ProductPlan& plan = *prepared.plan;
  const detail::Workspace workspace(plan.workspace);
  const float alpha = 1.0f, beta = add ? 1.0f : 0.0f;
  const cublasStatus_t status = cublasLtMatmul(
      prepared.handle, plan.operation.get(), &alpha, b, plan.b.get(), a, plan.a.get(), &beta, c,
      plan.c.get(), c, plan.c.get(), &plan.algorithm, workspace.data(), plan.workspace, stream);
  if (status != CUBLAS_STATUS_SUCCESS) detail::require_success(status, key.text() + " must start");
}

}  // namespace ops
DROPBP_NAMESPACE_END
