# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that the top level has no other tracked files than these. SOURCE_DIR comes from the command
# line; EXTRA names one more file.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

set(allowed benchmarks cmake docs examples include tests CMakeLists.txt CMakePresets.json
  LICENSE README.md)

find_program(git git)
if(NOT git OR NOT EXISTS ${SOURCE_DIR}/.git)
  message(NOTICE "SKIPPED: what is tracked is known in a git checkout only")
  return()
endif()
execute_process(COMMAND ${git} -C ${SOURCE_DIR} ls-files OUTPUT_VARIABLE files
  RESULT_VARIABLE status ERROR_VARIABLE messages)
if(NOT status EQUAL 0)
  message(NOTICE "SKIPPED: git does not read this checkout: ${messages}")
  return()
endif()
string(REGEX REPLACE "/[^\n]*" "" names "${files}")
string(REGEX MATCHALL "[^\n]+" names "${names}")
list(APPEND names ${EXTRA})
list(REMOVE_DUPLICATES names)
list(FILTER names EXCLUDE REGEX "^\\.")
list(REMOVE_ITEM names ${allowed})
if(names)
  fail("tracked at the top level, where it does not belong: ${names}")
endif()
