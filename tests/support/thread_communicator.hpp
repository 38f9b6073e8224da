// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Ranks as threads of one process, with faults that a test plants.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <dropbp/interop/communicator.hpp>

namespace test {

// What the ranks of a job share.
struct ThreadJob {
  struct Meeting {
    std::vector<std::vector<std::byte>> given;  // by rank
    int arrived = 0, left = 0;
  };

  explicit ThreadJob(int ranks) : size(ranks) {}

  int size;
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::uint64_t, Meeting> meetings;  // by number of the call
};

class ThreadCommunicator {
 public:
  struct Request {
    std::uint64_t number = 0;  // of the call
    std::span<std::byte> bytes = {};
    std::function<void(const ThreadJob::Meeting&)> end = nullptr;  // null: complete
  };

  ThreadCommunicator(ThreadJob& job, int rank) : job_(&job), rank_(rank) {}

  // Called with the number of a call before it is made; it may sleep, or throw.
  std::function<void(std::uint64_t)> before_call = nullptr;

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return job_->size; }
  std::uint64_t calls() const noexcept { return calls_; }

  Request all_reduce(std::span<float> values) { return sum(values); }
  Request all_reduce(std::span<double> values) { return sum(values); }
  Request broadcast(std::span<std::byte> bytes, int root) {
    return begin(bytes, [bytes, root](const ThreadJob::Meeting& meeting) {
      const auto& from = meeting.given[static_cast<std::size_t>(root)];
      std::copy(from.begin(), from.end(), bytes.begin());
    });
  }
  bool test(Request& request) {
    const std::lock_guard lock(job_->mutex);
    return try_end(request);
  }
  void wait(Request& request) {
    std::unique_lock lock(job_->mutex);
    // Longer than any pause of a busy machine; a rank that never comes is a failure of the test.
    if (!job_->changed.wait_for(lock, std::chrono::minutes(15), [&] { return try_end(request); }))
      throw std::runtime_error("a rank did not come to call " + std::to_string(request.number));
  }

 private:
  template <class T>
  Request sum(std::span<T> values) {
    const auto add = [values](const ThreadJob::Meeting& meeting) {
      for (std::size_t i = 0; i < values.size(); ++i) {
        T total = 0;
        for (const auto& given : meeting.given) {
          T value;
          std::memcpy(&value, given.data() + i * sizeof(T), sizeof(T));
          total += value;
        }
        values[i] = total;
      }
    };
    return begin(std::as_writable_bytes(values), add);
  }

  Request begin(std::span<std::byte> bytes, std::function<void(const ThreadJob::Meeting&)> end) {
    if (before_call) before_call(calls_);
    const std::lock_guard lock(job_->mutex);
    ThreadJob::Meeting& meeting = job_->meetings[calls_];
    if (meeting.given.empty()) meeting.given.resize(static_cast<std::size_t>(size()));
    meeting.given[static_cast<std::size_t>(rank_)].assign(bytes.begin(), bytes.end());
    ++meeting.arrived;
    job_->changed.notify_all();
    return {calls_++, bytes, std::move(end)};
  }

  // With the lock.
  bool try_end(Request& request) {
    if (!request.end) return true;
    const auto at = job_->meetings.find(request.number);
    if (at->second.arrived < size()) return false;
    for (const auto& given : at->second.given)
      if (given.size() != request.bytes.size())
        throw std::runtime_error("call " + std::to_string(request.number) + " has other sizes");
    request.end(at->second);
    request.end = nullptr;
    if (++at->second.left == size()) job_->meetings.erase(at);
    return true;
  }

  ThreadJob* job_;
  int rank_;
  std::uint64_t calls_ = 0;
};

// Runs body(communicator) once for each rank, and returns the text of what each has thrown.
inline std::vector<std::string> run_ranks(int ranks,
                                          const std::function<void(ThreadCommunicator&)>& body) {
  ThreadJob job(ranks);
  std::vector<std::string> thrown(static_cast<std::size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      ThreadCommunicator communicator(job, rank);
      try {
        body(communicator);
      } catch (const std::exception& error) {
        thrown[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
  return thrown;
}

}  // namespace test
