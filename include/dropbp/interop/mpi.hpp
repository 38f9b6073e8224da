// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Data-parallel training over MPI 3.1 or newer, on the CPU. In CMake: dropbp::mpi.
#pragma once

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/interop/agreement.hpp"
#include "dropbp/interop/communicator.hpp"
#include "dropbp/interop/watchdog.hpp"

DROPBP_NAMESPACE_BEGIN

/// The order in which MpiCommunicator adds the values of the ranks.
enum class SumOrder : std::uint8_t {
  any,      ///< as the MPI library likes, by message size and network
  by_rank,  ///< from rank 0 upwards: the same bits for the same number of ranks, whatever the
            ///< buckets, the network and the library. It moves as many bytes as a ring does.
};

/// A Communicator over MPI. Leaves MPI_ERRORS_ARE_FATAL in place: an error of MPI ends the job.
/// Messages progress within its calls, so call test now and then (GradientReducer::passed does).
class MpiCommunicator {
  struct Operation;

 public:
  /// What has begun and may not have ended.
  class Request {
   public:
    Request() = default;

   private:
    friend MpiCommunicator;
    std::vector<std::shared_ptr<Operation>> operations_;
  };

  /// For the ranks of `ranks`, whose messages stay apart from those of others because it is
  /// duplicated. All ranks of it must make the call. Throws std::logic_error where MPI has not been
  /// initialised, or has been finalised.
  explicit MpiCommunicator(MPI_Comm ranks, SumOrder order = SumOrder::any) : order_(order) {
    int initialised = 0, finalised = 0;
    MPI_Initialized(&initialised);
    MPI_Finalized(&finalised);
    if (initialised == 0 || finalised != 0)
      detail::throw_order(
          "MPI must be initialised before a communicator is made",
          finalised != 0 ? "it is finalised" : "it is not",
          "call MPI_Init before, or let run_with_mpi call the function that makes it");
    MPI_Comm_dup(ranks, &exchanges_);
    MPI_Comm_dup(ranks, &gathers_);
    MPI_Comm_rank(ranks, &rank_);
    MPI_Comm_size(ranks, &size_);
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;
  ~MpiCommunicator() {
    int finalised = 0;
    MPI_Finalized(&finalised);
    // After an exception the other ranks may be elsewhere, and freeing would wait for them.
    if (finalised != 0 || std::uncaught_exceptions() > 0) return;
    MPI_Comm_free(&exchanges_);
    MPI_Comm_free(&gathers_);
  }

  int rank() const noexcept { return rank_; }  ///< of this process
  int size() const noexcept { return size_; }  ///< number of ranks

  /// Sums in place; see Communicator.
  Request all_reduce(std::span<float> values) { return sum(values, MPI_FLOAT); }
  /// Sums in place; see Communicator.
  Request all_reduce(std::span<double> values) { return sum(values, MPI_DOUBLE); }

  /// Copies the bytes of rank `root` to all.
  Request broadcast(std::span<std::byte> bytes, int root) {
    Request request;
    in_chunks(bytes, [&](std::span<std::byte> chunk) {
      Operation& operation = begin(request);
      operation.phase = Phase::last;
      MPI_Ibcast(chunk.data(), static_cast<int>(chunk.size()), MPI_BYTE, root, exchanges_,
                 &operation.request);
    });
    return request;
  }

  /// Whether it has ended; lets all that is under way progress.
  bool test(Request& request) {
    advance();
    return std::all_of(request.operations_.begin(), request.operations_.end(),
                       [&](const auto& operation) { return ended(*operation); });
  }

  /// Returns when it has ended. Gives the processor to others meanwhile.
  void wait(Request& request) {
    for (int polls = 0; !test(request); ++polls) {
      if (polls < 1000)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    request.operations_.clear();
  }

 private:
  // A sum by rank is an exchange, in which each rank gets its share of the elements from all, and a
  // gathering of the shares' sums. Other operations have the last phase alone.
  enum class Phase : std::uint8_t { exchange, last, ended };

  struct Operation {
    MPI_Request request = MPI_REQUEST_NULL;
    Phase phase = Phase::exchange;
    void* values = nullptr;
    MPI_Datatype type = MPI_BYTE;
    std::vector<int> counts, places;  // of the elements of each rank's share
    std::vector<double> parts;        // this rank's share of all ranks, one after the other
    void (*add)(Operation&, int) = nullptr;
  };

  template <class T, class Use>
  static void in_chunks(std::span<T> values, Use use) {
    constexpr std::size_t largest = std::size_t{1} << 30;  // MPI counts in int
    for (std::size_t begin = 0; begin < values.size(); begin += largest)
      use(values.subspan(begin, (std::min)(largest, values.size() - begin)));
  }

  static Operation& begin(Request& request) {
    request.operations_.push_back(std::make_shared<Operation>());
    return *request.operations_.back();
  }

  template <class T>
  Request sum(std::span<T> values, MPI_Datatype type) {
    Request request;
    in_chunks(values, [&](std::span<T> chunk) {
      Operation& operation = begin(request);
      if (order_ == SumOrder::any || size_ == 1) {
        operation.phase = Phase::last;
        MPI_Iallreduce(MPI_IN_PLACE, chunk.data(), static_cast<int>(chunk.size()), type, MPI_SUM,
                       exchanges_, &operation.request);
        return;
      }
      exchange(operation, chunk, type);
      ordered_.push_back(request.operations_.back());
    });
    return request;
  }

  template <class T>
  void exchange(Operation& operation, std::span<T> values, MPI_Datatype type) {
    operation.values = values.data();
    operation.type = type;
    const auto ranks = static_cast<std::size_t>(size_);
    for (std::size_t r = 0; r <= ranks; ++r) {
      operation.places.push_back(static_cast<int>(values.size() * r / ranks));
      if (r > 0) operation.counts.push_back(operation.places[r] - operation.places[r - 1]);
    }
    const int share = operation.counts[static_cast<std::size_t>(rank_)];
    operation.parts.resize((static_cast<std::size_t>(share) * ranks * sizeof(T) + 7) / 8);
    std::vector<int> share_counts(ranks, share), share_places(ranks);
    for (std::size_t r = 0; r < ranks; ++r) share_places[r] = share * static_cast<int>(r);
    operation.add = &add_by_rank<T>;
    // MPI reads the four lists until the request has ended.
    operation.counts.insert(operation.counts.end(), share_counts.begin(), share_counts.end());
    operation.places.insert(operation.places.end(), share_places.begin(), share_places.end());
    MPI_Ialltoallv(values.data(), operation.counts.data(), operation.places.data(), type,
                   operation.parts.data(), operation.counts.data() + ranks,
                   operation.places.data() + ranks + 1, type, exchanges_, &operation.request);
  }

  template <class T>
  static void add_by_rank(Operation& operation, int rank) {
    const auto own = static_cast<std::size_t>(rank);
    const auto share = static_cast<std::size_t>(operation.counts[own]);
    T* const to = static_cast<T*>(operation.values) + operation.places[own];
    const T* const parts = reinterpret_cast<const T*>(operation.parts.data());
    const std::size_t ranks = operation.counts.size() / 2;
    for (std::size_t i = 0; i < share; ++i) {
      T total = parts[i];
      for (std::size_t r = 1; r < ranks; ++r) total += parts[r * share + i];
      to[i] = total;
    }
  }

  // Exchanges that have ended go on to the gathering, in the order in which they began, because
  // every rank must begin its collectives in the same order.
  void advance() {
    for (; !ordered_.empty(); ordered_.pop_front()) {
      Operation& operation = *ordered_.front();
      if (!has_ended(operation.request)) return;
      operation.add(operation, rank_);
      operation.phase = Phase::last;
      MPI_Iallgatherv(MPI_IN_PLACE, 0, operation.type, operation.values, operation.counts.data(),
                      operation.places.data(), operation.type, gathers_, &operation.request);
    }
  }

  static bool has_ended(MPI_Request& request) {
    int flag = 0;
    MPI_Test(&request, &flag, MPI_STATUS_IGNORE);
    return flag != 0;
  }

  static bool ended(Operation& operation) {
    if (operation.phase == Phase::last && has_ended(operation.request))
      operation.phase = Phase::ended;
    return operation.phase == Phase::ended;
  }

  MPI_Comm exchanges_ = MPI_COMM_NULL, gathers_ = MPI_COMM_NULL;
  SumOrder order_;
  int rank_ = 0, size_ = 1;
  std::deque<std::shared_ptr<Operation>> ordered_;  // whose exchange may not have ended
};

namespace detail {

// The lowest rank that finds a fault ends the others, once they have written their lines. Open
// MPI's mpirun ends a job in which a rank exits before MPI_Finalize. MPI_Abort, which is for all
// other launchers, was seen to deadlock mpirun where another rank has finalised (4.1.4,
// PMIx 4.2.2).
[[noreturn]] inline void end_mpi() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::this_thread::sleep_for((std::min)(rank, 10) * std::chrono::milliseconds(100));
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) {
    alarm(3);  // ends this process, and so the job, where MPI_Abort itself is stuck
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  _exit(1);
}

}  // namespace detail

/// Writes the sentence with this rank's number to the standard error and ends the job, with exit
/// code 1. May be called by any thread.
[[noreturn]] inline void abort_mpi(const std::string& sentence) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::fputs(("rank " + std::to_string(rank) + ": " + sentence + "\n").c_str(), stderr);
  std::fflush(stderr);
  detail::end_mpi();
}

/// A Watchdog that ends the job.
class MpiWatchdog : public Watchdog {
 public:
  /// `deadline`: of a step.
  explicit MpiWatchdog(std::chrono::duration<double> deadline)
      : Watchdog(deadline, [](const std::string& sentence) { abort_mpi(sentence); }) {}
};

/// Calls body() between MPI_Init and MPI_Finalize, and returns what it returns. An exception on any
/// rank ends the job: without it, the other ranks would wait for this one.
///   int main(int argc, char** argv) {
///     return dropbp::run_with_mpi(argc, argv, [] { return train(); });
///   }
template <class Body>
int run_with_mpi(int argc, char** argv, Body&& body) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);  // the watchdog is a thread
  int code = 0;
  try {
    code = body();
  } catch (const RanksDisagree&) {
    detail::end_mpi();  // its text is written
  } catch (const std::exception& error) {
    abort_mpi(error.what());
  } catch (...) {
    abort_mpi("dropbp: an exception that is no std::exception has ended this rank");
  }
  MPI_Finalize();
  return code;
}

DROPBP_NAMESPACE_END
