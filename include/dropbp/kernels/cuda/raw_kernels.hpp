// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The code behind raw.hpp. One .cu file of a program, in C++20, is
//   #include <dropbp/backend/cuda/device.cuh>
//   #include <dropbp/kernels/cuda/raw_kernels.hpp>
//   DROPBP_INSTANTIATE_RAW_CUDA(__nv_bfloat16)
// with a line for each type.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "dropbp/kernels/cuda/adamw.hpp"
#include "dropbp/kernels/cuda/elementwise.hpp"
#include "dropbp/kernels/cuda/layer_norm.hpp"
#include "dropbp/kernels/cuda/raw.hpp"
#include "dropbp/kernels/cuda/rms_norm.hpp"
#include "dropbp/kernels/cuda/squared_norms.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

// The library's name of a scalar type.
template <class T>
struct raw_scalar;
template <>
struct raw_scalar<float> {
  using type = float;
};
template <>
struct raw_scalar<__nv_bfloat16> {
  using type = BFloat16;
};
template <>
struct raw_scalar<__half> {
  using type = Half;
};

template <class T, class Backend>
struct RawKernels {
  using S = typename raw_scalar<T>::type;
  using Scope = typename device_runtime<Backend>::StreamScope;
  using Index = cuda::Index;

  static S* of(T* x) { return reinterpret_cast<S*>(x); }
  static const S* of(const T* x) { return reinterpret_cast<const S*>(x); }
  static cuda::Rows<S> rows(T* x, std::size_t columns) {
    return {of(x), static_cast<Index>(columns)};
  }
  static cuda::Rows<const S> rows(const T* x, std::size_t columns) {
    return {of(x), static_cast<Index>(columns)};
  }

  static void residual_join(T* y, const T* x, std::size_t n, CUstream_st* stream) {
    const Scope scope(stream);
    auto launch = device_launcher<Backend>::current();
    cuda::accumulate(launch, of(y), of(x), n);
  }

  static void add_norm_forward(T* out, float* mean, float* rstd, T* residual, const T* branch,
                               const T* w, const T* b, std::size_t n, std::size_t m, float eps,
                               CUstream_st* stream) {
    if ((mean == nullptr) != (b == nullptr))
      throw_invalid("a LayerNorm has mean and b, an RMSNorm neither", "one of them is null",
                    "pass both or none");
    const Scope scope(stream);
    auto launch = device_launcher<Backend>::current();
    const auto y = rows(out, m), sum = rows(residual, m);
    const auto added = rows(branch, m);
    const auto height = static_cast<Index>(n), width = static_cast<Index>(m);
    const double e = static_cast<double>(eps);
    if (mean != nullptr && branch != nullptr)
      cuda::add_layer_norm_forward(launch, y, mean, rstd, sum, added, of(w), of(b), height, width,
                                   e);
    else if (mean != nullptr)
      cuda::layer_norm_forward(launch, y, mean, rstd, sum, of(w), of(b), height, width, e);
    else if (branch != nullptr)
      cuda::add_rms_norm_forward(launch, y, rstd, sum, added, of(w), height, width, e);
    else
      cuda::rms_norm_forward(launch, y, rstd, sum, of(w), height, width, e);
  }

  static void norm_backward_join(T* stream_gradient, const T* out_gradient, const T* residual,
                                 const T* w, const float* mean, const float* rstd, T* w_gradient,
                                 T* b_gradient, std::size_t n, std::size_t m, CUstream_st* stream) {
    if (mean != nullptr && (w_gradient == nullptr) != (b_gradient == nullptr))
      throw_invalid("w and b of a LayerNorm are trained or frozen together",
                    "one of their gradients is null", "pass both or none");
    const Scope scope(stream);
    auto launch = device_launcher<Backend>::current();
    const auto height = static_cast<Index>(n), width = static_cast<Index>(m);
    const auto dx = rows(stream_gradient, m);
    const auto dy = rows(out_gradient, m), x = rows(residual, m);
    const Index room = w_gradient == nullptr ? 0
                       : mean != nullptr     ? cuda::layer_norm_backward_workspace(height, width)
                                             : cuda::rms_norm_backward_workspace(height, width);
    ops::Matrix<float, Backend> workspace(1, room);
    if (mean != nullptr)
      cuda::layer_norm_backward(launch, dx, true, dy, x, of(w), mean, rstd, of(w_gradient),
                                of(b_gradient), true, workspace.data(), height, width);
    else
      cuda::rms_norm_backward(launch, dx, true, dy, x, of(w), rstd, of(w_gradient), true,
                              workspace.data(), height, width);
  }

