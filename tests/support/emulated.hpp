// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A backend that runs on the host emulator: every op and whole models run the kernels of CUDA;
// matrix products run on the CPU. Memory starts as NaN and is exactly as large as requested.
#pragma once

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "dropbp/kernels/cpu/gemm.hpp"
#include "dropbp/kernels/cuda.hpp"
#include "dropbp/ops/gemm.hpp"
#include "support/simt.hpp"

/// The backend tag.
struct Emulated {
  /// While an object of this class exists, the current CUDA stream counts as captured into a graph.
  /// Kernels still run, but waits for the device and copies from or to the host throw.
  class Capturing {
   public:
    Capturing() { active() = true; }
    ~Capturing() { active() = false; }
    Capturing(const Capturing&) = delete;
    Capturing& operator=(const Capturing&) = delete;
    static bool& active() {
      static bool value = false;
      return value;
    }
  };
};

DROPBP_NAMESPACE_BEGIN

template <>
struct device_runtime<Emulated> {
  static void* allocate(std::size_t bytes) {
    if (bytes == 0) return nullptr;
    void* const memory = ::operator new(bytes, std::align_val_t{256});
    std::memset(memory, 0xFF, bytes);
    return memory;
  }
  static void release(void* memory, std::size_t) noexcept {
    ::operator delete(memory, std::align_val_t{256});
  }
  static void copy_to_device(void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    require_no_capture("a copy from host memory");
    std::memcpy(to, from, bytes);
  }
  static void copy_to_host(void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    require_no_capture("a copy to host memory");
    std::memcpy(to, from, bytes);
  }
  static void copy(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  static void fill(void* memory, int byte, std::size_t bytes) { std::memset(memory, byte, bytes); }
  static void synchronize() { require_no_capture("waiting"); }
  static void require_no_capture(const char* what) {
    if (Emulated::Capturing::active())
      dropbp::detail::throw_order(std::string(what) + " needs a stream that is not being captured",
                                  "the current stream is being captured into a graph",
                                  "move it before or behind the captured part");
  }
};

template <>
struct device_launcher<Emulated> {
  /// Each launch has another schedule.
  static simt::Launcher current() {
    static std::uint64_t seed = 0;
    return simt::Launcher(seed += 1000);
  }
};

template <>
inline constexpr bool cuda::runs_bodies<Emulated> = true;

template <class T>
struct ops::kernels<ops::op::gemm, T, Emulated> {
  static void run(GemmLayout layout, MatrixView<T, Emulated> c, MatrixView<const T, Emulated> a,
                  MatrixView<const T, Emulated> b, Accumulate mode) {
    const auto floats = [](const auto& x) {
      Matrix<float> result(x.rows, x.columns);
      for (Index i = 0; i < x.rows; ++i)
        for (Index j = 0; j < x.columns; ++j) result.row(i)[j] = cuda::to_float(x.row(i)[j]);
      return result;
    };
    const Matrix<float> fa = floats(a), fb = floats(b);
    Matrix<float> fc = mode == Accumulate::add ? floats(c) : Matrix<float>(c.rows, c.columns);
    kernels<op::gemm, float, Cpu>::run(layout, fc.view(), fa.view(), fb.view(), mode);
    for (Index i = 0; i < c.rows; ++i)
      for (Index j = 0; j < c.columns; ++j) c.row(i)[j] = cuda::from_float<T>(fc.row(i)[j]);
  }
};

DROPBP_NAMESPACE_END
