// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Interprets the PTX that nvcc made of the library's kernels: what the emulator of kernel bodies
// (support/simt.hpp) cannot show, which is inline assembly, branches on __CUDA_ARCH__, and what the
// compiler made of all the rest. Where DROPBP_TEST_PTX is defined, simt::Launcher runs kernels
// here, so the emulator's tests test the PTX.
//
// Warps run in random order, each as far as it can. Errors: an access outside the allocations of
// operator new, outside of shared memory or not aligned; a read of shared memory where nothing was
// written, or where an asynchronous copy writes that was not waited for; two threads that touch the
// same memory with no barrier in between, one of them writing; rows of a matrix for ldmatrix in the
// same banks; threads at different barriers; lanes that miss an operation of their warp; a division
// by 0; an operation that the interpreter does not have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <typeinfo>
#include <vector>

#include "dropbp/backend/cuda/context.hpp"

DROPBP_NAMESPACE_BEGIN
namespace cuda {

// Has the name of launch.cuh's kernel, whose mangled name entry_of derives from it.
template <class Body, class... Args>
struct run_body;

}  // namespace cuda
DROPBP_NAMESPACE_END

namespace ptx {

struct Kernel;

/// The name that nvcc gives the kernel of a body.
template <class Body, class... Args>
std::string entry_of() {
  return std::string("_Z") + (typeid(dropbp::cuda::run_body<Body, Args...>*).name() + 1) +  // no P
         "vT_DpT0_";
}

/// The bytes of a kernel's argument.
struct Argument {
  const void* data;
  std::size_t bytes;
};

/// Runs a kernel. Throws std::runtime_error that names the block and the line.
void run(const Kernel& kernel, dropbp::cuda::Grid grid, unsigned threads, std::uint64_t seed,
         const std::vector<Argument>& arguments);

/// Runs a kernel by its mangled name. The environment variable DROPBP_PTX names the files with the
/// kernels, separated by colons. At its end the program prints which of them were not run.
void run(const std::string& entry, dropbp::cuda::Grid grid, unsigned threads, std::uint64_t seed,
         const std::vector<Argument>& arguments);

template <class Body, class... Args>
void run(dropbp::cuda::Grid grid, std::uint64_t seed, const Body& body, const Args&... args) {
  run(entry_of<Body, Args...>(), grid, Body::threads, seed,
      {{&body, sizeof body}, {&args, sizeof args}...});
}

/// While an object of this class exists, kernels run as `edit` changes their text.
class Edited {
 public:
  explicit Edited(std::function<std::string(std::string)> edit);
  ~Edited();
  Edited(const Edited&) = delete;
  Edited& operator=(const Edited&) = delete;
};

}  // namespace ptx
