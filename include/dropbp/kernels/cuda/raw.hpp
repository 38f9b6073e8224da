// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Single CUDA kernels of the library for a trainer that has its own: raw device pointers and its
// stream, C++17, no other header of the library. A .cu file in C++20 compiles them
// (raw_kernels.hpp).
//
// T is float, __nv_bfloat16 or __half. Matrices are [rows, columns] without gaps. All pointers are
// of device memory, except the arrays that a comment calls the host's. Work is in the order of
// `stream`; nothing waits unless a comment says so, and no result depends on the order of threads.
// Errors of CUDA throw std::runtime_error.
#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;  // *cudaStream_t
struct __nv_bfloat16;
struct __half;

namespace dropbp {
namespace raw {

/// stream_gradient [n] += branch_gradient: the join below a kept branch. For a dropped branch there
/// is nothing to call.
template <class T>
void residual_join(T* stream_gradient, const T* branch_gradient, std::size_t n,
                   CUstream_st* stream);

/// residual += branch, then out = norm(residual) * w + b, in one pass. mean and rstd [rows] are for
/// the backward pass. Without mean and b (null) it is an RMSNorm, else a LayerNorm. Without branch
/// (null) residual is only read. out may be residual where branch is null.
template <class T>
void add_norm_forward(T* out, float* mean, float* rstd, T* residual, const T* branch, const T* w,
                      const T* b, std::size_t rows, std::size_t columns, float eps,
                      CUstream_st* stream);

/// The backward pass of the norm, joined into the residual stream: stream_gradient += the gradient
/// of the norm's input, w_gradient and b_gradient [columns] += those of w and b (null: frozen).
/// `out_gradient` may be stream_gradient. `residual`: the norm's input. mean null: RMSNorm.
template <class T>
void norm_backward_join(T* stream_gradient, const T* out_gradient, const T* residual, const T* w,
                        const float* mean, const float* rstd, T* w_gradient, T* b_gradient,
                        std::size_t rows, std::size_t columns, CUstream_st* stream);

/// A tensor whose norm is wanted.
template <class T>
struct Tensor {
  const T* data;     ///< its elements
  std::size_t size;  ///< number of elements
};

/// squared_norms [count], the host's: the sum of the squares of each of the host's `tensors`, as
/// accurate as a double. Two launches for any count. Waits for the stream.
template <class T>
void squared_norms(double* squared_norms, const Tensor<T>* tensors, std::size_t count,
                   CUstream_st* stream);

/// A part of the parameters that this step updates. Parts of dropped branches are left out: their
/// values, moments and steps stay.
template <class T>
struct Update {
  T* value;              ///< the parameters as the model uses them
  const T* gradient;     ///< of the loss
  float* master;         ///< the value in float; null where T is float
  float* first_moment;   ///< 0 before the first update
  float* second_moment;  ///< 0 before the first update
  std::size_t size;      ///< elements of each array
  std::uint64_t step;    ///< number of updates of this part with this one, at least 1
  bool decays;           ///< whether weight decay applies
};

/// As torch.optim.AdamW has them.
struct AdamWOptions {
  float learning_rate;    ///< step size
  float beta1;            ///< decay of the first moment
  float beta2;            ///< decay of the second moment
  float eps;              ///< added to the root of the second moment
  float weight_decay;     ///< decoupled, per unit of learning rate
  float gradient_factor;  ///< multiplies the gradients: 1, or less to clip their norm
};

/// Updates the host's `updates` in one launch.
template <class T>
void adamw(const Update<T>* updates, std::size_t count, const AdamWOptions& options,
           CUstream_st* stream);

}  // namespace raw
}  // namespace dropbp
