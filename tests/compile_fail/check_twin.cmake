# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Compiles one twin of SOURCE. TWIN is right or wrong; COMPILER, INCLUDE_DIR, THIRD_PARTY (include directories
# with | between) and FLAGS come from the command line too.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

file(STRINGS ${SOURCE} first LIMIT_COUNT 1)
if(NOT first MATCHES "^// expect: (.+)$")
  fail("${SOURCE} must open with a line '// expect: REGULAR EXPRESSION'")
endif()
set(expected "${CMAKE_MATCH_1}")

string(REPLACE "|" ";" THIRD_PARTY "${THIRD_PARTY}")
separate_arguments(flags UNIX_COMMAND "${FLAGS}")
foreach(directory IN LISTS THIRD_PARTY)
  list(APPEND flags -isystem ${directory})
endforeach()
if(TWIN STREQUAL "wrong")
  list(APPEND flags -DDROPBP_TEST_WRONG)
endif()

execute_process(COMMAND ${COMPILER} -std=c++20 -fsyntax-only -I ${INCLUDE_DIR} ${flags} ${SOURCE}
  RESULT_VARIABLE status ERROR_VARIABLE messages)

if(TWIN STREQUAL "right")
  if(NOT status EQUAL 0)
    fail("${SOURCE} must compile, but does not:\n${messages}")
  endif()
  return()
endif()
if(status EQUAL 0)
  fail("${SOURCE} with DROPBP_TEST_WRONG compiles, but must not")
endif()
# Compilers quote the offending line: the file's own text must not count as the message.
string(REGEX REPLACE "(^|\n) *[0-9]* \\|[^\n]*" "" said "${messages}")
string(REGEX REPLACE "[ \t\r\n]+" " " said "${said}")
if(NOT said MATCHES "${expected}")
  fail("${SOURCE} with DROPBP_TEST_WRONG fails, but not with '${expected}':\n${messages}")
endif()
