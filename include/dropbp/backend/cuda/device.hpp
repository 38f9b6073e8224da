// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Memory, copies and the current stream of a CUDA device, for any compiler. The functions are in
// device.cuh; they are compiled where a .cu file of the program says DROPBP_INSTANTIATE_CUDA
// (dropbp.cuh). If the linker reports undefined members of dropbp::cuda::Runtime<void>, the program
// has no such line.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "dropbp/backend/device.hpp"

/// The type that cudaStream_t points to.
struct CUstream_st;
/// The type that cudaEvent_t points to.
struct CUevent_st;

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// Functions of the CUDA runtime. They use the calling thread's current device, and work in the
/// order of its current CUDA stream (set by StreamScope; otherwise CUDA's default stream). A
/// function waits only if its comment says so. Errors of CUDA become std::runtime_error with CUDA's
/// own message. The class is a template, with void as its only argument, so that its code can be in
/// a header and is compiled once.
template <class = void>
struct Runtime {
  /// Allocates `bytes` bytes of device memory from the stream-ordered pool, aligned to 256; returns
  /// null for 0 bytes. If there is not enough memory, throws std::runtime_error: the message says
  /// how many bytes were requested, how many are free and in total, and what to reduce.
  static void* allocate(std::size_t bytes);
  /// Releases memory of allocate() after the work that is already in the current CUDA stream; while
  /// another device is current, waits for all work of the memory's device. Never throws, because
  /// CUDA may already be shut down at the end of a program.
  static void release(void* memory, std::size_t bytes) noexcept;
  /// Copies from host memory, which may change after the call. Up to 1 MiB goes through pinned
  /// memory (staging.hpp) and does not wait. A larger copy waits if CUDA does not stage it. Throws
  /// std::logic_error during graph capture.
  static void copy_to_device(void* to, const void* from, std::size_t bytes);
  /// Copies to host memory and waits for the current CUDA stream. Throws std::logic_error during
  /// graph capture.
  static void copy_to_host(void* to, const void* from, std::size_t bytes);
  /// Copies within the device. The ranges must not overlap.
  static void copy(void* to, const void* from, std::size_t bytes);
  /// Sets each of `bytes` bytes to `byte`.
  static void fill(void* memory, int byte, std::size_t bytes);
  /// Waits for the current CUDA stream. Reports the errors of kernels that ran in it.
  static void synchronize();

  /// A point of the current CUDA stream: an event with a time.
  class Moment {
   public:
    Moment();  ///< the end of the stream's work so far
    /// Leaves `other` empty.
    Moment(Moment&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
    /// Swaps the two.
    Moment& operator=(Moment&& other) noexcept {
      std::swap(event_, other.event_);
      return *this;
    }
    ~Moment();
    /// Waits until the stream has passed this moment.
    double seconds_since(const Moment& earlier) const;

   private:
    CUevent_st* event_;
  };

  /// A device and one of its streams.
  struct Place {
    int device;                                     ///< its number
    CUstream_st* stream;                            ///< null: its default stream
    bool operator==(const Place&) const = default;  ///< both are equal
  };
  static Place place();  ///< the current device and stream
  /// Makes `where` current.
  class PlaceScope {
   public:
    explicit PlaceScope(const Place& where);  ///< until the end of the scope
    ~PlaceScope();
    PlaceScope(const PlaceScope&) = delete;             ///< restores the place once
    PlaceScope& operator=(const PlaceScope&) = delete;  ///< restores the place once

   private:
    Place before_;
  };
  /// Orders later work of the current stream after the present work of another one.
  static void follow(const Place& other);

  /// Throws std::logic_error while the current CUDA stream is captured into a graph. `what` names
  /// the operation that cannot be captured.
  static void require_no_capture(const char* what);
  /// Number of streaming multiprocessors of the current device.
  static unsigned processors();
  /// Empty if a device can be used; otherwise a sentence that says what is missing: the driver, a
  /// GPU, or code for this GPU.
  static std::string unavailable_reason();

  /// The calling thread's current CUDA stream; null is CUDA's default stream.
  static CUstream_st* stream() noexcept;
  /// Sets the current CUDA stream and returns the previous one. Prefer StreamScope.
  static CUstream_st* exchange_stream(CUstream_st* stream) noexcept;
};

/// Sets the calling thread's current CUDA stream for a scope. Memory is released in the order of
/// the stream that is current at that time; this must be the stream that used the memory last.
class StreamScope {
 public:
  explicit StreamScope(CUstream_st* stream) noexcept
      : before_(Runtime<>::exchange_stream(stream)) {}  ///< a cudaStream_t
  ~StreamScope() { Runtime<>::exchange_stream(before_); }
  StreamScope(const StreamScope&) = delete;             ///< restores the stream once
  StreamScope& operator=(const StreamScope&) = delete;  ///< restores the stream once

 private:
  CUstream_st* before_;
};

}  // namespace cuda

/// See cuda::Runtime.
template <>
struct device_runtime<Cuda> : cuda::Runtime<> {
  using StreamScope = cuda::StreamScope;  ///< sets the current CUDA stream
};

DROPBP_NAMESPACE_END
