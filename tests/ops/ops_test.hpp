// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Shared by the tests of ops/: seeded data, hashes, thread counts.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "dropbp/kernels/cpu/parallel.hpp"
#include "dropbp/ops/parameter.hpp"
#include "support/catch.hpp"
#include "support/worst.hpp"

namespace dropbp::test {

using ops::Index;

template <class T>
void fill(std::span<T> to, std::uint64_t seed, double from = -1, double up_to = 1) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform(from, up_to);
  for (T& value : to) value = static_cast<T>(uniform(random));
}

template <class T>
std::span<T> elements(ops::Matrix<T>& m) {
  return {m.data(), m.size()};
}
template <class T>
std::span<const T> elements(const ops::Matrix<T>& m) {
  return {m.data(), m.size()};
}
template <class T>
std::span<T> elements(ops::MatrixView<T> v) {
  return {v.data, static_cast<std::size_t>(v.rows * v.columns)};
}

template <class T>
ops::Matrix<T> random_matrix(Index rows, Index columns, std::uint64_t seed, double from = -1,
                             double up_to = 1) {
  ops::Matrix<T> m(rows, columns);
  fill<T>(elements(m), seed, from, up_to);
  return m;
}

template <class T>
ops::Matrix<T> clone(const ops::Matrix<T>& from) {
  ops::Matrix<T> to(from.rows(), from.columns());
  std::memcpy(to.data(), from.data(), from.size() * sizeof(T));
  return to;
}

template <class T>
void randomise(ops::Parameter<T>& parameter, std::uint64_t seed, double from = -1,
               double up_to = 1) {
  fill<T>(elements(parameter.value()), seed, from, up_to);
}

template <class T>
std::vector<double> as_doubles(std::span<const T> from) {
  return {from.begin(), from.end()};
}

/// FNV-1a over the bytes.
class Hash {
 public:
  template <class T>
  void add(std::span<T> values) {
    for (const auto& value : values) {
      unsigned char bytes[sizeof(T)];
      std::memcpy(bytes, &value, sizeof(T));
      for (const unsigned char byte : bytes) state_ = (state_ ^ byte) * 0x100000001B3u;
    }
  }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xCBF29CE484222325u;
};

template <class T>
bool same_bits(std::span<T> a, std::span<T> b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

template <class Values>
bool any_nan(const Values& values) {
  for (const auto value : values)
    if (std::isnan(value)) return true;
  return false;
}

inline void use_threads(int count) { ops::set_thread_count(count); }

/// Restores the number of threads at the end of a test.
class ThreadsGuard {
 public:
  ThreadsGuard() : before_(static_cast<int>(ops::thread_count())) {}
  ~ThreadsGuard() { use_threads(before_); }

 private:
  int before_;
};

inline constexpr int thread_counts[] = {1, 2, 3, 8};

/// The largest |a - b| divided by the largest |b|; NaN if any difference is NaN.
template <class A, class B>
double scaled_difference(const A& a, const B& b) {
  double difference = 0, largest = 0;
  auto other = b.begin();
  for (const auto value : a) {
    keep_worst(difference, std::abs(static_cast<double>(value) - static_cast<double>(*other)));
    largest = std::max(largest, std::abs(static_cast<double>(*other++)));
  }
  return largest > 0 ? difference / largest : difference;
}

/// Returns the message of the std::invalid_argument that f throws, or "".
template <class F>
std::string invalid_message(const F& f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace dropbp::test
