// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The processes that train one model together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace llama {

/// The ranks that mpirun has started, or this process alone. A dropbp::Communicator, which sums in
/// the order of the ranks, so that two runs have the same bits.
class Ranks {
 public:
  struct Request {
    std::shared_ptr<void> of;  ///< null: complete
  };
  struct Job;

  /// This process alone.
  Ranks();
  explicit Ranks(std::unique_ptr<Job> job);
  ~Ranks();

  [[nodiscard]] int rank() const noexcept;
  [[nodiscard]] int size() const noexcept;
  /// Number of ranks on this machine.
  [[nodiscard]] int size_here() const noexcept;
  [[nodiscard]] bool is_first() const noexcept { return rank() == 0; }
  [[nodiscard]] bool are_several() const noexcept { return size() > 1; }

  Request all_reduce(std::span<float> values);
  Request all_reduce(std::span<double> values);
  Request broadcast(std::span<std::byte> bytes, int root);
  bool test(Request& request);
  void wait(Request& request);

  /// Whether it holds on any rank. All ranks make the call.
  [[nodiscard]] bool any(bool holds);

  /// Ends the job where `seconds` pass before the next call; 0 is no limit.
  void set_deadline(std::uint64_t step, double seconds);

  /// Writes the text and ends the job. Returns where this process is alone.
  void abort(const std::string& text);

 private:
  std::unique_ptr<Job> job_;  // null: alone
};

/// Calls body(ranks) and returns what it returns, between MPI_Init and MPI_Finalize where mpirun
/// has started the process. Throws std::runtime_error where it has, and the program was built
/// without MPI.
int run_ranks(int argc, char** argv, const std::function<int(Ranks&)>& body);

}  // namespace llama
