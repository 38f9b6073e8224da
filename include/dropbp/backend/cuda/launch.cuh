// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Runs kernel bodies on a CUDA device: the context of a body, and the launcher, which checks every
// launch.
#if !defined(__CUDACC__)
#error "dropbp: launch.cuh is for .cu files; other files include dropbp/backend/cuda/device.hpp"
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "dropbp: CUDA needs compute capability 8.0 or newer: CMAKE_CUDA_ARCHITECTURES or -arch >= 80"
#endif
#pragma once

// Suppresses "will not be called" for conversions that add const to a type that is const already.
// nvcc does not see that a constraint excludes them.
#pragma nv_diag_suppress 554

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "dropbp/backend/cuda/context.hpp"
#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

// What to do about a CUDA error.
inline const char* remedy(cudaError_t error) {
  switch (error) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return "build for this card: set CMAKE_CUDA_ARCHITECTURES (nvcc: -arch) to its compute "
             "capability";
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
      return "run where a CUDA card and its driver are, or use the CPU";
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidValue:
    case cudaErrorLaunchOutOfResources:
      return "check the shapes: a grid takes 2^31 - 1 x 65535 x 65535 blocks, and a block has no "
             "more shared memory than the card";
    case cudaErrorMemoryAllocation:
      return "lower --batch or --sequence, raise the drop rate or set a smaller "
             "--activation-budget";
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
      return "move what waits or allocates out of the captured part";
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
      return "an earlier kernel failed; run the program under compute-sanitizer to see which, and "
             "start it anew";
    default:
      return "see CUDA's message; a process that got such an error may have to be started anew";
  }
}

/// Throws std::runtime_error unless `error` is cudaSuccess. `required` names the requirement.
inline void require_success(cudaError_t error, const std::string& required) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears the error, which the next call would report again
  throw std::runtime_error(dropbp::detail::sentence(
      required,
      std::string("CUDA says '") + cudaGetErrorString(error) + "' (" + cudaGetErrorName(error) +
          ", " + std::to_string(static_cast<int>(error)) + ")",
      remedy(error)));
}
inline void require_success(cudaError_t error, const char* required) {
  if (error != cudaSuccess) require_success(error, std::string(required));
}

inline int current_device() {
  int device = 0;
  require_success(cudaGetDevice(&device), "the current device must be known");
  return device;
}

// One number for each device. Devices with higher indices are queried in every call.
inline constexpr int remembered_devices = 64;
struct PerDevice {
  std::atomic<std::size_t> values[remembered_devices] = {};
};

}  // namespace detail

/// The context of a kernel body on a GPU; see context.hpp.
struct DeviceContext {
  /// threadIdx.x.
  __device__ __forceinline__ unsigned thread() const { return threadIdx.x; }
  /// blockIdx.
  __device__ __forceinline__ unsigned block(int axis = 0) const {
    return axis == 0 ? blockIdx.x : axis == 1 ? blockIdx.y : blockIdx.z;
  }
  /// gridDim.
  __device__ __forceinline__ unsigned blocks(int axis = 0) const {
    return axis == 0 ? gridDim.x : axis == 1 ? gridDim.y : gridDim.z;
  }
  /// __syncthreads.
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  /// __syncwarp.
  __device__ __forceinline__ void sync_warp() const { __syncwarp(); }

  /// The value of the lane whose number is this lane's number xor `mask`.
  template <class V>
  __device__ __forceinline__ V shuffle_xor(V value, unsigned mask) const {
    return through_bits(value, [mask](auto bits) {
      return __shfl_xor_sync(0xFFFFFFFFu, bits, static_cast<int>(mask));
    });
  }
  /// The value of lane `lane`.
  template <class V>
  __device__ __forceinline__ V shuffle(V value, unsigned lane) const {
    return through_bits(value, [lane](auto bits) {
      return __shfl_sync(0xFFFFFFFFu, bits, static_cast<int>(lane));
    });
  }

  /// Dynamic shared memory.
  __device__ __forceinline__ std::byte* shared() const {
    extern __shared__ __align__(128) std::byte dropbp_shared_memory[];
    return dropbp_shared_memory;
  }

