# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# What LIBRARY exports and LAYOUT prints are the lines of ABI. A changed line is a new version of
# the interface: add the new lines together with the new version. NM and POINTER_BYTES come from
# the command line too.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

if(NOT POINTER_BYTES EQUAL 8)
  message(NOTICE "SKIPPED: the layout is stated for pointers of 8 bytes, here are ${POINTER_BYTES}")
  return()
endif()
if(NOT NM)
  message(NOTICE "SKIPPED: there is no nm")
  return()
endif()
execute_process(COMMAND ${NM} -D --defined-only ${LIBRARY} OUTPUT_VARIABLE symbols
  RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  fail("${NM} does not read ${LIBRARY}")
endif()
execute_process(COMMAND ${LAYOUT} OUTPUT_VARIABLE layout RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  fail("${LAYOUT} fails: ${status}")
endif()
string(REGEX REPLACE "[0-9a-f]+ [A-Za-z] ([^\n@]+)[^\n]*" "symbol \\1" symbols "${symbols}")
string(REGEX MATCHALL "[^\n]+" real "${symbols}\n${layout}")
# The name of the version itself.
list(FILTER real EXCLUDE REGEX "^symbol DROPBP_[0-9.]+$")
file(STRINGS ${ABI} stated)
list(FILTER stated EXCLUDE REGEX "^#")
set(faults "")
foreach(line IN LISTS real)
  if(NOT line IN_LIST stated)
    string(APPEND faults "only in the library: ${line}\n")
  endif()
endforeach()
foreach(line IN LISTS stated)
  if(NOT line IN_LIST real)
    string(APPEND faults "only here: ${line}\n")
  endif()
endforeach()
if(faults)
  fail("the C interface is another than in ${ABI}:\n${faults}")
endif()
list(LENGTH real count)
message(NOTICE "${count} symbols, structs and fields are as stated")
