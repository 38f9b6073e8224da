// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Copies floats on the host to elements of any backend and scalar, and back. Every backend supports
// these copies.
#pragma once

#include <cstddef>
#include <vector>

#include "dropbp/ops/elementwise.hpp"

namespace test {

template <class Backend, class T>
void set_values(T* to, const std::vector<float>& values) {
  const auto size = static_cast<dropbp::ops::Index>(values.size());
  dropbp::ops::upload(dropbp::ops::MatrixView<T, Backend>(to, 1, size),
                      dropbp::ops::MatrixView<const float>(values.data(), 1, size));
}

/// Waits until the values are computed.
template <class Backend, class T>
std::vector<float> values_of(T* from, std::size_t count) {
  std::vector<float> values(count);
  const auto size = static_cast<dropbp::ops::Index>(count);
  dropbp::ops::download(dropbp::ops::MatrixView<float>(values.data(), 1, size),
                        dropbp::ops::MatrixView<T, Backend>(from, 1, size));
  return values;
}

}  // namespace test