  // For a pointer that was itself loaded, the compiler does not know the kind of memory: without
  // the assumptions it would use the slower generic accesses. Accesses go through words, because
  // the compiler splits accesses to small elements. Stores use assembly, because it splits even
  // some stores of words; the intrinsic __stwb would be a strong store (STG.STRONG.SM).
  /// Loads N elements of global memory in one access.
  template <class T, unsigned N>
  __device__ __forceinline__ Pack<std::remove_const_t<T>, N> load(const T* p) const {
    __builtin_assume(__isGlobal(p));
    return unpacked<T, N>(*reinterpret_cast<const word_of<T, N>*>(p));
  }
  /// Loads N elements of global memory that are read only once.
  template <class T, unsigned N>
  __device__ __forceinline__ Pack<std::remove_const_t<T>, N> load_streaming(const T* p) const {
    return unpacked<T, N>(__ldcs(reinterpret_cast<const word_of<T, N>*>(p)));
  }
  /// Stores N elements to global memory in one access.
  template <class T, unsigned N>
  __device__ __forceinline__ void store(T* p, Pack<T, N> value) const {
    store_word(__cvta_generic_to_global(p), packed(value));
  }
  /// Loads N elements of shared memory in one access.
  template <class T, unsigned N>
  __device__ __forceinline__ Pack<std::remove_const_t<T>, N> load_shared(const T* p) const {
    __builtin_assume(__isShared(p));
    return unpacked<T, N>(*reinterpret_cast<const word_of<T, N>*>(p));
  }
  /// Stores N elements to shared memory in one access.
  template <class T, unsigned N>
  __device__ __forceinline__ void store_shared(T* p, Pack<T, N> value) const {
    __builtin_assume(__isShared(p));
    *reinterpret_cast<word_of<T, N>*>(p) = packed(value);
  }

  /// exp(x) with an error of 2 + floor(1.173 |x|) units in the last place (CUDA C++ Programming
  /// Guide, intrinsic functions).
  __device__ __forceinline__ float fast_exp(float x) const { return __expf(x); }
  /// x / y with an error of 2 units in the last place for 2^-126 <= |y| <= 2^126; above, 0.
  __device__ __forceinline__ float fast_divide(float x, float y) const { return __fdividef(x, y); }

  /// 2^x with an error of 2 units in the last place; 0 below the normal numbers.
  __device__ __forceinline__ float fast_exp2(float x) const {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
  }

  /// mma.m16n8k16, d += a b.
  __device__ __forceinline__ void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4],
                                           const std::uint32_t (&b)[2]) const {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }

  /// ldmatrix.x4: lane 8 i + j gives the address of row j of matrix i.
  __device__ __forceinline__ void load_matrices(std::uint32_t (&d)[4], const void* row) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
  }
  /// The same with each matrix transposed.
  __device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&d)[4],
                                                           const void* row) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
  }

  /// cp.async of 16 bytes; of zeros, without a read, if not `present`.
  __device__ __forceinline__ void async_copy_16(void* shared, const void* global,
                                                bool present) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))),
                   "l"(__cvta_generic_to_global(global)), "r"(present ? 16u : 0u)
                 : "memory");
  }
  /// cp.async.commit_group.
  __device__ __forceinline__ void async_commit() const {
    asm volatile("cp.async.commit_group;" : : : "memory");
  }
  /// Waits until at most N groups of copies are incomplete.
  template <int N>
  __device__ __forceinline__ void async_wait() const {
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
  }

 private:
  // The word of one access: 1, 2, 4, 8 or 16 bytes.
  template <std::size_t Bytes>
  static __device__ __forceinline__ auto word() {
    static_assert(Bytes == 1 || Bytes == 2 || Bytes == 4 || Bytes == 8 || Bytes == 16,
                  "dropbp: one access is of 1, 2, 4, 8 or 16 bytes");
    if constexpr (Bytes == 16)
      return uint4{};
    else if constexpr (Bytes == 8)
      return uint2{};
    else if constexpr (Bytes == 4)
      return 0u;
    else if constexpr (Bytes == 2)
      return static_cast<unsigned short>(0);
    else
      return static_cast<unsigned char>(0);
  }
  template <class T, unsigned N>
  using word_of = decltype(word<sizeof(Pack<std::remove_const_t<T>, N>)>());

  template <class T, unsigned N>
  static __device__ __forceinline__ Pack<std::remove_const_t<T>, N> unpacked(word_of<T, N> bits) {
    Pack<std::remove_const_t<T>, N> value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  template <class T, unsigned N>
  static __device__ __forceinline__ word_of<T, N> packed(const Pack<T, N>& value) {
    word_of<T, N> bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
  }

  static __device__ __forceinline__ void store_word(std::size_t to, uint4 word) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(to), "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
                 : "memory");
  }
  static __device__ __forceinline__ void store_word(std::size_t to, uint2 word) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};"
                 :
                 : "l"(to), "r"(word.x), "r"(word.y)
                 : "memory");
  }
  static __device__ __forceinline__ void store_word(std::size_t to, unsigned word) {
    asm volatile("st.global.u32 [%0], %1;" : : "l"(to), "r"(word) : "memory");
  }
  static __device__ __forceinline__ void store_word(std::size_t to, unsigned short word) {
    asm volatile("st.global.u16 [%0], %1;" : : "l"(to), "h"(word) : "memory");
  }
  static __device__ __forceinline__ void store_word(std::size_t to, unsigned char word) {
    asm volatile("st.global.u8 [%0], %1;" : : "l"(to), "r"(unsigned{word}) : "memory");
  }

  template <class V, class Exchange>
  static __device__ __forceinline__ V through_bits(V value, Exchange exchange) {
    static_assert(sizeof(V) == 4 || sizeof(V) == 8, "dropbp: lanes exchange 4 or 8 bytes");
    std::conditional_t<sizeof(V) == 4, unsigned, unsigned long long> bits;
    memcpy(&bits, &value, sizeof bits);
    bits = exchange(bits);
    memcpy(&value, &bits, sizeof bits);
    return value;
  }
};

