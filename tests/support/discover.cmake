# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Writes the ctest entries of one test program to OUTPUT, one for each test case. Catch2's own
# script does the same, but in 2.13 it splits names at semicolons. PROGRAM, LABEL, PREFIX (of the
# names), LIST and RUN (arguments with spaces between) come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/script.cmake NO_POLICY_SCOPE)

separate_arguments(list UNIX_COMMAND "${LIST}")
# The exit code is not a status: 2.13 returns the number of test cases.
execute_process(COMMAND ${PROGRAM} ${list} OUTPUT_VARIABLE names ERROR_VARIABLE messages
  RESULT_VARIABLE status)
if(NOT status MATCHES "^[0-9]+$")
  fail("${PROGRAM} cannot list its test cases: ${status}\n${messages}")
endif()

set(script "")
# Not a CMake list, which breaks at semicolons and brackets.
while(names MATCHES "^([^\n]*)\n")
  set(name "${CMAKE_MATCH_1}")
  string(LENGTH "${CMAKE_MATCH_0}" length)
  string(SUBSTRING "${names}" ${length} -1 names)
  if(name STREQUAL "")
    continue()
  endif()
  string(REGEX REPLACE "([][,\"\\\\])" "\\\\\\1" filter "${name}")
  set(test "[==[${PREFIX}${name}]==]")
  string(APPEND script
    "add_test(${test} [==[${PROGRAM}]==] [==[${filter}]==] ${RUN})\n"
    "set_tests_properties(${test} PROPERTIES LABELS ${LABEL} TIMEOUT 3600\n"
    "  SKIP_REGULAR_EXPRESSION [==[(^|\n)SKIPPED: ]==])\n")
endwhile()
if(script STREQUAL "")
  fail("${PROGRAM} has no test case")
endif()
file(WRITE ${OUTPUT} "${script}")
