// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Token ids in memory that the backend's kernels can read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "dropbp/kernels/matrix.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// A copy of token ids in the backend's memory. The memory is reused by assignments of the same
/// size.
template <class Backend>
class Ids {
 public:
  /// Copies in the order of the current CUDA stream; `ids` may change after the call.
  void assign(std::span<const std::int32_t> ids) {
    if (copy_.size() != ids.size())
      copy_ = Matrix<std::int32_t, Backend>(1, static_cast<Index>(ids.size()));
    if (!ids.empty())
      device_runtime<Backend>::copy_to_device(copy_.data(), ids.data(), ids.size_bytes());
  }
  const std::int32_t* data() const noexcept { return copy_.data(); }  ///< the first id

 private:
  Matrix<std::int32_t, Backend> copy_;
};

/// On the CPU, a reference to the ids, which must stay alive.
template <>
class Ids<Cpu> {
 public:
  void assign(std::span<const std::int32_t> ids) noexcept { ids_ = ids; }  ///< refers to `ids`
  const std::int32_t* data() const noexcept { return ids_.data(); }        ///< the first id

 private:
  std::span<const std::int32_t> ids_;
};

}  // namespace ops
DROPBP_NAMESPACE_END
