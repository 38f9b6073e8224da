// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A backend that runs on the host emulator: every op and whole models run the kernels of CUDA;
// matrix products run on the CPU. Memory starts as NaN and is exactly as large as requested.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dropbp/backend/staging.hpp"
#include "dropbp/kernels/cpu/gemm.hpp"
#include "dropbp/kernels/cuda.hpp"
#include "dropbp/ops/gemm.hpp"
#include "dropbp/steady_clock.hpp"
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

  /// Whether it multiplies in 8 bits, as some cards do and others do not.
  static bool& multiplies_fp8() {
    static bool value = true;
    return value;
  }

  /// How often the host waited for the device. Until it does, no copy from pinned memory and no
  /// event counts as done, as on a device that is late.
  static std::size_t& waits() {
    static std::size_t count = 0;
    return count;
  }

  /// The current device and stream, and the streams that were told to follow another one.
  struct Place {
    int device = 0, stream = 0;
    bool operator==(const Place&) const = default;
  };
  static Place& place() {
    thread_local Place now;
    return now;
  }
  /// Where the host has last waited for a whole stream.
  static Place& waited_in() {
    static Place last;
    return last;
  }
  static std::vector<std::pair<Place, Place>>& followed() {
    static std::vector<std::pair<Place, Place>> list;
    return list;
  }

  /// Copies from pinned memory that the device has not run yet.
  struct PendingCopy {
    const void* pinned;
    std::vector<std::byte> then;  ///< what it held at the call
    std::size_t number;           ///< of the work of the device
  };
  static std::vector<PendingCopy>& pending() {
    static std::vector<PendingCopy> list;
    return list;
  }
  /// Numbers the work of the device.
  static std::size_t& work() {
    static std::size_t count = 0;
    return count;
  }
  static std::size_t& done() {
    static std::size_t count = 0;
    return count;
  }
  /// Waits until the device has done its work up to `number`.
  static void wait_for(std::size_t number) {
    if (number <= done()) return;
    ++waits();
    finish(number);
  }
  static void finish(std::size_t number) {
    done() = std::max(done(), number);
    std::erase_if(pending(), [](const PendingCopy& copy) {
      if (copy.number > done()) return false;
      if (std::memcmp(copy.pinned, copy.then.data(), copy.then.size()) != 0)
        throw std::logic_error("pinned memory was overwritten before the device had read it");
      return true;
    });
  }

  /// For dropbp::detail::StagingRing.
  struct Pinned {
    static void* allocate_pinned(std::size_t bytes) { return ::operator new(bytes); }
    static void release_pinned(void* memory) { ::operator delete(memory); }
    static void copy_pinned(void* to, const void* pinned, std::size_t bytes) {
      std::memcpy(to, pinned, bytes);
      const auto* const first = static_cast<const std::byte*>(pinned);
      pending().push_back({pinned, {first, first + bytes}, ++work()});
    }
    class Event {
     public:
      void wait() const { wait_for(number_); }

     private:
      std::size_t number_ = work();
    };
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
    static dropbp::detail::StagingRing<Emulated::Pinned> ring(1 << 20);
    if (bytes <= ring.limit()) return ring.copy(to, from, bytes);
    synchronize();
    std::memcpy(to, from, bytes);
  }
  static void copy_to_host(void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    require_no_capture("a copy to host memory");
    synchronize();
    std::memcpy(to, from, bytes);
  }
  static void copy(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  static void fill(void* memory, int byte, std::size_t bytes) { std::memset(memory, byte, bytes); }
  static void synchronize() {
    require_no_capture("waiting");
    ++Emulated::waits();
    Emulated::waited_in() = Emulated::place();
    Emulated::finish(Emulated::work());
  }

  class Moment {
   public:
    double seconds_since(const Moment& earlier) const {
      Emulated::wait_for(number_);
      return at_ - earlier.at_;
    }

   private:
    std::size_t number_ = ++Emulated::work();
    double at_ = dropbp::SteadyClock{}();
  };

  using Place = Emulated::Place;
  static Place place() { return Emulated::place(); }
  class PlaceScope {
   public:
    explicit PlaceScope(const Place& where) : before_(std::exchange(Emulated::place(), where)) {}
    ~PlaceScope() { Emulated::place() = before_; }
    PlaceScope(const PlaceScope&) = delete;
    PlaceScope& operator=(const PlaceScope&) = delete;

   private:
    Place before_;
  };
  /// Any stream of a caller is the emulator's one.
  class StreamScope {
   public:
    explicit StreamScope(CUstream_st*) {}
    ~StreamScope() {}
  };
  static void follow(const Place& other) {
    require_no_capture("waiting for another stream");
    Emulated::followed().emplace_back(place(), other);
  }
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

template <class T>
struct ops::kernels<ops::op::fp8_gemm, T, Emulated> {
  using Codes = MatrixView<const std::uint8_t, Emulated>;
  static bool available() { return Emulated::multiplies_fp8(); }
  static bool run(MatrixView<T, Emulated> y, Codes x, const float* x_scales, Codes w,
                  const float* w_scales, Accumulate mode) {
    if (!Emulated::multiplies_fp8()) return false;
    if (x.columns % 16 != 0 || x.columns != w.columns || x.stride % 16 != 0 || w.stride % 16 != 0)
      throw std::logic_error("rows of codes must be filled up to 16 bytes");
    const auto floats = [](const Codes& codes) {
      Matrix<float> result(codes.rows, codes.columns);
      for (Index i = 0; i < codes.rows; ++i)
        for (Index j = 0; j < codes.columns; ++j)
          result.row(i)[j] = to_float(E4m3{codes.row(i)[j]});
      return result;
    };
    const Matrix<float> fx = floats(x), fw = floats(w);
    Matrix<float> sums(y.rows, y.columns);
    kernels<op::gemm, float, Cpu>::run(GemmLayout::nt, sums.view(), fx.view(), fw.view(),
                                       Accumulate::overwrite);
    for (Index i = 0; i < y.rows; ++i)
      for (Index j = 0; j < y.columns; ++j) {
        const float scaled = sums.row(i)[j] * x_scales[i] * w_scales[j],
                    old = mode == Accumulate::add ? cuda::to_float(y.row(i)[j]) : 0.0f;
        y.row(i)[j] = cuda::from_float<T>(old + scaled);
      }
    return true;
  }
};

DROPBP_NAMESPACE_END
