// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The backend of the tests in this folder: a GPU, or the host emulator if DROPBP_TEST_EMULATED is
// defined. The emulator tests everything but the GPU itself. On both an op can run in another CUDA
// stream and in a captured one.
#pragma once

#include <functional>
#include <stdexcept>
#include <utility>

#include "support/throws.hpp"

#if defined(DROPBP_TEST_EMULATED)
#include "support/emulated.hpp"
#else
#include <cuda_runtime.h>

#include "dropbp/backend/cuda/device.hpp"
#endif

namespace test {

#if defined(DROPBP_TEST_EMULATED)

using Backend = Emulated;
inline constexpr bool on_card = false;

inline void in_another_stream(const std::function<void()>& op) { op(); }

/// Runs captured ops at once. Copies from and to the host throw, as CUDA's runtime does.
inline void run_captured(const std::function<void()>& op) {
  const Emulated::Capturing scope;
  op();
}

inline void capture_and_discard(const std::function<void()>& op) { run_captured(op); }

#else

using Backend = dropbp::Cuda;
inline constexpr bool on_card = true;

inline void require_cuda(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

/// A CUDA stream that does not wait for the default stream. It is the current one during its
/// lifetime.
class AnotherStream {
 public:
  AnotherStream() : stream_(created()), scope_(stream_) {}
  ~AnotherStream() { cudaStreamDestroy(stream_); }
  AnotherStream(const AnotherStream&) = delete;
  AnotherStream& operator=(const AnotherStream&) = delete;

  /// Returns the graph of the work that `op` submits to the stream.
  cudaGraph_t capture(const std::function<void()>& op) {
    require_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
      op();
    } catch (...) {
      if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess) cudaGraphDestroy(graph);
      throw;
    }
    require_cuda(cudaStreamEndCapture(stream_, &graph));
    return graph;
  }
  void launch(cudaGraph_t graph) {
    cudaGraphExec_t instance = nullptr;
    require_cuda(cudaGraphInstantiate(&instance, graph, 0));
    require_cuda(cudaGraphLaunch(instance, stream_));
    require_cuda(cudaStreamSynchronize(stream_));
    cudaGraphExecDestroy(instance);
  }

 private:
  static cudaStream_t created() {
    cudaStream_t stream = nullptr;
    require_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
  }

  cudaStream_t stream_;
  dropbp::cuda::StreamScope scope_;
};

inline void in_another_stream(const std::function<void()>& op) {
  const AnotherStream stream;
  op();
  dropbp::device_runtime<dropbp::Cuda>::synchronize();
}

inline void run_captured(const std::function<void()>& op) {
  AnotherStream stream;
  const cudaGraph_t graph = stream.capture(op);
  stream.launch(graph);
  cudaGraphDestroy(graph);
}

inline void capture_and_discard(const std::function<void()>& op) {
  AnotherStream stream;
  cudaGraphDestroy(stream.capture(op));
}

#endif

using Device = dropbp::device_runtime<Backend>;

/// Checks that an op that reads or writes host memory throws while the current stream is captured.
template <class Op>
void check_refused_in_capture(const Op& op) {
  check_throws<std::logic_error>(
      [&] { capture_and_discard(op); },
      {"needs a stream that is not being captured", "move it before or behind the captured part"});
}

}  // namespace test
