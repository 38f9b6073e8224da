// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A backend whose device is the host emulator: every op and whole models run the kernels that CUDA
// would run, and products by the CPU's. Memory begins as NaN and is exactly as large as asked for.
#pragma once

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "dropbp/ops/device_kernels.hpp"
#include "dropbp/ops/product.hpp"
#include "support/simt.hpp"

/// The tag.
struct Emulated {
  /// While one lives, the current stream counts as being captured into a graph: kernels run all the
  /// same, and what waits for the device or copies from or to the host is refused.
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

template <class T>
struct device_products<Emulated, T> {
  static void product(GemmLayout layout, std::ptrdiff_t m, std::ptrdiff_t n, std::ptrdiff_t k, T* c,
                      std::ptrdiff_t ldc, const T* a, std::ptrdiff_t lda, const T* b,
                      std::ptrdiff_t ldb, bool add) {
    const auto floats = [](const T* x, std::ptrdiff_t rows, std::ptrdiff_t columns,
                           std::ptrdiff_t ld) {
      ops::Matrix<float> result(rows, columns);
      for (std::ptrdiff_t i = 0; i < rows; ++i)
        for (std::ptrdiff_t j = 0; j < columns; ++j)
          result.row(i)[j] = cuda::to_float(x[i * ld + j]);
      return result;
    };
    const bool at = layout == GemmLayout::tn, bt = layout == GemmLayout::nt;
    const ops::Matrix<float> fa = floats(a, at ? k : m, at ? m : k, lda),
                             fb = floats(b, bt ? n : k, bt ? k : n, ldb);
    ops::Matrix<float> fc = add ? floats(c, m, n, ldc) : ops::Matrix<float>(m, n);
    const ops::Accumulate mode = add ? ops::Accumulate::add : ops::Accumulate::overwrite;
    if (layout == GemmLayout::nt) ops::gemm_nt(fc.view(), fa.view(), fb.view(), mode);
    if (layout == GemmLayout::nn) ops::gemm_nn(fc.view(), fa.view(), fb.view(), mode);
    if (layout == GemmLayout::tn) ops::gemm_tn(fc.view(), fa.view(), fb.view(), mode);
    for (std::ptrdiff_t i = 0; i < m; ++i)
      for (std::ptrdiff_t j = 0; j < n; ++j) c[i * ldc + j] = cuda::from_float<T>(fc.row(i)[j]);
  }
};

DROPBP_NAMESPACE_END
