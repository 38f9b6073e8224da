// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Device matrices with a known start, and a function that runs an op in every way that must work:
// on CUDA's default stream, on another stream, and as a captured graph. Each way must give the same
// bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/gpu/backend.hpp"
#include "dropbp/backend/cuda/scalar.hpp"
#include "dropbp/kernels/cuda.hpp"
#include "support/catch.hpp"

namespace test {

using dropbp::BFloat16, dropbp::Half;
using dropbp::ops::Index, dropbp::ops::Matrix, dropbp::ops::MatrixView;

/// The tolerance of each scalar: largest error divided by largest value.
template <class T>
inline constexpr double tolerance = std::is_same_v<T, float>  ? 1e-5
                                    : std::is_same_v<T, Half> ? 2e-3
                                                              : 1e-2;

/// A new seed in each run. A failure prints it.
inline std::uint64_t fresh_seed() {
  static const std::uint64_t seed = [] {
    const char* const given = std::getenv("DROPBP_TEST_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 10)
                            : std::uint64_t{std::random_device{}()};
  }();
  return seed;
}

class AnyBuffer {
 public:
  virtual ~AnyBuffer() = default;
  virtual void reset() = 0;                        ///< back to the initial values
  virtual std::vector<unsigned char> fetch() = 0;  ///< the current values; waits for them
};

/// Rows of E on the device. All bytes start as 0xFF, NaN in each scalar, unless fill() has set
/// them.
template <class E>
class Buffer : public AnyBuffer {
 public:
  Buffer(Index rows, Index columns)
      : rows_(rows),
        columns_(columns),
        initial_(static_cast<std::size_t>(rows * columns)),
        device_(rows, columns) {
    if (!initial_.empty())
      std::memset(static_cast<void*>(initial_.data()), 0xFF, initial_.size() * sizeof(E));
    reset();
  }
  /// Starts with the host's `values`, rounded to E.
  Buffer(Index rows, Index columns, const std::vector<double>& values) : Buffer(rows, columns) {
    for (std::size_t i = 0; i < initial_.size(); ++i) initial_[i] = narrow(values[i]);
    reset();
  }

  /// Fills it with uniform numbers in [-1, 1). Returns them as rounded.
  std::vector<double> fill(std::mt19937_64& random) {
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    std::vector<double> values;
    for (E& element : initial_) {
      element = narrow(static_cast<double>(uniform(random)));
      values.push_back(widen(element));
    }
    reset();
    return values;
  }

  void reset() override {
    if (!initial_.empty())
      Device::copy_to_device(device_.data(), initial_.data(), initial_.size() * sizeof(E));
  }
  std::vector<unsigned char> fetch() override {
    std::vector<unsigned char> bytes(initial_.size() * sizeof(E));
    if (!bytes.empty()) Device::copy_to_host(bytes.data(), device_.data(), bytes.size());
    return bytes;
  }
  std::vector<double> values() {
    std::vector<E> elements(initial_.size());
    if (!elements.empty())
      Device::copy_to_host(elements.data(), device_.data(), elements.size() * sizeof(E));
    std::vector<double> result;
    for (const E& element : elements) result.push_back(widen(element));
    return result;
  }

  E* data() { return device_.data(); }
  MatrixView<E, Backend> view() { return device_.view(); }
  MatrixView<const E, Backend> constant() { return device_.view(); }
  /// A range of columns: a matrix whose rows lie further apart than they are long.
  MatrixView<E, Backend> columns(Index first, Index count) {
    return device_.view().columns_from(first, count);
  }

 private:
  static E narrow(double value) {
    if constexpr (std::is_arithmetic_v<E>)
      return static_cast<E>(value);
    else
      return dropbp::cuda::from_float<E>(static_cast<float>(value));
  }
  static double widen(E element) {
    if constexpr (std::is_arithmetic_v<E>)
      return static_cast<double>(element);
    else
      return static_cast<double>(dropbp::cuda::to_float(element));
  }

  Index rows_, columns_;
  std::vector<E> initial_;
  Matrix<E, Backend> device_;
};

/// Whether a captured CUDA stream accepts the op. Ops that read host arrays or return numbers to
/// the host refuse: a graph would repeat the tokens, step counts and addresses of one step.
enum class Capture { yes, refused };

/// Runs `op` in every way from the same start. The outputs keep the last results.
inline void run_everywhere(std::initializer_list<AnyBuffer*> outputs, Capture capture,
                           const std::function<void()>& op) {
  const auto begin = [&] {
    for (AnyBuffer* output : outputs) output->reset();
    Device::synchronize();
  };
  const auto results = [&] {
    std::vector<std::vector<unsigned char>> all;
    for (AnyBuffer* output : outputs) all.push_back(output->fetch());
    return all;
  };
  begin();
  const auto before = results();
  if (capture == Capture::refused) {
    check_refused_in_capture(op);
    CHECK(results() == before);
  }
  op();
  const auto wanted = results();
  begin();
  op();
  CHECK(results() == wanted);
  begin();
  in_another_stream(op);
  CHECK(results() == wanted);
  if (capture == Capture::refused) return;
  begin();
  run_captured(op);
  CHECK(results() == wanted);
}

/// The largest error divided by the largest wanted value; infinite for NaN. Where the terms of a
/// sum may cancel, `largest` is the size of the largest term: the sum's rounding is relative to
/// that.
inline double error_of(const std::vector<double>& got, const std::vector<double>& wanted,
                       double largest = 1e-30) {
  double error = 0.0;
  for (const double value : wanted) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double difference = std::abs(got[i] - wanted[i]);
    if (!(difference <= error))
      error = std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
  }
  return got.size() == wanted.size() ? error / largest : std::numeric_limits<double>::infinity();
}

}  // namespace test
