# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# dropbp::dropbp: the core, which needs only the standard library. dropbp::ops: the transformer ops
# for the CPU, defined if Eigen is found. dropbp::mpi: data-parallel training, defined if MPI is
# found. dropbp::cuda: the requirements of .cu files (Cuda.cmake).
# They are INTERFACE targets and carry no flags but the language standard. dropbp::c is the compiled
# C interface (CInterface.cmake).

set(dropbp_include_dir ${PROJECT_SOURCE_DIR}/include)

file(GLOB_RECURSE dropbp_headers CONFIGURE_DEPENDS
  ${dropbp_include_dir}/dropbp/*.hpp ${dropbp_include_dir}/dropbp/*.cuh
  ${dropbp_include_dir}/dropbp/*.h)
set(dropbp_cuda_headers ${dropbp_headers})
list(FILTER dropbp_cuda_headers INCLUDE REGEX "\\.cuh$")
list(FILTER dropbp_headers EXCLUDE REGEX "\\.cuh$")
set(dropbp_ops_headers ${dropbp_headers})
set(dropbp_interop_headers ${dropbp_headers})
set(dropbp_core_headers ${dropbp_headers})
list(FILTER dropbp_ops_headers INCLUDE REGEX "/include/dropbp/(kernels|ops)/")
list(FILTER dropbp_interop_headers INCLUDE REGEX "/include/dropbp/interop/")
list(FILTER dropbp_core_headers EXCLUDE REGEX "/include/dropbp/(kernels|ops|interop)/")

function(dropbp_add_headers target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "HEADERS;INTEROP")
  if(CMAKE_VERSION VERSION_LESS 3.23)
    target_include_directories(${target} INTERFACE
      $<BUILD_INTERFACE:${dropbp_include_dir}> $<INSTALL_INTERFACE:include>)
    return()
  endif()
  target_sources(${target} INTERFACE
    FILE_SET HEADERS BASE_DIRS ${dropbp_include_dir} FILES ${arg_HEADERS})
  if(arg_INTEROP)
    target_sources(${target} INTERFACE
      FILE_SET interop TYPE HEADERS BASE_DIRS ${dropbp_include_dir} FILES ${arg_INTEROP})
  endif()
  # An interop header needs its library, so only the other headers are compiled alone.
  set_target_properties(${target} PROPERTIES INTERFACE_HEADER_SETS_TO_VERIFY HEADERS)
endfunction()

add_library(dropbp INTERFACE)
add_library(dropbp::dropbp ALIAS dropbp)
target_compile_features(dropbp INTERFACE cxx_std_20)
dropbp_add_headers(dropbp HEADERS ${dropbp_core_headers} INTEROP ${dropbp_interop_headers})

if(NOT TARGET Eigen3::Eigen)
  find_package(Eigen3 QUIET NO_MODULE)
endif()
# In a function, so that no variables of a project that contains this one change.
function(dropbp_find_threads)
  find_package(Threads REQUIRED)
endfunction()
dropbp_find_threads()
# Eigen 5 refuses a request for 3.4, hence the comparison by hand.
if(TARGET Eigen3::Eigen AND NOT Eigen3_VERSION VERSION_LESS 3.4)
  add_library(dropbp_ops INTERFACE)
  add_library(dropbp::ops ALIAS dropbp_ops)
  set_target_properties(dropbp_ops PROPERTIES EXPORT_NAME ops)
  target_link_libraries(dropbp_ops INTERFACE dropbp Eigen3::Eigen Threads::Threads)
  dropbp_add_headers(dropbp_ops HEADERS ${dropbp_ops_headers})
  if(DROPBP_USE_BLAS)
    find_package(BLAS REQUIRED)
    target_compile_definitions(dropbp_ops INTERFACE
      $<BUILD_INTERFACE:DROPBP_BLAS_PRODUCTS> $<BUILD_INTERFACE:EIGEN_USE_BLAS>)
    target_link_libraries(dropbp_ops INTERFACE "$<BUILD_INTERFACE:${BLAS_LIBRARIES}>")
  endif()
elseif(PROJECT_IS_TOP_LEVEL)
  message(STATUS
    "dropbp: Eigen 3.4 or newer not found (Debian: libeigen3-dev), so dropbp::ops is left out")
endif()

# dropbp::mpi: the core with MPI, for dropbp/interop/mpi.hpp; defined if MPI is found. A project
# that contains this one calls find_package(MPI) itself, because that caches many variables.
if(PROJECT_IS_TOP_LEVEL AND NOT TARGET MPI::MPI_CXX)
  find_package(MPI QUIET COMPONENTS CXX)
endif()
if(TARGET MPI::MPI_CXX)
  add_library(dropbp_mpi INTERFACE)
  add_library(dropbp::mpi ALIAS dropbp_mpi)
  set_target_properties(dropbp_mpi PROPERTIES EXPORT_NAME mpi)
  target_link_libraries(dropbp_mpi INTERFACE dropbp MPI::MPI_CXX Threads::Threads)
  # Without the C++ bindings, which MPI 3.0 removed.
  target_compile_definitions(dropbp_mpi INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
elseif(PROJECT_IS_TOP_LEVEL)
  message(STATUS "dropbp: MPI not found (Debian: libopenmpi-dev), so dropbp::mpi is left out")
endif()
