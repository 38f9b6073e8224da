// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The interface of a device backend, whose memory the host cannot access: memory, copies, and
// whether a device is available.
#pragma once

#include <concepts>
#include <cstddef>

#include "dropbp/backend/kernels.hpp"

DROPBP_NAMESPACE_BEGIN

/// A backend whose memory the host cannot read or write directly.
template <class Backend>
concept DeviceBackend = !std::same_as<Backend, Cpu>;

/// Memory and copies of a backend. Specialised for each DeviceBackend, and for the host
/// (backend/cpu/host.hpp), where no call waits. All functions work in the order of the calling
/// thread's current CUDA stream.
///
/// - `void* allocate(std::size_t bytes)`:
///   throws std::runtime_error if there is not enough memory
/// - `void release(void* memory, std::size_t bytes) noexcept`
/// - `void copy_to_device(void* to, const void* from, std::size_t bytes)`:
///   `from` may change after the call; does not wait for the stream if the copy is small
/// - `void copy_to_host(void* to, const void* from, std::size_t bytes)`:
///   waits for the CUDA stream
/// - `void copy(void* to, const void* from, std::size_t bytes)`:
///   within the device
/// - `void fill(void* memory, int byte, std::size_t bytes)`
/// - `void synchronize()`:
///   waits for the CUDA stream
/// - `class Moment`:
///   a point of the stream; made without waiting. `double seconds_since(const Moment& earlier)
///   const` waits until the stream has passed it
/// - `struct Place`, `Place place()`, `class PlaceScope`:
///   the current device and stream, comparable; a scope makes another place the current one
/// - `void follow(Place other)`:
///   later work of the current stream begins after the work that is in the stream of `other` now;
///   does not wait
/// - `void require_no_capture(const char* what)`:
///   throws std::logic_error while the CUDA stream is captured into a graph
/// - `std::string unavailable_reason()`:
///   why no device can be used; empty if one can be used
template <class Backend>
struct device_runtime {
  static_assert(detail::always_false<Backend>,
                "dropbp: there is no device_runtime for this backend. For dropbp::Cuda include "
                "dropbp/backend/cuda/device.hpp; for a backend of your own specialise "
                "dropbp::device_runtime.");
};

/// Runs the kernel bodies of a backend (backend/cuda/context.hpp). Specialised where these are
/// compiled: current() returns a launcher for the current CUDA stream.
template <class Backend>
struct device_launcher {
  static_assert(detail::always_false<Backend>,
                "dropbp: nothing launches kernels for this backend here. For dropbp::Cuda include "
                "dropbp/dropbp.cuh, in a .cu file.");
};

DROPBP_NAMESPACE_END