/// The only kernel of the library, which runs a body. Its visibility is hidden, so that two
/// libraries in one process keep their own instances.
template <class Body, class... Args>
__attribute__((visibility("hidden"))) __global__ void __launch_bounds__(Body::threads,
                                                                        Body::min_blocks)
    run_body(Body body, Args... args) {
  body(DeviceContext{}, args...);
}

/// Launches bodies into a CUDA stream, which may be captured into a graph. Never waits. Throws
/// std::runtime_error if CUDA rejects a launch.
struct CudaLauncher {
  cudaStream_t stream = nullptr;  ///< null: CUDA's default stream

  /// Runs `body` on grid.x x grid.y x grid.z blocks of Body::threads threads. Arguments are passed
  /// by value.
  template <class Body, class... Args>
  void operator()(Grid grid, Body body, Args... args) {
    static_assert((std::is_trivially_copyable_v<Args> && ...),
                  "dropbp: a kernel's arguments are trivially copyable");
    if (grid.shared_bytes > default_shared_bytes) allow_shared_bytes<Body, Args...>(grid);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(grid.x, grid.y, grid.z);
    config.blockDim = dim3(Body::threads, 1, 1);
    config.dynamicSmemBytes = grid.shared_bytes;
    config.stream = stream;
    const cudaError_t error = cudaLaunchKernelEx(&config, run_body<Body, Args...>, body, args...);
    if (error != cudaSuccess)
      detail::require_success(error, "the kernel " + text<Body>(grid) + " must start");
  }

  /// Number of streaming multiprocessors of the current device.
  unsigned processors() const {
    static detail::PerDevice known;
    const int device = detail::current_device();
    const bool remembered = device < detail::remembered_devices;
    std::size_t count = remembered ? known.values[device].load(std::memory_order_relaxed) : 0;
    if (count == 0) {
      int value = 0;
      detail::require_success(
          cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device),
          "the device's number of multiprocessors must be known");
      count = static_cast<std::size_t>(value);
      if (remembered) known.values[device].store(count, std::memory_order_relaxed);
    }
    return static_cast<unsigned>(count);
  }

 private:
  // A kernel that needs more must request it, once per kernel and device.
  static constexpr std::size_t default_shared_bytes = 48 * 1024;

  template <class Body>
  static std::string text(Grid grid) {
    return std::string(Body::name) + " (grid " + std::to_string(grid.x) + " x " +
           std::to_string(grid.y) + " x " + std::to_string(grid.z) + ", " +
           std::to_string(Body::threads) + " threads, " + std::to_string(grid.shared_bytes) +
           " bytes of shared memory)";
  }

  template <class Body, class... Args>
  static void allow_shared_bytes(Grid grid) {
    static detail::PerDevice allowed;
    const int device = detail::current_device();
    const bool remembered = device < detail::remembered_devices;
    if (remembered && allowed.values[device].load(std::memory_order_relaxed) >= grid.shared_bytes)
      return;
    const cudaError_t error =
        cudaFuncSetAttribute(run_body<Body, Args...>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(grid.shared_bytes));
    if (error != cudaSuccess)
      detail::require_success(
          error, "the kernel " + text<Body>(grid) + " must be given its shared memory");
    if (remembered) allowed.values[device].store(grid.shared_bytes, std::memory_order_relaxed);
  }
};

}  // namespace cuda
DROPBP_NAMESPACE_END
