// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What data-parallel training asks of a library of collectives, and the communicator of a process
// that is alone. mpi.hpp and nccl.hpp have the others.
#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <vector>

#include "dropbp/base/config.hpp"
#include "dropbp/base/view.hpp"

DROPBP_NAMESPACE_BEGIN

/// The ranks of a job, numbered from 0. all_reduce sums each element over the ranks, in place;
/// broadcast replaces the bytes of all ranks by those of `root`. Both only begin, and return a
/// Request: the memory is the communicator's until wait(request) returns or test(request) has
/// returned true. Every rank makes the same calls in the same order with the same sizes, and all
/// get the same bits. test(request) lets a library without threads of its own progress, and is
/// cheap. A Request is movable; a default-constructed one is complete.
///
/// A communicator for devices may have the floats, and the bytes of a broadcast, in the memory of
/// its device; doubles are in the memory of the host.
template <class C>
concept Communicator =
    std::default_initializable<typename C::Request> && std::movable<typename C::Request> &&
    requires(C& communicator, const C& constant, typename C::Request& request,
             std::span<float> floats, std::span<double> doubles, std::span<std::byte> bytes,
             int root) {
      { constant.rank() } -> std::same_as<int>;
      { constant.size() } -> std::same_as<int>;
      { communicator.all_reduce(floats) } -> std::same_as<typename C::Request>;
      { communicator.all_reduce(doubles) } -> std::same_as<typename C::Request>;
      { communicator.broadcast(bytes, root) } -> std::same_as<typename C::Request>;
      { communicator.test(request) } -> std::same_as<bool>;
      communicator.wait(request);
    };

/// The only rank of its job.
class SingleCommunicator {
 public:
  /// Always complete.
  struct Request {};

  int rank() const noexcept { return 0; }                               ///< of this process
  int size() const noexcept { return 1; }                               ///< number of ranks
  Request all_reduce(std::span<float>) noexcept { return {}; }          ///< changes nothing
  Request all_reduce(std::span<double>) noexcept { return {}; }         ///< changes nothing
  Request broadcast(std::span<std::byte>, int) noexcept { return {}; }  ///< changes nothing
  bool test(Request&) noexcept { return true; }                         ///< true
  void wait(Request&) noexcept {}                                       ///< returns at once
};

/// The values of all ranks, those of rank 0 first. Every rank gives as many. The bits arrive as
/// they were given, but for -0, which arrives as 0.
template <Communicator C>
std::vector<double> gathered(C& communicator, std::span<const double> own) {
  // A sum with zeros is exact, so that no further collective is needed.
  const auto size = static_cast<std::size_t>(communicator.size());
  std::vector<double> all(size * own.size(), 0.0);
  for (std::size_t i = 0; i < own.size(); ++i)
    all[static_cast<std::size_t>(communicator.rank()) * own.size() + i] = own[i];
  typename C::Request request = communicator.all_reduce(detail::view(all));
  communicator.wait(request);
  return all;
}

/// Sums each value over the ranks, in the order of the ranks, so that all of them get the same bits
/// whatever the library. For sensitivities, before rates are allocated from them:
///   sum_over_ranks(communicator, sensitivities);
///   schedule.allocate(sensitivities, policy);
template <Communicator C>
void sum_over_ranks(C& communicator, std::span<double> values) {
  const std::vector<double> all = gathered(communicator, std::span<const double>(values));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = all[i];
    for (std::size_t at = i + values.size(); at < all.size(); at += values.size())
      values[i] += all[at];
  }
}

DROPBP_NAMESPACE_END
