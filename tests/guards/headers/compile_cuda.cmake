# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Compiles a file of one .cuh header included twice with nvcc; with MACROS=ON, after macros that
# other libraries define. NVCC, HEADER, INCLUDE_DIR and WORK_DIR come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

set(prelude "")
if(MACROS)
  # Headers of other libraries are included before the macros, because they need not tolerate them.
  file(GLOB_RECURSE files ${INCLUDE_DIR}/dropbp/backend/* ${INCLUDE_DIR}/dropbp/base/*
    ${INCLUDE_DIR}/dropbp/kernels/* ${INCLUDE_DIR}/dropbp/ops/*.hpp ${INCLUDE_DIR}/dropbp/*.hpp)
  list(FILTER files EXCLUDE REGEX "/interop/")
  foreach(file IN LISTS files)
    file(STRINGS ${file} lines REGEX "^[ \t]*#[ \t]*include[ \t]*<[^>]+>")
    foreach(line IN LISTS lines)
      string(REGEX REPLACE "^[^<]*<([^>]+)>.*$" "\\1" name "${line}")
      if(NOT name MATCHES "^Eigen/")
        list(APPEND prelude "#if __has_include(<${name}>)\n#include <${name}>\n#endif\n")
      endif()
    endforeach()
  endforeach()
  list(REMOVE_DUPLICATES prelude)
  list(JOIN prelude "" prelude)
  string(APPEND prelude "#include \"${CMAKE_CURRENT_LIST_DIR}/hostile_macros.h\"\n")
endif()
string(MAKE_C_IDENTIFIER "${HEADER}_${MACROS}" stem)
file(WRITE ${WORK_DIR}/${stem}.cu "${prelude}#include \"${HEADER}\"\n#include \"${HEADER}\"\n")
execute_process(
  COMMAND ${NVCC} -std=c++20 -arch=sm_90 -c -I ${INCLUDE_DIR} -Werror all-warnings
    -Xcompiler=-Wall,-Wextra,-Wconversion,-Wsign-conversion,-Wshadow,-Werror ${WORK_DIR}/${stem}.cu
    -o ${WORK_DIR}/${stem}.o
  RESULT_VARIABLE status ERROR_VARIABLE messages OUTPUT_VARIABLE messages)
if(NOT status EQUAL 0)
  fail("${HEADER} does not compile alone and twice with nvcc:\n${messages}")
endif()
