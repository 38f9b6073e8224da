# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# dropbp_cuda: the requirements of a program's .cu file. With DROPBP_ENABLE_CUDA, this project's
# CUDA code is built with it. An installed package finds the consumer's toolkit. Include this file
# after Targets.cmake.

add_library(dropbp_cuda INTERFACE)
set_target_properties(dropbp_cuda PROPERTIES EXPORT_NAME cuda VERIFY_INTERFACE_HEADER_SETS OFF)
target_link_libraries(dropbp_cuda INTERFACE dropbp CUDA::cudart_static CUDA::cublasLt)
dropbp_add_headers(dropbp_cuda HEADERS ${dropbp_cuda_headers})

# A project that contains this one must find the toolkit itself: find_package here would set
# variables there, but create no target.
if(NOT PROJECT_IS_TOP_LEVEL)
  add_library(dropbp::cuda ALIAS dropbp_cuda)
  return()
endif()
if(NOT DROPBP_ENABLE_CUDA)
  return()
endif()
find_package(CUDAToolkit QUIET)
if(DROPBP_ENABLE_CUDA STREQUAL "AUTO" AND NOT CUDAToolkit_NVCC_EXECUTABLE)
  message(STATUS "dropbp: there is no nvcc, so its own CUDA code is left out")
  set(DROPBP_ENABLE_CUDA OFF)
  return()
endif()
if(NOT CUDAToolkit_FOUND)
  message(FATAL_ERROR
    "DROPBP_ENABLE_CUDA needs NVIDIA's CUDA Toolkit, and it was found neither by nvcc on PATH nor "
    "in /usr/local/cuda. Install it, set "
    "CUDAToolkit_ROOT, or configure with -DDROPBP_ENABLE_CUDA=OFF.")
endif()
add_library(dropbp::cuda ALIAS dropbp_cuda)

if(NOT CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
endif()
# Programs are built for the GPU of this machine, or for Hopper if there is none.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  execute_process(COMMAND ${CUDAToolkit_BIN_DIR}/__nvcc_device_query
    OUTPUT_VARIABLE dropbp_card RESULT_VARIABLE dropbp_status ERROR_QUIET)
  if(NOT dropbp_status EQUAL 0 OR NOT dropbp_card MATCHES "^([0-9]+)")
    set(dropbp_card 90)
  endif()
  string(REGEX REPLACE "^([0-9]+).*" "\\1" dropbp_card "${dropbp_card}")
  set(CMAKE_CUDA_ARCHITECTURES ${dropbp_card}
    CACHE STRING "Compute capabilities that programs are compiled for")
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
# nvcc 12 and newer support it, but CMake before 3.26 does not know that.
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()

# dropbp_cudnn: the requirements of a .cu file for attention with cuDNN. Defined if cuDNN is found
# and new enough (cudnn_descriptor.cuh).
set(dropbp_no_cudnn "DROPBP_CUDNN is OFF")
if(DROPBP_CUDNN)
  find_path(DROPBP_CUDNN_INCLUDE_DIR cudnn_version.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  # libcudnn.so.9 is the name in Python's packages. CMake 4 may have found the runtime elsewhere, so
  # that CUDAToolkit_LIBRARY_DIR is not the toolkit's own folder.
  find_library(DROPBP_CUDNN_LIBRARY NAMES cudnn libcudnn.so.9
    HINTS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_TARGET_DIR} PATH_SUFFIXES lib64 lib)
  mark_as_advanced(DROPBP_CUDNN_INCLUDE_DIR DROPBP_CUDNN_LIBRARY)
  set(dropbp_no_cudnn "cuDNN was not found")
  if(DROPBP_CUDNN_INCLUDE_DIR AND DROPBP_CUDNN_LIBRARY)
    file(STRINGS ${DROPBP_CUDNN_INCLUDE_DIR}/cudnn_version.h dropbp_cudnn_version
      REGEX "define CUDNN_(MAJOR|MINOR) ")
    string(REGEX REPLACE "[^0-9;]" "" dropbp_cudnn_version "${dropbp_cudnn_version}")
    list(JOIN dropbp_cudnn_version "." dropbp_cudnn_version)
    if(dropbp_cudnn_version VERSION_LESS 9.18)
      set(dropbp_no_cudnn "cuDNN is ${dropbp_cudnn_version}, but 9.18 or newer is needed")
    else()
      add_library(dropbp_cudnn INTERFACE)
      target_compile_definitions(dropbp_cudnn INTERFACE DROPBP_CUDNN)
      if(NOT DROPBP_CUDNN_INCLUDE_DIR STREQUAL "/usr/include")
        target_include_directories(dropbp_cudnn SYSTEM INTERFACE ${DROPBP_CUDNN_INCLUDE_DIR})
      endif()
      target_link_libraries(dropbp_cudnn INTERFACE ${DROPBP_CUDNN_LIBRARY})
    endif()
  endif()
  if(NOT TARGET dropbp_cudnn AND NOT DROPBP_CUDNN STREQUAL "AUTO")
    message(FATAL_ERROR
      "DROPBP_CUDNN is ${DROPBP_CUDNN}, but ${dropbp_no_cudnn}. Install it beside the CUDA "
      "Toolkit, set "
      "DROPBP_CUDNN_INCLUDE_DIR and DROPBP_CUDNN_LIBRARY, or configure with -DDROPBP_CUDNN=OFF.")
  endif()
endif()

# dropbp_cuda_kernels: the backend, compiled once for all programs of this project, with one .cu
# file per scalar.
set(dropbp_cuda_sources ${PROJECT_SOURCE_DIR}/examples/cuda/kernels.cu)  # BFloat16
foreach(scalar IN ITEMS float dropbp::Half)
  string(MAKE_C_IDENTIFIER ${scalar} name)
  set(source ${PROJECT_BINARY_DIR}/cuda/${name}.cu)
  file(CONFIGURE OUTPUT ${source}
    CONTENT "#include <dropbp/dropbp.cuh>\nDROPBP_INSTANTIATE_CUDA(${scalar})\n")
  list(APPEND dropbp_cuda_sources ${source})
endforeach()
add_library(dropbp_cuda_kernels STATIC EXCLUDE_FROM_ALL ${dropbp_cuda_sources})
target_link_libraries(dropbp_cuda_kernels PUBLIC dropbp::cuda)
if(TARGET dropbp_cudnn)
  target_link_libraries(dropbp_cuda_kernels PRIVATE dropbp_cudnn)
endif()
