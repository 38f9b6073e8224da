// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The operations of ops/, which see Eigen.
#include "dropbp/layer.hpp"
#include "dropbp/ops/recompute.hpp"
#include "dropbp/ops/swiglu.hpp"

// Memory of a card needs the kernels of CUDA.
// expect: dropbp: there are no kernels for this (operation, scalar, backend)
namespace operation_without_kernels {
#ifdef DROPBP_TEST_WRONG
using Backend = dropbp::Cuda;
#else
using Backend = dropbp::Cpu;
#endif

void use(dropbp::ops::MatrixView<float, Backend> out,
         dropbp::ops::MatrixView<const float, Backend> gate_up) {
  dropbp::ops::swiglu_forward(out, gate_up);
}
}  // namespace operation_without_kernels

// What is computed again must know what its backward pass needs.
// expect: dropbp: Recompute wraps an operation, with a default-constructible, movable member type
// `struct Saved`
namespace recompute_of_no_operation {
using Matrix = dropbp::ops::Matrix<float>;

struct Branch {
#ifndef DROPBP_TEST_WRONG
  struct Saved {};
#endif
  Matrix forward(const Matrix&, void*) { return Matrix(); }
  Matrix backward(const Matrix&, auto&) { return Matrix(); }
};

dropbp::ops::Recompute<Branch, float> use(dropbp::ops::MemoryPool pool) { return {Branch{}, pool}; }
}  // namespace recompute_of_no_operation

// A layer says of what is wrapped what it would say of it alone.
// expect: dropbp: the operation needs forward(const T& x, Saved* saved, args...)
namespace recompute_of_a_branch_without_forward {
using Matrix = dropbp::ops::Matrix<float>;

struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  Matrix forward(const Matrix&) { return Matrix(); }
#else
  Matrix forward(const Matrix&, Saved*) { return Matrix(); }
#endif
  Matrix backward(const Matrix&, Saved&) { return Matrix(); }
};

using Layer = dropbp::DropBPLayer<dropbp::ops::Recompute<Branch, float>>;
Matrix use(Layer& layer, const Matrix& x) { return layer.forward_branch(x); }
}  // namespace recompute_of_a_branch_without_forward
