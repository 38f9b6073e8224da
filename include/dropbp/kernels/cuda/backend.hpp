// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What the operations of this folder share: which backends run them, views as kernels take them,
// and arrays of the host for the length of a call.
#pragma once

#include <concepts>
#include <cstddef>
#include <vector>

#include "dropbp/backend/cuda/context.hpp"
#include "dropbp/kernels/kernels.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// Whether the kernel bodies of this folder run on a backend, through its device_launcher: Cuda,
/// and what emulates it.
template <class Backend>
inline constexpr bool runs_bodies = std::same_as<Backend, Cuda>;

/// A backend of which that is true.
template <class Backend>
concept BodyBackend = runs_bodies<Backend>;

/// A view as kernels take it.
template <class T, class Backend>
Rows<T> rows_of(ops::MatrixView<T, Backend> x) {
  return {x.data, x.stride};
}

namespace detail {

// A host array on the device for the length of a call; its memory is released in the order of the
// stream.
template <class E, class Backend>
class DeviceBuffer {
 public:
  DeviceBuffer(const E* host, std::size_t count)
      : bytes_(count * sizeof(E)), data_(device_runtime<Backend>::allocate(bytes_)) {
    try {
      if (bytes_ > 0) device_runtime<Backend>::copy_to_device(data_, host, bytes_);
    } catch (...) {
      device_runtime<Backend>::release(data_, bytes_);
      throw;
    }
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
