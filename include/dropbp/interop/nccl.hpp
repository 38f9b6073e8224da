// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Data-parallel training over NCCL, on NVIDIA GPUs. Link the program with NCCL and cudart.
#pragma once

#include <nccl.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>

#include "dropbp/base/error.hpp"
#include "dropbp/interop/communicator.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

inline void require_nccl(ncclResult_t result, const char* what) {
  if (result != ncclSuccess)
    throw std::runtime_error(sentence(std::string("NCCL must carry out ") + what,
                                      ncclGetErrorString(result),
                                      "look at the other ranks, or set NCCL_DEBUG=INFO"));
}

inline void require_cuda(cudaError_t result, const char* what) {
  if (result != cudaSuccess)
    throw std::runtime_error(sentence(std::string("CUDA must carry out ") + what,
                                      cudaGetErrorString(result),
                                      "look for an earlier error of the device"));
}

}  // namespace detail

/// A Communicator over NCCL. Floats, and the bytes of a broadcast, are in the memory of the device;
/// doubles are on the host. With a GradientReducer set bucket_bytes = 0, Combine::sum and
/// PlansOfRanks::same, and give the optimizer 1 / ranks as a factor where the mean is wanted.
///
/// Collectives run in a stream of their own, after what the compute stream has before them. For
/// memory of the device wait() makes the compute stream wait, and not the host; for the host's it
/// makes the host wait, and throws std::runtime_error where NCCL has failed meanwhile.
class NcclCommunicator {
 public:
  /// What has begun and may not have ended.
  class Request {
   public:
    Request() = default;

   private:
    friend NcclCommunicator;
    std::shared_ptr<CUevent_st> event_;  // null: complete
    bool on_host_ = false;
  };

  /// `ranks` and `compute`, the stream that computes the gradients, must outlive this.
  NcclCommunicator(ncclComm_t ranks, cudaStream_t compute) : ranks_(ranks), compute_(compute) {
    detail::require_nccl(ncclCommUserRank(ranks, &rank_), "ncclCommUserRank");
    detail::require_nccl(ncclCommCount(ranks, &size_), "ncclCommCount");
    // Its kernels must not wait for those of the backward pass.
    int lowest = 0, highest = 0;
    detail::require_cuda(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "a query");
    cudaStream_t stream = nullptr;
    detail::require_cuda(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, highest),
                         "the creation of a stream");
    stream_.reset(stream, &cudaStreamDestroy);
  }

  int rank() const noexcept { return rank_; }  ///< of this process
  int size() const noexcept { return size_; }  ///< number of ranks

  /// Sums memory of the device in place; see Communicator.
  Request all_reduce(std::span<float> values) {
    follow_compute();
    detail::require_nccl(ncclAllReduce(values.data(), values.data(), values.size(), ncclFloat,
                                       ncclSum, ranks_, stream_.get()),
                         "ncclAllReduce");
    return recorded(false);
  }

  /// Sums memory of the host in place; see Communicator.
  Request all_reduce(std::span<double> values) {
    void* copy = nullptr;
    detail::require_cuda(cudaMallocAsync(&copy, values.size_bytes(), stream_.get()), "a copy");
    detail::require_cuda(cudaMemcpyAsync(copy, values.data(), values.size_bytes(),
                                         cudaMemcpyHostToDevice, stream_.get()),
                         "a copy");
    detail::require_nccl(
        ncclAllReduce(copy, copy, values.size(), ncclDouble, ncclSum, ranks_, stream_.get()),
        "ncclAllReduce");
    detail::require_cuda(cudaMemcpyAsync(values.data(), copy, values.size_bytes(),
                                         cudaMemcpyDeviceToHost, stream_.get()),
                         "a copy");
    detail::require_cuda(cudaFreeAsync(copy, stream_.get()), "a copy");
    return recorded(true);
  }

  /// Copies memory of the device from rank `root` to all.
  Request broadcast(std::span<std::byte> bytes, int root) {
    follow_compute();
    detail::require_nccl(ncclBroadcast(bytes.data(), bytes.data(), bytes.size(), ncclUint8, root,
                                       ranks_, stream_.get()),
                         "ncclBroadcast");
    return recorded(false);
  }

  /// Whether it has ended.
  bool test(Request& request) {
    if (request.event_ == nullptr) return true;
    const cudaError_t result = cudaEventQuery(request.event_.get());
    if (result == cudaErrorNotReady) return false;
    detail::require_cuda(result, "a collective");
    return true;
  }

  /// See the class.
  void wait(Request& request) {
    if (request.event_ == nullptr) return;
    if (request.on_host_) {
      while (!test(request)) {
        ncclResult_t failure = ncclSuccess;
        detail::require_nccl(ncclCommGetAsyncError(ranks_, &failure), "ncclCommGetAsyncError");
        if (failure != ncclInProgress) detail::require_nccl(failure, "a collective");
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
    } else {
      detail::require_cuda(cudaStreamWaitEvent(compute_, request.event_.get(), 0), "a wait");
    }
    request.event_.reset();
  }

 private:
  static std::shared_ptr<CUevent_st> made_event() {
    cudaEvent_t event = nullptr;
    detail::require_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming),
                         "the creation of an event");
    return {event, &cudaEventDestroy};
  }

  void follow_compute() {
    const std::shared_ptr<CUevent_st> event = made_event();
    detail::require_cuda(cudaEventRecord(event.get(), compute_), "an event");
    detail::require_cuda(cudaStreamWaitEvent(stream_.get(), event.get(), 0), "a wait");
  }

  Request recorded(bool on_host) {
    Request request;
    request.event_ = made_event();
    request.on_host_ = on_host;
    detail::require_cuda(cudaEventRecord(request.event_.get(), stream_.get()), "an event");
    return request;
  }

  ncclComm_t ranks_;
  cudaStream_t compute_;
  std::shared_ptr<CUstream_st> stream_;  // of the collectives
  int rank_ = 0, size_ = 1;
};

DROPBP_NAMESPACE_END
