# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Builds million.cpp with COMPILER and FLAGS and runs it, under EMULATOR if that is given. SOURCE,
# INCLUDE_DIR, TESTS_DIR and WORK_DIR come from the command line too.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

separate_arguments(flags UNIX_COMMAND "${FLAGS}")
file(MAKE_DIRECTORY ${WORK_DIR})
set(program ${WORK_DIR}/million)
execute_process(COMMAND ${COMPILER} -std=c++20 ${flags} -I ${INCLUDE_DIR} -I ${TESTS_DIR} ${SOURCE}
  -o ${program} RESULT_VARIABLE status ERROR_VARIABLE messages)
if(NOT status EQUAL 0)
  fail("million.cpp does not compile with ${COMPILER} ${FLAGS}:\n${messages}")
endif()
execute_process(COMMAND ${EMULATOR} ${program} --few RESULT_VARIABLE status OUTPUT_VARIABLE output
  ERROR_VARIABLE messages)
execute_process(COMMAND ${CMAKE_COMMAND} -E echo "${output}")
if(NOT status EQUAL 0)
  fail("with ${COMPILER} ${FLAGS} the decisions differ:\n${messages}")
endif()
