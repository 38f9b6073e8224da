// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Shared by the tests of kernel bodies: values that a scalar type represents exactly, device
// matrices that start as NaN in every layout that a launcher distinguishes, error bounds in units
// of rounding, and the check that no schedule changes a bit.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "dropbp/backend/cuda/context.hpp"
#include "support/catch.hpp"
#include "support/simt.hpp"
#include "support/worst.hpp"

namespace dropbp::test {

using cuda::Index;
using cuda::Rows;

template <class T>
inline constexpr const char* name_of = "float";
template <>
inline constexpr const char* name_of<Half> = "Half";
template <>
inline constexpr const char* name_of<BFloat16> = "BFloat16";

/// The largest relative error of rounding to T: 2^-p with p significant bits.
template <class T>
inline constexpr double unit = 0x1p-24;
template <>
inline constexpr double unit<Half> = 0x1p-11;
template <>
inline constexpr double unit<BFloat16> = 0x1p-8;

/// Half the distance of two subnormal numbers: the largest absolute rounding error near 0.
template <class T>
inline constexpr double least = 0x1p-150;
template <>
inline constexpr double least<Half> = 0x1p-25;
template <>
inline constexpr double least<BFloat16> = 0x1p-134;

inline constexpr double float_unit = unit<float>;

/// Calls f(T()) for each scalar type of the kernels.
template <class F>
void for_each_scalar(const F& f) {
  const auto named = [&](const char* name, auto zero) {
    INFO("scalar " << name);
    f(zero);
  };
  named("float", 0.0f);
  named("Half", Half{});
  named("BFloat16", BFloat16{});
}

template <class T>
T rounded_to(double value) {
  return cuda::from_float<T>(static_cast<float>(value));
}

/// Uniform random numbers that T represents exactly.
template <class T>
std::vector<float> random_values(Index count, std::uint64_t seed, double from = -1,
                                 double up_to = 1) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform(from, up_to);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = cuda::to_float(rounded_to<T>(uniform(random)));
  return values;
}

/// Random integers from -bound to bound. Every T represents them exactly if bound <= 256.
inline std::vector<float> random_integers(Index count, std::uint64_t seed, int bound) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int> uniform(-bound, bound);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(uniform(random));
  return values;
}

template <class T>
std::vector<T> to_scalars(const std::vector<float>& values) {
  std::vector<T> result;
  for (const float value : values) result.push_back(cuda::from_float<T>(value));
  return result;
}

template <class T>
std::vector<float> to_floats(const std::vector<T>& values) {
  std::vector<float> result;
  for (const T value : values) result.push_back(cuda::to_float(value));
  return result;
}

inline std::vector<double> to_doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

/// The layout of a matrix's rows in memory.
struct Layout {
  Index gap;          ///< elements between rows
  std::size_t shift;  ///< elements between an aligned address and the first row
};
/// Aligned without gaps; aligned with gaps; misaligned at the start; misaligned by the stride.
inline constexpr Layout layouts[] = {{0, 0}, {16, 0}, {0, 1}, {3, 0}};

inline std::string text(const Layout& layout) {
  return "gap " + std::to_string(layout.gap) + ", shift " + std::to_string(layout.shift);
}

/// A matrix in device memory. Its elements and the gaps between its rows start as NaN. Nothing
/// follows the last row.
template <class T>
class DeviceMatrix {
 public:
  DeviceMatrix(Index rows, Index columns, Layout layout = {0, 0})
      : rows_(rows),
        columns_(columns),
        stride_(columns + layout.gap),
        memory_(rows * columns == 0 ? 0 : static_cast<std::size_t>((rows - 1) * stride_ + columns),
                layout.shift) {}
  DeviceMatrix(Index rows, Index columns, Layout layout, const std::vector<float>& values)
      : DeviceMatrix(rows, columns, layout) {
    REQUIRE(static_cast<Index>(values.size()) == rows * columns);
    for (Index i = 0; i < rows * columns; ++i)
      at(i / columns, i % columns) = cuda::from_float<T>(values[static_cast<std::size_t>(i)]);
  }

  T* data() { return memory_.data(); }
  Rows<T> rows() { return {memory_.data(), stride_}; }

  std::vector<float> values() {
    std::vector<float> result;
    for (Index i = 0; i < rows_ * columns_; ++i)
      result.push_back(cuda::to_float(at(i / columns_, i % columns_)));
    return result;
  }

  /// Whether all gaps between the rows are still NaN.
  bool gaps_are_poison() const {
    for (Index i = 0; i < static_cast<Index>(memory_.size()); ++i) {
      if (i % stride_ < columns_) continue;
      std::uint32_t bits = 0, poison = 0;
      std::memcpy(&bits, memory_.data() + i, sizeof(T));
      std::memset(&poison, 0xFF, sizeof(T));
      if (bits != poison) return false;
    }
    return true;
  }

 private:
  T& at(Index row, Index column) { return memory_.data()[row * stride_ + column]; }

  Index rows_, columns_, stride_;
  simt::Buffer<T> memory_;
};

/// run(launcher) returns all results as floats. Checks that the bits are the same for two runs with
/// one schedule and for a run with another schedule.
template <class Run>
std::vector<float> in_all_schedules(const Run& run) {
  const auto with = [&](std::uint64_t seed) {
    simt::Launcher launch(seed);
    return run(launch);
  };
  const std::vector<float> first = with(1);
  CHECK(same_bits(first, with(1)));
  CHECK(same_bits(first, with(20261)));
  return first;
}

template <class... Parts>
std::vector<float> joined(const Parts&... parts) {
  std::vector<float> all;
  (all.insert(all.end(), parts.begin(), parts.end()), ...);
  return all;
}

/// The largest |got - wanted| / bound(i). At most 1 if every bound holds; more than 1 if a result
/// is NaN, as unwritten elements are.
template <class Got, class Wanted, class Bound>
double worst_share(const Got& got, const Wanted& wanted, const Bound& bound) {
  REQUIRE(got.size() == wanted.size());
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - static_cast<double>(wanted[i]));
    if (error != 0) keep_worst(worst, error / static_cast<double>(bound(i)));
  }
  return worst;
}

}  // namespace dropbp::test
