// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Token ids where the backend's kernels read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "dropbp/kernels/matrix.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// A copy of ids in the backend's memory, which is kept for the next assignment of as many.
template <class Backend>
class Ids {
 public:
  /// In the order of the current stream; `ids` may change once it returns.
  void assign(std::span<const std::int32_t> ids) {
    if (copy_.size() != ids.size())
      copy_ = Matrix<std::int32_t, Backend>(1, static_cast<Index>(ids.size()));
    if (!ids.empty())
      device_runtime<Backend>::copy_to_device(copy_.data(), ids.data(), ids.size_bytes());
  }
  const std::int32_t* data() const noexcept { return copy_.data(); }  ///< the first one

 private:
  Matrix<std::int32_t, Backend> copy_;
};

/// The ids themselves, which must stay where they are.
template <>
class Ids<Cpu> {
 public:
  void assign(std::span<const std::int32_t> ids) noexcept { ids_ = ids; }  ///< from now on these
  const std::int32_t* data() const noexcept { return ids_.data(); }        ///< the first one

 private:
  std::span<const std::int32_t> ids_;
};

}  // namespace ops
DROPBP_NAMESPACE_END
