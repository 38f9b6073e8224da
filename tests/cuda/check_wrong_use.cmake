# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# A .cuh file that a .cpp file includes names the header to include instead, under nvcc too. A
# program without the line in a .cu file fails to link, and the error names what that line compiles.
# COMPILER, NVCC, INCLUDE_DIR and WORK_DIR come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

file(MAKE_DIRECTORY ${WORK_DIR})
file(GLOB_RECURSE headers RELATIVE ${INCLUDE_DIR} ${INCLUDE_DIR}/dropbp/*.cuh)
if(NOT headers)
  fail("there is no .cuh file in ${INCLUDE_DIR}")
endif()
foreach(header IN LISTS headers)
  file(WRITE ${WORK_DIR}/wrong.cpp "#include \"${header}\"\n")
  foreach(compiler IN ITEMS ${COMPILER} "${NVCC} -Xcompiler=-fmax-errors=1")
    separate_arguments(command UNIX_COMMAND "${compiler}")
    execute_process(COMMAND ${command} -std=c++20 -I ${INCLUDE_DIR} -c ${WORK_DIR}/wrong.cpp
      -o ${WORK_DIR}/wrong.o
      RESULT_VARIABLE status ERROR_VARIABLE messages OUTPUT_VARIABLE messages)
    string(REGEX MATCH "error[^\n]*" first "${messages}")
    if(status EQUAL 0
      OR NOT first MATCHES
      "dropbp: [a-z_]+.cuh is for .cu files; other files include dropbp/[a-z/]+.hpp")
      fail("${header} in a .cpp file: ${compiler} does not first say what to include, but: "
        "${messages}")
    endif()
  endforeach()
endforeach()

file(WRITE ${WORK_DIR}/main.cpp
  "#include \"dropbp/backend/cuda/device.hpp\"\n#include \"dropbp/backend/cuda/products.hpp\"\n"
  "int main() {\n"
  "  dropbp::device_products<dropbp::Cuda, float>::product(dropbp::ProductLayout::ab, 0, 0, 0,"
  " nullptr, 0, nullptr, 0, nullptr, 0, false);\n"
  "  return dropbp::device_runtime<dropbp::Cuda>::allocate(1) == nullptr;\n}\n")
execute_process(COMMAND ${COMPILER} -std=c++20 -I ${INCLUDE_DIR} ${WORK_DIR}/main.cpp
  -o ${WORK_DIR}/main
  RESULT_VARIABLE status ERROR_VARIABLE messages)
set(undefined "undefined reference to `dropbp::[a-z0-9_]+::")
set(products "device_products<dropbp::[a-z0-9_]+::Cuda, float>::product")
if(status EQUAL 0 OR NOT messages MATCHES "${undefined}cuda::Runtime<void>::allocate"
  OR NOT messages MATCHES "${undefined}${products}")
  fail("a program without DROPBP_INSTANTIATE_CUDA must fail to link and name what it lacks: "
    "${messages}")
endif()

file(WRITE ${WORK_DIR}/other.cpp
  "#include \"dropbp/backend/cuda/products.hpp\"\nstruct Other {};\n"
  "int main() { dropbp::device_products<Other, float>::product(); }\n")
execute_process(COMMAND ${COMPILER} -std=c++20 -I ${INCLUDE_DIR} -fsyntax-only ${WORK_DIR}/other.cpp
  RESULT_VARIABLE status ERROR_VARIABLE messages)
if(status EQUAL 0
  OR NOT messages MATCHES
  "there are no products for this .backend, scalar.. For dropbp::Cuda include")
  fail("products of an unknown backend must say what to include: ${messages}")
endif()
set(other_type "DROPBP_INSTANTIATE_CUDA takes float, dropbp::BFloat16 or dropbp::Half")
foreach(case IN ITEMS
    "-std=c++20 -arch=sm_90|DROPBP_INSTANTIATE_CUDA(double)|${other_type}"
    "-std=c++17 -arch=sm_90||C[+][+]20 is needed"
    "-std=c++20 -arch=sm_75||needs compute capability 8.0 or newer")
  string(REPLACE "|" ";" case "${case}")
  list(GET case 0 flags)
  list(GET case 1 code)
  list(GET case 2 wanted)
  separate_arguments(flags UNIX_COMMAND "${flags}")
  file(WRITE ${WORK_DIR}/case.cu "#include \"dropbp/dropbp.cuh\"\n${code}\n")
  execute_process(COMMAND ${NVCC} ${flags} -I ${INCLUDE_DIR} -c ${WORK_DIR}/case.cu
    -o ${WORK_DIR}/case.o
    RESULT_VARIABLE status ERROR_VARIABLE messages OUTPUT_VARIABLE messages)
  string(REGEX MATCH "error[^\n]*(\n[^\n]*)?" first "${messages}")
  if(status EQUAL 0 OR NOT first MATCHES "${wanted}")
    fail("'${code}' with ${flags} must first say '${wanted}', but: ${messages}")
  endif()
endforeach()
list(LENGTH headers count)
message(NOTICE "${count} .cuh files say what to include instead")
