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
      "dropbp: [a-z0-9_]+.cuh is for .cu files; other files include dropbp/[a-z0-9/]+.hpp")
      fail("${header} in a .cpp file: ${compiler} does not first say what to include, but: "
        "${messages}")
    endif()
  endforeach()
endforeach()

file(WRITE ${WORK_DIR}/main.cpp
  "#include \"dropbp/kernels/cuda.hpp\"\n#include \"dropbp/ops/gemm.hpp\"\n"
  "#include \"dropbp/ops/swiglu.hpp\"\n"
  "using View = dropbp::ops::MatrixView<float, dropbp::Cuda>;\n"
  "int main() {\n"
  "  dropbp::ops::gemm_nn(View(), View(), View());\n"
  "  dropbp::ops::swiglu_forward(View(), View());\n"
  "  return dropbp::device_runtime<dropbp::Cuda>::allocate(1) == nullptr;\n}\n")
execute_process(COMMAND ${COMPILER} -std=c++20 -I ${INCLUDE_DIR} ${WORK_DIR}/main.cpp
  -o ${WORK_DIR}/main
  RESULT_VARIABLE status ERROR_VARIABLE messages)
set(undefined "undefined reference to `dropbp::[a-z0-9_]+::")
set(kernels "${undefined}ops::kernels<dropbp::[a-z0-9_]+::ops::op::")
set(of_cuda ", float, dropbp::[a-z0-9_]+::Cuda>::")
if(status EQUAL 0 OR NOT messages MATCHES "${undefined}cuda::Runtime<void>::allocate"
  OR NOT messages MATCHES "${kernels}gemm${of_cuda}run"
  OR NOT messages MATCHES "${kernels}swiglu${of_cuda}forward")
  fail("a program without DROPBP_INSTANTIATE_CUDA must fail to link and name what it lacks: "
    "${messages}")
endif()

file(WRITE ${WORK_DIR}/other.cpp
  "#include \"dropbp/kernels/cuda.hpp\"\n#include \"dropbp/ops/gemm.hpp\"\n"
  "using View = dropbp::ops::MatrixView<double, dropbp::Cuda>;\n"
  "int main() { dropbp::ops::gemm_nn(View(), View(), View()); }\n")
execute_process(COMMAND ${COMPILER} -std=c++20 -I ${INCLUDE_DIR} -fsyntax-only ${WORK_DIR}/other.cpp
  RESULT_VARIABLE status ERROR_VARIABLE messages)
set(no_kernels "there are no kernels for this .operation, scalar, backend.*")
string(APPEND no_kernels " dropbp::Cuda takes float, dropbp::BFloat16 and dropbp::Half")
if(status EQUAL 0 OR NOT messages MATCHES "${no_kernels}")
  fail("an operation on an unknown scalar must say what there is: ${messages}")
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
