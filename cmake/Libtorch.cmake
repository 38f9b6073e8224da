# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# libtorch for the tests, examples and benchmarks of this project: the target dropbp_libtorch, or
# dropbp_no_libtorch with the reason why it is missing. A function keeps the variables of libtorch's
# CMake files local. Users of interop/libtorch.hpp need only dropbp::dropbp and find_package(Torch).

function(dropbp_find_libtorch)
  set(dropbp_no_libtorch "" PARENT_SCOPE)
  if(DROPBP_SANITIZE)
    set(dropbp_no_libtorch "its libraries are not built for sanitizers" PARENT_SCOPE)
    return()
  endif()
  find_package(Torch QUIET)
  if(NOT Torch_FOUND OR NOT TARGET torch)
    set(dropbp_no_libtorch "libtorch was not found (Debian: libtorch-dev)" PARENT_SCOPE)
    return()
  endif()
  # libtorch before 2.1 has vectors of an incomplete type, which clang++ rejects in C++20.
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT DEFINED dropbp_libtorch_compiles)
    set(source ${PROJECT_BINARY_DIR}/CMakeFiles/dropbp_libtorch.cpp)
    file(WRITE ${source} "#include <torch/types.h>\nint main() {}\n")
    try_compile(dropbp_libtorch_compiles ${PROJECT_BINARY_DIR}/CMakeFiles/dropbp_libtorch ${source}
      LINK_LIBRARIES ${TORCH_LIBRARIES} CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
  endif()
  if(DEFINED dropbp_libtorch_compiles AND NOT dropbp_libtorch_compiles)
    set(dropbp_no_libtorch
      "the headers of libtorch ${Torch_VERSION} do not compile with this compiler in C++20"
      PARENT_SCOPE)
    return()
  endif()
  add_library(dropbp_libtorch INTERFACE)
  target_link_libraries(dropbp_libtorch INTERFACE dropbp::dropbp ${TORCH_LIBRARIES})
endfunction()

dropbp_find_libtorch()
if(dropbp_no_libtorch)
  message(STATUS
    "dropbp: tests, example and benchmark of libtorch are left out: ${dropbp_no_libtorch}")
endif()
