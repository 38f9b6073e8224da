// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The products of rows in 8 bits by cuBLASLt. On compute capability 9.0 it applies the scales of
// rows itself (CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, CUDA 12.9 and newer). Elsewhere the
// product is computed without them, and a kernel of ours applies them: with powers of two, rounding
// before scaling gives the same values.
#if !defined(__CUDACC__)
#error "dropbp: fp8.cuh is for .cu files; other files include dropbp/kernels/cuda/fp8.hpp"
#endif
#pragma once

#include "dropbp/backend/cuda/launch.cuh"
#include "dropbp/kernels/cuda/fp8.hpp"
#include "dropbp/kernels/cuda/gemm.cuh"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

/// Everything that determines the descriptors and the algorithm of y = x w^T.
struct Fp8ProductKey {
  int device;
  cudaDataType_t type;  ///< of y
  std::ptrdiff_t m, n, k, ldx, ldw, ldy;
  std::uint32_t align_x, align_w, align_y;  ///< bytes
  bool add;

  auto values() const {
    return std::tie(device, type, m, n, k, ldx, ldw, ldy, align_x, align_w, align_y, add);
  }
  friend bool operator<(const Fp8ProductKey& a, const Fp8ProductKey& b) {
    return a.values() < b.values();
  }
  std::string text() const {
    return "the product of x [" + std::to_string(m) + ", " + std::to_string(k) + "] and w [" +
           std::to_string(n) + ", " + std::to_string(k) + "] in 8 bits";
  }
};

/// The operation with the scales of this call. Not shared, as the pointers are part of it.
struct Fp8Operation {
  cublasLtMatmulDescOpaque_t description;

  Fp8Operation([[maybe_unused]] bool scaled, [[maybe_unused]] const float* x_scales,
               [[maybe_unused]] const float* w_scales, const Fp8ProductKey& key) {
    const auto succeeded = [&](cublasStatus_t status) {  // without a text until one is needed
      if (status != CUBLAS_STATUS_SUCCESS)
        require_success(status, key.text() + " must be possible");
    };
    succeeded(cublasLtMatmulDescInit(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      succeeded(cublasLtMatmulDescSetAttribute(&description, attribute, &value, sizeof value));
    };
    // As columns of cuBLASLt: y^T = w x^T.
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    // Partial sums are added in float, not in the tensor cores' fewer bits.
    set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, std::int8_t{0});
#if CUBLAS_VERSION >= 120900
    if (!scaled) return;
    const auto mode = static_cast<std::int32_t>(CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, w_scales);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x_scales);
#endif
  }
};

inline bool multiplies_fp8(int device) {
  int major = 0, minor = 0;
  const char* const what = "the device's compute capability must be known";
  require_success(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), what);
  require_success(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), what);
  return 10 * major + minor >= 89;
}

struct Fp8ProductPlan {
  enum class Kind { none, unscaled, scaled } kind = Kind::none;
  Layout x, w, y;
  cublasLtMatmulAlgo_t algorithm;
  std::size_t workspace = 0;  ///< bytes

  Fp8ProductPlan(cublasLtHandle_t handle, const Fp8ProductKey& key, const float* x_scales,
                 const float* w_scales) {
    const std::string what = key.text() + " must be possible";
    if (!multiplies_fp8(key.device)) return;
    x = layout_of(CUDA_R_8F_E4M3, key.k, key.m, key.ldx, what);
    w = layout_of(CUDA_R_8F_E4M3, key.k, key.n, key.ldw, what);
    y = layout_of(key.type, key.n, key.m, key.ldy, what);
    const auto possible = [&](Kind wanted) {
      Fp8Operation operation(wanted == Kind::scaled, x_scales, w_scales, key);
      const cublasStatus_t status =
          find_algorithm(handle, &operation.description, {w.get(), x.get(), y.get()},
                         {key.align_w, key.align_x, key.align_y}, what, algorithm, workspace);
      // What a scale's mode does not fit may be an invalid value too.
      if (status == CUBLAS_STATUS_NOT_SUPPORTED ||
          (wanted == Kind::scaled && status == CUBLAS_STATUS_INVALID_VALUE))
        return false;
      require_success(status, what);
      kind = wanted;
      return true;
    };
    if (CUBLAS_VERSION >= 120900 && possible(Kind::scaled)) return;
    if (key.type != CUDA_R_16F) possible(Kind::unscaled);  // without scales Half would overflow
  }
};

}  // namespace detail
}  // namespace cuda

namespace ops {

template <cuda::Scalar T>
bool kernels<op::fp8_gemm, T, Cuda>::available() {
  return cuda::detail::multiplies_fp8(cuda::detail::current_device());
}

template <cuda::Scalar T>
bool kernels<op::fp8_gemm, T, Cuda>::run(MatrixView<T, Cuda> y, Codes x, const float* x_scales,
                                         Codes w, const float* w_scales, Accumulate mode) {
  namespace detail = cuda::detail;
  using Plan = detail::Fp8ProductPlan;
  const bool add = mode == Accumulate::add;
  const auto bytes = [](Index count) { return count * Index{sizeof(T)}; };
  const detail::Fp8ProductKey key{detail::current_device(),
                                  detail::cuda_type<T>,
                                  y.rows,
                                  y.columns,
                                  x.columns,
                                  x.stride,
                                  w.stride,
                                  y.stride,
                                  detail::alignment(x.data),
                                  detail::alignment(w.data),
                                  detail::alignment(y.data),
                                  add};
  if (key.m == 0 || key.n == 0) return true;
  if (key.k == 0 || key.k % 16 != 0 || key.ldx % 16 != 0 || key.ldw % 16 != 0 ||
      bytes(key.n) % 16 != 0 || bytes(key.ldy) % 16 != 0 ||
      (std::min)({key.align_x, key.align_w, key.align_y}) < 16)
    return false;
  const auto prepared = detail::PlannedProducts<detail::Fp8ProductKey, Plan>::instance().prepare(
      key, x_scales, w_scales);
  const Plan& plan = *prepared.plan;
  if (plan.kind == Plan::Kind::none) return false;
  const bool scaled = plan.kind == Plan::Kind::scaled;
  detail::Fp8Operation operation(scaled, x_scales, w_scales, key);
  const detail::Workspace workspace(plan.workspace),
      product(scaled || !add ? 0 : static_cast<std::size_t>(bytes(key.m * key.ldy)));
  T* const to = product.data() != nullptr ? static_cast<T*>(product.data()) : y.data;
  const float alpha = 1.0f, beta = add && scaled ? 1.0f : 0.0f;
  const cublasStatus_t status =
      cublasLtMatmul(prepared.handle, &operation.description, &alpha, w.data, plan.w.get(), x.data,
                     plan.x.get(), &beta, to, plan.y.get(), to, plan.y.get(), &plan.algorithm,
                     workspace.data(), plan.workspace, cuda::Runtime<>::stream());
  if (status != CUBLAS_STATUS_SUCCESS) detail::require_success(status, key.text() + " must start");
  if (scaled) return true;
  auto launch = device_launcher<Cuda>::current();
  cuda::fp8_scale(launch, cuda::rows_of(y), cuda::Rows<const T>{to, y.stride}, x_scales, w_scales,
                  y.rows, y.columns, add);
  return true;
}

}  // namespace ops
DROPBP_NAMESPACE_END
