// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Quantised matrices as panels of dequantised rows, so that a whole one is never held.
#pragma once

#include <algorithm>
#include <concepts>
#include <utility>

#include "dropbp/kernels/matrix.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops::detail {

// Rows of a quantised matrix that are dequantised at a time. On the host 256, which stay in a cache
// of some megabytes. On a device a panel has 512 MiB in BFloat16, a whole weight in most models:
// each further panel reads and writes the input's gradient once more.
template <class Backend>
Index panel_rows(Index columns) noexcept {
  return std::same_as<Backend, Cpu>
             ? 256
             : (std::max)(Index{256}, (Index{1} << 28) / (std::max)(Index{1}, columns));
}

// Calls visit(first row, MatrixView<const T, Backend> of the dequantised rows).
template <class T, class Backend, class Quantized, class Visit>
void for_each_panel(const Quantized& matrix, BasicMemoryPool<Backend>& workspace,
                    const Visit& visit) {
  const Index step = panel_rows<Backend>(matrix.columns());
  for (Index first = 0; first < matrix.rows(); first += step) {
    Matrix<T, Backend> panel((std::min)(step, matrix.rows() - first), matrix.columns(), workspace);
    matrix.dequantize_rows(first, panel.rows(), panel.view());
    visit(first, std::as_const(panel).view());
  }
}

}  // namespace ops::detail
DROPBP_NAMESPACE_END
