// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/ranks.hpp"

#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <utility>

#include <dropbp/interop/communicator.hpp>
#if defined(DROPBP_LLAMA_MPI)
#include <dropbp/interop/mpi.hpp>
#endif

namespace llama {
namespace {

/// As Open MPI or MPICH and what is made of it say; 1 without them.
int started_ranks() {
  for (const char* const name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"})
    if (const char* const text = std::getenv(name)) return std::atoi(text);
  return 1;
}

}  // namespace

#if defined(DROPBP_LLAMA_MPI)

struct Ranks::Job {
  dropbp::MpiCommunicator communicator{MPI_COMM_WORLD, dropbp::SumOrder::by_rank};
  int size_here = 1;
  double deadline = 0.0;
  std::optional<dropbp::MpiWatchdog> watchdog;

  Job() {
    MPI_Comm here;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
    MPI_Comm_size(here, &size_here);
    MPI_Comm_free(&here);
  }
};

namespace {

using MpiRequest = dropbp::MpiCommunicator::Request;

Ranks::Request erased(MpiRequest request) {
  return {std::make_shared<MpiRequest>(std::move(request))};
}
MpiRequest& request_of(Ranks::Request& request) {
  return *static_cast<MpiRequest*>(request.of.get());
}

}  // namespace

int Ranks::rank() const noexcept { return job_ ? job_->communicator.rank() : 0; }
int Ranks::size() const noexcept { return job_ ? job_->communicator.size() : 1; }
int Ranks::size_here() const noexcept { return job_ ? job_->size_here : 1; }

Ranks::Request Ranks::all_reduce(std::span<float> values) {
  return job_ ? erased(job_->communicator.all_reduce(values)) : Request{};
}
Ranks::Request Ranks::all_reduce(std::span<double> values) {
  return job_ ? erased(job_->communicator.all_reduce(values)) : Request{};
}
Ranks::Request Ranks::broadcast(std::span<std::byte> bytes, int root) {
  return job_ ? erased(job_->communicator.broadcast(bytes, root)) : Request{};
}
bool Ranks::test(Request& request) {
  return request.of == nullptr || job_->communicator.test(request_of(request));
}
void Ranks::wait(Request& request) {
  if (request.of != nullptr) job_->communicator.wait(request_of(request));
  request.of = nullptr;
}

void Ranks::set_deadline(std::uint64_t step, double seconds) {
  if (!job_) return;
  if (seconds != job_->deadline) job_->watchdog.reset();
  job_->deadline = seconds;
  if (seconds <= 0.0) return;
  if (!job_->watchdog) job_->watchdog.emplace(std::chrono::duration<double>(seconds));
  job_->watchdog->begin_step(step);
}

void Ranks::abort(const std::string& text) {
  if (job_) dropbp::abort_mpi(text);
}

int run_ranks(int argc, char** argv, const std::function<int(Ranks&)>& body) {
  if (started_ranks() > 1)
    return dropbp::run_with_mpi(argc, argv, [&] {
      Ranks ranks(std::make_unique<Ranks::Job>());
      return body(ranks);
    });
  Ranks alone;
  return body(alone);
}

#else

struct Ranks::Job {};

int Ranks::rank() const noexcept { return 0; }
int Ranks::size() const noexcept { return 1; }
int Ranks::size_here() const noexcept { return 1; }
Ranks::Request Ranks::all_reduce(std::span<float>) { return {}; }
Ranks::Request Ranks::all_reduce(std::span<double>) { return {}; }
Ranks::Request Ranks::broadcast(std::span<std::byte>, int) { return {}; }
bool Ranks::test(Request&) { return true; }
void Ranks::wait(Request&) {}
void Ranks::set_deadline(std::uint64_t, double) {}
void Ranks::abort(const std::string&) {}

int run_ranks(int, char**, const std::function<int(Ranks&)>& body) {
  if (started_ranks() > 1)
    throw std::runtime_error(
        "mpirun needs a program that was built with MPI, but this one was built without it, and "
        "each process would train on its own; install MPI (Debian: libopenmpi-dev) and build it "
        "again, or start it without mpirun");
  Ranks alone;
  return body(alone);
}

#endif

Ranks::Ranks() = default;
Ranks::Ranks(std::unique_ptr<Job> job) : job_(std::move(job)) {}
Ranks::~Ranks() = default;

bool Ranks::any(bool holds) {
  if (!are_several()) return holds;
  double votes = holds ? 1.0 : 0.0;
  Request request = all_reduce(std::span<double>(&votes, 1));
  wait(request);
  return votes > 0.0;
}

}  // namespace llama
