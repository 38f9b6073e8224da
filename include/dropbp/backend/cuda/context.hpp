// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The interface of CUDA kernels. A kernel body is a functor
//   struct Body {
//     static constexpr const char* name = ...;     for error messages
//     static constexpr unsigned threads = ...;     per block; blocks are one-dimensional
//     static constexpr unsigned min_blocks = ...;  resident blocks per multiprocessor, at least;
//                                                  for __launch_bounds__
//     template <class Context>
//     DROPBP_DEVICE void operator()(Context ctx, Args... args) const;
//   };
// in a plain header that any compiler accepts. On a GPU the context is DeviceContext (launch.cuh).
// In the tests a host emulator runs each thread as a fiber, so that sanitizers also check barriers,
// shuffles and shared memory. A context has
//   unsigned thread(), block(axis = 0), blocks(axis = 0)
//       threadIdx.x, blockIdx and gridDim
//   void sync(), sync_warp()
//   V shuffle_xor(V value, unsigned mask), shuffle(V value, unsigned lane)
//       all 32 lanes take part; V has 4 or 8 bytes
//   std::byte* shared()
//       dynamic shared memory, aligned to 16 bytes
//   Pack<T, N> load<T, N>(const T*), load_streaming<T, N>
//       one access to global memory, aligned to N * sizeof(T) <= 16 bytes; a thread may load
//       what it has stored itself
//   void store(T*, Pack<T, N>)
//   Pack<T, N> load_shared<T, N>(const T*), store_shared
//       the same accesses to shared memory
//   float fast_exp(float x), fast_divide(float x, float y)
//       __expf and __fdividef: for results that are rounded to 16 bits
//   float fast_exp2(float x)
//       ex2.approx.ftz: numbers below the normal ones are 0
//   void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2])
//       mma.m16n8k16, d += a b
//   void load_matrices(std::uint32_t (&d)[4], const void* row), load_matrices_transposed
//       ldmatrix: four 8 x 8 matrices of 16-bit elements from shared memory; lane 8 i + j gives row
//       j of matrix i, which has 16 aligned bytes; d[i] is two elements of matrix i
//   void async_copy_16(void* shared, const void* global, bool present), async_commit(),
//   async_wait<N>()
//       cp.async; copies zeros, and reads nothing, if not `present`
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "dropbp/backend/cuda/scalar.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

/// Sizes and positions.
using Index = std::ptrdiff_t;

/// The number of blocks in a launch, and the dynamic shared memory of each block.
struct Grid {
  unsigned x = 1;                ///< blocks along the first axis
  unsigned y = 1;                ///< blocks along the second axis
  unsigned z = 1;                ///< blocks along the third axis
  std::size_t shared_bytes = 0;  ///< dynamic shared memory per block
};

/// Rows of a matrix; neighbouring rows begin `stride` elements apart.
template <class T>
struct Rows {
  T* data;       ///< first element
  Index stride;  ///< elements from the start of a row to the start of the next

  /// The same rows, read-only.
  template <class U>
    requires(std::is_same_v<U, const T> && !std::is_const_v<T>)
  DROPBP_HOST_DEVICE operator Rows<U>() const {  // NOLINT: adds const, as a pointer does
    return {data, stride};
  }

  DROPBP_HOST_DEVICE T* row(Index i) const { return data + i * stride; }  ///< start of row i
};

/// Elements that one access reads or writes.
template <class T, unsigned N>
struct alignas(N * sizeof(T)) Pack {
  T values[N];  ///< in the order of memory
};

/// Number of elements in 16 bytes.
template <class T>
inline constexpr unsigned full_width = 16 / sizeof(T);

/// Whether 16-byte accesses can read `rows` rows of `columns` elements.
template <class T>
bool is_vectorizable(Rows<T> x, Index rows, Index columns) {
  constexpr Index width = full_width<T>;
  return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 &&
         (rows == 1 || x.stride % width == 0) && columns % width == 0;
}
/// Whether 16-byte accesses can read any number of rows of `columns` elements.
template <class T>
bool is_vectorizable(Rows<T> x, Index columns) {
  return is_vectorizable(x, 2, columns);
}
/// Whether 16-byte accesses can read contiguous elements from x on.
template <class T>
bool is_vectorizable(const T* x) {
  return reinterpret_cast<std::uintptr_t>(x) % 16 == 0;
}

/// count / by, rounded up.
DROPBP_HOST_DEVICE Index divide_up(Index count, Index by) { return (count + by - 1) / by; }

namespace detail {

template <class Context, class V>
DROPBP_DEVICE V warp_sum(Context ctx, V value) {
  DROPBP_UNROLL
  for (unsigned mask = 16; mask > 0; mask /= 2) value += ctx.shuffle_xor(value, mask);
  return value;
}

template <class Context, class V>
DROPBP_DEVICE V warp_max(Context ctx, V value) {
  DROPBP_UNROLL
  for (unsigned mask = 16; mask > 0; mask /= 2) {
    const V other = ctx.shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

// The sum of `value` over all threads of the block, returned to all threads. `scratch` holds one V
// per warp in shared memory, and may be reused after the next barrier.
template <unsigned threads, class Context, class V>
DROPBP_DEVICE V block_sum(Context ctx, V value, V* scratch) {
  constexpr unsigned warps = threads / 32;
  value = warp_sum(ctx, value);
  if (ctx.thread() % 32 == 0) scratch[ctx.thread() / 32] = value;
  ctx.sync();
  V total{};
  DROPBP_UNROLL
  for (unsigned i = 0; i < warps; ++i) total += scratch[i];
  ctx.sync();
  return total;
}

template <unsigned threads, class Context, class V>
DROPBP_DEVICE V block_max(Context ctx, V value, V* scratch) {
  constexpr unsigned warps = threads / 32;
  value = warp_max(ctx, value);
  if (ctx.thread() % 32 == 0) scratch[ctx.thread() / 32] = value;
  ctx.sync();
  V largest = scratch[0];
  DROPBP_UNROLL
  for (unsigned i = 1; i < warps; ++i) largest = scratch[i] > largest ? scratch[i] : largest;
  ctx.sync();
  return largest;
}

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
