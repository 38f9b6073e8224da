# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Compiles a file of one header included twice. COMPILER, HEADER, INCLUDE_DIR, THIRD_PARTY (include
# directories with | between), FLAGS and WORK_DIR come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)
include(${CMAKE_CURRENT_LIST_DIR}/library.cmake)

cmake_path(GET COMPILER FILENAME label)
string(MAKE_C_IDENTIFIER "${label}_${HEADER}" stem)
set(source ${WORK_DIR}/${stem}.cpp)
separate_arguments(flags UNIX_COMMAND "${FLAGS}")
string(REPLACE "|" ";" THIRD_PARTY "${THIRD_PARTY}")
set(system "")
foreach(directory IN LISTS THIRD_PARTY)
  list(APPEND system -isystem ${directory})
endforeach()
set(compile ${COMPILER} -std=c++20 -fsyntax-only -I ${INCLUDE_DIR} ${system})

skip_without_library(${INCLUDE_DIR} ${HEADER} ${source} ${compile})

file(WRITE ${source} "#include \"${HEADER}\"\n#include \"${HEADER}\"\n")
execute_process(COMMAND ${compile} ${flags} ${source} RESULT_VARIABLE status
  ERROR_VARIABLE messages)
if(NOT status EQUAL 0)
  fail("${HEADER} does not compile alone and twice with ${label}:\n${messages}")
endif()
