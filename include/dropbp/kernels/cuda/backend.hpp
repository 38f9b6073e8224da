// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What the operations of this folder share: the backends that run them, the views that kernels
// take, and copies of host arrays for the length of a call.
#pragma once

#include <concepts>
#include <cstddef>
#include <vector>

#include "dropbp/backend/cuda/context.hpp"
#include "dropbp/base/error.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// Whether a backend runs the kernel bodies of this folder through its device_launcher. True for
/// Cuda; a backend that emulates it specialises this.
template <class Backend>
inline constexpr bool runs_bodies = std::same_as<Backend, Cuda>;

/// A backend that runs kernel bodies.
template <class Backend>
concept BodyBackend = runs_bodies<Backend>;

/// Converts a view to the type that kernels take.
template <class T, class Backend>
Rows<T> rows_of(ops::MatrixView<T, Backend> x) {
  return {x.data, x.stride};
}

namespace detail {

// A copy of a host array in device memory for the length of a call. The memory is released in the
// order of the current CUDA stream.
template <class E, class Backend>
class DeviceBuffer {
 public:
  DeviceBuffer(const E* host, std::size_t count)
      : bytes_(count * sizeof(E)), data_(device_runtime<Backend>::allocate(bytes_)) {
    dropbp::detail::call_or_undo(
        [&] {
          if (bytes_ > 0) device_runtime<Backend>::copy_to_device(data_, host, bytes_);
        },
        [&] { device_runtime<Backend>::release(data_, bytes_); });
  }
  explicit DeviceBuffer(const std::vector<E>& host) : DeviceBuffer(host.data(), host.size()) {}
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { device_runtime<Backend>::release(data_, bytes_); }

  const E* data() const noexcept { return static_cast<const E*>(data_); }

 private:
  std::size_t bytes_;
  void* data_;
};

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