  static void squared_norms(double* norms, const raw::Tensor<T>* tensors, std::size_t count,
                            CUstream_st* stream) {
    const Scope scope(stream);
    std::vector<ops::Elements<const S, Backend>> elements;
    for (std::size_t i = 0; i < count; ++i)
      elements.emplace_back(of(tensors[i].data), tensors[i].size);
    const auto sums = ops::kernels<ops::op::squared_norms, S, Backend>::run(elements);
    for (std::size_t i = 0; i < count; ++i) norms[i] = sums[i];
  }

  static void adamw(const raw::Update<T>* updates, std::size_t count, const raw::AdamWOptions& o,
                    CUstream_st* stream) {
    const auto wide = [](float x) { return static_cast<double>(x); };
    std::vector<ops::AdamWSegment<S>> segments;
    for (std::size_t i = 0; i < count; ++i) {
      const raw::Update<T>& u = updates[i];
      if (u.step < 1 || (!std::is_same_v<S, float> && u.master == nullptr))
        throw_invalid("an update needs its step, at least 1, and a master where T has 16 bits",
                      "update " + std::to_string(i) + " has not", "count the updates of each part");
      const auto t = static_cast<double>(u.step);
      segments.push_back(
          {.value = of(u.value),
           .gradient = of(u.gradient),
           .master = u.master,
           .first_moment = u.first_moment,
           .second_moment = u.second_moment,
           .size = static_cast<std::int64_t>(u.size),
           .step_size =
               static_cast<float>(wide(o.learning_rate) / (1 - std::pow(wide(o.beta1), t))),
           .root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(wide(o.beta2), t))),
           .keep = u.decays ? static_cast<float>(1 - wide(o.learning_rate) * wide(o.weight_decay))
                            : 1.0f,
           .first_chunk = 0});
    }
    if (segments.empty()) return;
    const Scope scope(stream);
    ops::kernels<ops::op::adamw, S, Backend>::run(segments,
                                                  {.beta1 = o.beta1,
                                                   .rest1 = static_cast<float>(1 - wide(o.beta1)),
                                                   .beta2 = o.beta2,
                                                   .rest2 = static_cast<float>(1 - wide(o.beta2)),
                                                   .eps = o.eps,
                                                   .factor = o.gradient_factor});
  }
};

}  // namespace detail
DROPBP_NAMESPACE_END

/// Compiles the functions of raw.hpp for one type. Use it outside of all namespaces.
#define DROPBP_INSTANTIATE_RAW_CUDA(T) DROPBP_INSTANTIATE_RAW(T, dropbp::Cuda)
/// The same for another backend that runs the kernels.
#define DROPBP_INSTANTIATE_RAW(T, Backend)                                                         \
  template <>                                                                                      \
  void dropbp::raw::residual_join(T* y, const T* x, std::size_t n, CUstream_st* stream) {          \
    dropbp::detail::RawKernels<T, Backend>::residual_join(y, x, n, stream);                        \
  }                                                                                                \
  template <>                                                                                      \
  void dropbp::raw::add_norm_forward(T* out, float* mean, float* rstd, T* residual,                \
                                     const T* branch, const T* w, const T* b, std::size_t rows,    \
                                     std::size_t columns, float eps, CUstream_st* stream) {        \
    dropbp::detail::RawKernels<T, Backend>::add_norm_forward(out, mean, rstd, residual, branch, w, \
                                                             b, rows, columns, eps, stream);       \
  }                                                                                                \
  template <>                                                                                      \
  void dropbp::raw::norm_backward_join(                                                            \
      T* dx, const T* dy, const T* x, const T* w, const float* mean, const float* rstd, T* dw,     \
      T* db, std::size_t rows, std::size_t columns, CUstream_st* stream) {                         \
    dropbp::detail::RawKernels<T, Backend>::norm_backward_join(dx, dy, x, w, mean, rstd, dw, db,   \
                                                               rows, columns, stream);             \
  }                                                                                                \
  template <>                                                                                      \
  void dropbp::raw::squared_norms(double* norms, const dropbp::raw::Tensor<T>* tensors,            \
                                  std::size_t count, CUstream_st* stream) {                        \
    dropbp::detail::RawKernels<T, Backend>::squared_norms(norms, tensors, count, stream);          \
  }                                                                                                \
  template <>                                                                                      \
  void dropbp::raw::adamw(const dropbp::raw::Update<T>* updates, std::size_t count,                \
                          const dropbp::raw::AdamWOptions& options, CUstream_st* stream) {         \
    dropbp::detail::RawKernels<T, Backend>::adamw(updates, count, options, stream);                \
  }
