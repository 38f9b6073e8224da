# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# The two programs keep the promises of their page: they differ in as many lines as it says, their
# losses and arenas are equal where nothing is dropped, and otherwise the arena has a slot for each
# kept branch and one of each kind for all dropped ones. WITHOUT and WITH (the sources), PLAIN and
# DROPPING (the programs), and PAGE come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

find_program(diff diff)
if(NOT diff)
  message(NOTICE "SKIPPED: there is no diff here")
  return()
endif()
execute_process(COMMAND ${diff} ${WITHOUT} ${WITH} OUTPUT_VARIABLE difference)
string(REGEX MATCHALL "\n>" lines "\n${difference}")
list(LENGTH lines lines)
file(READ ${PAGE} page)
if(NOT page MATCHES "[^0-9]${lines} lines")
  fail("DropBP changes or adds ${lines} lines, and ${PAGE} does not say so:\n${difference}")
endif()

function(run result)
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE output RESULT_VARIABLE status)
  if(NOT status EQUAL 0
    OR NOT output MATCHES
    "^([0-9]+) attention slots and ([0-9]+) MLP slots: ([0-9]+) bytes[^\n]*\n(.*)$")
    fail("${ARGN} fails (${status}) or says nothing of its slots:\n${output}")
  endif()
  set(${result}_attention ${CMAKE_MATCH_1} PARENT_SCOPE)
  set(${result}_mlp ${CMAKE_MATCH_2} PARENT_SCOPE)
  set(${result}_bytes ${CMAKE_MATCH_3} PARENT_SCOPE)
  set(${result}_losses "${CMAKE_MATCH_4}" PARENT_SCOPE)
endfunction()

run(plain ${PLAIN} 20)
run(same ${DROPPING} 20 0)
if(NOT plain_losses STREQUAL same_losses OR plain_losses STREQUAL "")
  fail("with a drop rate of 0 the losses are others:\n${plain_losses}\n${same_losses}")
endif()
if(NOT plain_bytes EQUAL same_bytes)
  fail("with a drop rate of 0 the arena has ${same_bytes} bytes, not ${plain_bytes}")
endif()

# Four branches of each kind: a fixed budget keeps (1 - rate) * 4 of them.
foreach(case IN ITEMS "0.25=3" "0.5=2" "0.75=1")
  string(REGEX MATCH "^(.*)=(.*)$" whole ${case})
  set(rate ${CMAKE_MATCH_1})
  set(kept ${CMAKE_MATCH_2})
  math(EXPR slots "${kept} + 1")
  run(dropping ${DROPPING} 2 ${rate})
  math(EXPR expected "${plain_bytes} * ${slots} / ${plain_attention}")
  if(NOT dropping_attention EQUAL slots OR NOT dropping_mlp EQUAL slots
    OR NOT dropping_bytes EQUAL expected)
    fail("at a drop rate of ${rate} there are ${dropping_attention} and ${dropping_mlp} slots of "
      "${dropping_bytes} bytes, "
      "not ${slots} of each and ${expected} of ${plain_bytes} bytes")
  endif()
endforeach()
message(STATUS "${lines} lines, the same losses, and an arena smaller by the dropped share")
