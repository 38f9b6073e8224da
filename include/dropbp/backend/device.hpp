// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a backend whose memory is not the host's offers: memory, copies, and whether there is a
// device at all.
#pragma once

#include <concepts>
#include <cstddef>

#include "dropbp/backend/kernels.hpp"

DROPBP_NAMESPACE_BEGIN

/// A backend whose memory the host cannot read or write by itself.
template <class Backend>
concept DeviceBackend = !std::same_as<Backend, Cpu>;

/// Specialised by each DeviceBackend, and for the host itself (backend/cpu/host.hpp), where nothing
/// waits. Everything works in the order of the calling thread's current
/// stream.
///   void* allocate(std::size_t bytes)
///       throws std::runtime_error where there is no room
///   void release(void* memory, std::size_t bytes) noexcept
///   void copy_to_device(void* to, const void* from, std::size_t bytes)
///       `from` may change once it returns
///   void copy_to_host(void* to, const void* from, std::size_t bytes)
///       waits for the stream
///   void copy(void* to, const void* from, std::size_t bytes)
///       within the device
///   void fill(void* memory, int byte, std::size_t bytes)
///   void synchronize()
///       waits for the stream
///   void require_no_capture(const char* what)
///       throws std::logic_error where work is recorded, not done
///   std::string unavailable_reason()
///       empty, or why no device can be used
template <class Backend>
struct device_runtime {
  static_assert(detail::always_false<Backend>,
                "dropbp: there is no device_runtime for this backend. For dropbp::Cuda include "
                "dropbp/backend/cuda/device.hpp; for a backend of your own specialise "
                "dropbp::device_runtime.");
};

/// Specialised where a backend's kernels are compiled: current() is what runs kernel bodies
/// (backend/cuda/context.hpp) in the order of the current stream.
template <class Backend>
struct device_launcher {
  static_assert(detail::always_false<Backend>,
                "dropbp: nothing launches kernels for this backend here. For dropbp::Cuda include "
                "dropbp/dropbp.cuh, in a .cu file.");
};

DROPBP_NAMESPACE_END
