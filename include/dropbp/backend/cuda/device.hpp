// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The memory, the copies and the current stream of a CUDA device, for any compiler. The functions
// are in device.cuh, compiled where a .cu file of the program says DROPBP_INSTANTIATE_CUDA
// (dropbp.cuh); a linker that misses dropbp::cuda::Runtime<void> asks for that line.
#pragma once

#include <cstddef>
#include <string>

#include "dropbp/backend/device.hpp"

/// What cudaStream_t points to.
struct CUstream_st;

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// Everything works on the calling thread's current device and in the order of its current stream
/// (StreamScope; else CUDA's default stream); only what says so waits. Errors of CUDA are
/// std::runtime_error, with CUDA's own message. The only argument there is is void: a template, so
/// that its code may stand in a header and is compiled once.
template <class = void>
struct Runtime {
  /// `bytes` of device memory from the stream-ordered pool, aligned to 256; null for 0 bytes. Where
  /// there is no room the error says how many bytes were asked for, are free and are there at all,
  /// and what to lower.
  static void* allocate(std::size_t bytes);
  /// Gives back what allocate gave, once the work that is already in the current stream is done.
  /// Never throws: at the end of a program CUDA may be gone first.
  static void release(void* memory, std::size_t bytes) noexcept;
  /// From host memory, which may change once this returns: it waits where the device itself reads
  /// that memory. Not under graph capture (std::logic_error).
  static void copy_to_device(void* to, const void* from, std::size_t bytes);
  /// To host memory. Waits for the stream, so not under graph capture (std::logic_error).
  static void copy_to_host(void* to, const void* from, std::size_t bytes);
  /// Within the device; the ranges must not overlap.
  static void copy(void* to, const void* from, std::size_t bytes);
  /// Each of `bytes` bytes becomes `byte`.
  static void fill(void* memory, int byte, std::size_t bytes);
  /// Waits for the current stream; errors of kernels that ran in it surface here.
  static void synchronize();
  /// Throws std::logic_error while the current stream is being captured into a graph: for `what`
  /// cannot be.
  static void require_no_capture(const char* what);
  /// Streaming multiprocessors of the current device.
  static unsigned processors();
  /// Empty where a device can be used; else a sentence that says what is missing: driver, card, or
  /// code for this card.
  static std::string unavailable_reason();

  /// The calling thread's current stream; null is CUDA's default stream.
  static CUstream_st* stream() noexcept;
  /// Makes `stream` the current one and returns the one before; StreamScope does it for a scope.
  static CUstream_st* exchange_stream(CUstream_st* stream) noexcept;
};

/// The calling thread's current stream is `stream` until the end of the scope. Memory is released
/// in the order of the stream that is current then: let it be the one that used it last.
class StreamScope {
 public:
  explicit StreamScope(CUstream_st* stream) noexcept
      : before_(Runtime<>::exchange_stream(stream)) {}  ///< a cudaStream_t
  ~StreamScope() { Runtime<>::exchange_stream(before_); }
  StreamScope(const StreamScope&) = delete;             ///< one scope, one object
  StreamScope& operator=(const StreamScope&) = delete;  ///< one scope, one object

 private:
  CUstream_st* before_;
};

}  // namespace cuda

/// See cuda::Runtime.
template <>
struct device_runtime<Cuda> : cuda::Runtime<> {
  using StreamScope = cuda::StreamScope;  ///< sets the current stream for a scope
};

DROPBP_NAMESPACE_END
