// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Runs kernel bodies (dropbp/backend/cuda/context.hpp) on the host. Every thread of a block is a
// fiber, so barriers, shuffles and shared memory run as written, under sanitizers too. The schedule
// is adversarial: a random warp runs as far as it can before another one starts, and blocks run in
// random order. Shared memory starts as 0xFF bytes and has exactly the size of the launch. The
// emulator finds every block that touches memory that another block writes, in any order of the
// blocks. It does not show memory-model races within a block, speed, or the rounding of the
// hardware's matrix units.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <new>
#include <string>
#include <vector>

#include "dropbp/backend/cuda/context.hpp"
#if defined(DROPBP_TEST_PTX)
#include "cuda/ptx/launch.hpp"
#endif

namespace simt {

class Block;

/// The context of one emulated thread.
class HostContext {
 public:
  HostContext(Block& block, unsigned thread) : block_(&block), thread_(thread) {}

  unsigned thread() const { return thread_; }
  unsigned block(int axis = 0) const;
  unsigned blocks(int axis = 0) const;
  // The defaults give the source line of the call: all threads must wait at the same one.
  void sync(const char* file = __builtin_FILE(), int line = __builtin_LINE()) const;
  void sync_warp() const;
  std::byte* shared() const;

  template <class V>
  V shuffle_xor(V value, unsigned mask) const {
    return shuffle(value, thread_ % 32 ^ mask);
  }
  template <class V>
  V shuffle(V value, unsigned lane) const {
    static_assert(sizeof(V) == 4 || sizeof(V) == 8);
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = exchange(bits, lane % 32);
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  template <class T, unsigned N>
  dropbp::cuda::Pack<T, N> load(const T* p) const {
    note(p, N * sizeof(T), false);
    return read<T, N>(p, "a load");
  }
  template <class T, unsigned N>
  dropbp::cuda::Pack<T, N> load_streaming(const T* p) const {
    return load<T, N>(p);
  }
  template <class T, unsigned N>
  dropbp::cuda::Pack<T, N> load_shared(const T* p) const {
    return read<T, N>(p, "a load from shared memory");
  }
  template <class T, unsigned N>
  void store(T* p, dropbp::cuda::Pack<T, N> value) const {
    note(p, sizeof value, true);
    write(p, value, "a store");
  }
  template <class T, unsigned N>
  void store_shared(T* p, dropbp::cuda::Pack<T, N> value) const {
    write(p, value, "a store to shared memory");
  }

  // With errors as large as the hardware's may be (CUDA C++ Programming Guide, intrinsic
  // functions), in a direction that depends on the bits of the arguments.
  float fast_exp(float x) const;
  float fast_divide(float x, float y) const;
  float fast_exp2(float x) const;
  void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) const;
  void load_matrices(std::uint32_t (&d)[4], const void* row) const;
  void load_matrices_transposed(std::uint32_t (&d)[4], const void* row) const;
  void async_copy_16(void* shared, const void* global, bool present) const;
  void async_commit() const;
  template <int N>
  void async_wait() const {
    async_wait_for(N);
  }

 private:
  template <class T, unsigned N>
  dropbp::cuda::Pack<T, N> read(const T* p, const char* what) const {
    static_assert(sizeof(dropbp::cuda::Pack<T, N>) <= 16, "one access is of 16 bytes at most");
    dropbp::cuda::Pack<T, N> value;
    require_aligned(p, sizeof value, what);
    std::memcpy(&value, static_cast<const void*>(p), sizeof value);
    return value;
  }
  template <class T, unsigned N>
  void write(T* p, dropbp::cuda::Pack<T, N> value, const char* what) const {
    static_assert(sizeof value <= 16, "one access is of 16 bytes at most");
    require_aligned(p, sizeof value, what);
    std::memcpy(static_cast<void*>(p), &value, sizeof value);
  }
  void require_aligned(const void* p, std::size_t bytes, const char* what) const;
  void note(const void* p, std::size_t bytes, bool written) const;
  std::uint64_t exchange(std::uint64_t bits, unsigned lane) const;
  void load_matrices(std::uint32_t (&d)[4], const void* row, bool transposed) const;
  void async_wait_for(unsigned groups) const;

  Block* block_;
  unsigned thread_;
};

/// Runs all blocks. Throws std::runtime_error that names the kernel if threads wait for each other
/// forever or at different barriers, if lanes of a warp execute different operations, if a vector
/// access is not aligned, or if a block touches memory that another one writes (through load,
/// load_streaming or store).
void run(const char* name, dropbp::cuda::Grid grid, unsigned threads, std::uint64_t seed,
         const std::function<void(HostContext)>& body);

/// Counts how often this program ran each kernel. If the environment variable DROPBP_EMULATED names
/// a file, the program appends the kernels' names to it at its end, one a line. `sort -u FILE | wc
/// -l` then counts the emulated kernels over all programs.
std::map<std::string, std::size_t>& kernels_run();

/// The argument of host launcher functions: runs kernels at once, with a schedule drawn from a
/// seed. With DROPBP_TEST_PTX it runs their PTX instead of their bodies (cuda/ptx/launch.hpp).
class Launcher {
 public:
  explicit Launcher(std::uint64_t seed = 1) : seed_(seed) {}

  unsigned processors() const { return 2; }

  template <class Body, class... Args>
  void operator()(dropbp::cuda::Grid grid, Body body, Args... args) {
    static_assert(Body::threads % 32 == 0 && Body::threads <= 1024);
#if defined(DROPBP_TEST_PTX)
    ++kernels_run()[Body::name];
    ptx::run(grid, seed_++, body, args...);
#else
    run(Body::name, grid, Body::threads, seed_++,
        [&](HostContext context) { body(context, args...); });
#endif
  }

 private:
  std::uint64_t seed_;
};

/// Device memory for a kernel. It is exactly as large as requested, so that AddressSanitizer sees
/// an access past its end. It starts as 0xFF bytes, which are NaN in every floating-point type.
template <class T>
class Buffer {
 public:
  /// The first element lies `shift` elements past an address aligned to 256 bytes.
  explicit Buffer(std::size_t count, std::size_t shift = 0)
      : memory_(
            static_cast<T*>(::operator new((count + shift) * sizeof(T), std::align_val_t{256}))),
        shift_(shift),
        count_(count) {
    std::memset(static_cast<void*>(memory_), 0xFF, (count + shift) * sizeof(T));
  }
  /// Starts with a copy of `host`.
  explicit Buffer(const std::vector<T>& host, std::size_t shift = 0) : Buffer(host.size(), shift) {
    if (count_ > 0) std::memcpy(static_cast<void*>(data()), host.data(), count_ * sizeof(T));
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ::operator delete(memory_, std::align_val_t{256}); }

  T* data() { return memory_ + shift_; }
  const T* data() const { return memory_ + shift_; }
  std::size_t size() const { return count_; }
  std::vector<T> host() const { return {data(), data() + count_}; }

 private:
  T* memory_;
  std::size_t shift_, count_;
};

}  // namespace simt
