// expect: dropbp: there are no kernels for this \(operation, scalar, backend\)
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Memory of a card needs the kernels of CUDA.
#include "dropbp/ops/swiglu.hpp"

#ifdef DROPBP_TEST_WRONG
using Backend = dropbp::Cuda;
#else
using Backend = dropbp::Cpu;
#endif

void use(dropbp::ops::MatrixView<float, Backend> out,
         dropbp::ops::MatrixView<const float, Backend> gate_up) {
  dropbp::ops::swiglu_forward(out, gate_up);
}
