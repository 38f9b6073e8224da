# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# The two programs keep the promises of docs/explicit_loop.md: they differ in few lines, their
# losses are equal where nothing is dropped, and the arena shrinks by the dropped share. WITHOUT and
# WITH (the sources), PLAIN and DROPPING (the programs) come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

set(most_lines 15)

find_program(diff diff)
if(NOT diff)
  message(NOTICE "SKIPPED: there is no diff here")
  return()
endif()
execute_process(COMMAND ${diff} ${WITHOUT} ${WITH} OUTPUT_VARIABLE difference)
string(REGEX MATCHALL "\n>" lines "\n${difference}")
list(LENGTH lines lines)
if(lines EQUAL 0 OR lines GREATER most_lines)
  fail("DropBP changes or adds ${lines} lines, and at most ${most_lines} are "
    "promised:\n${difference}")
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

# Four branches of each kind: a fixed budget keeps (1 - rate) * 4 of them.
foreach(case IN ITEMS "0.25=3" "0.5=2" "0.75=1")
  string(REGEX MATCH "^(.*)=(.*)$" whole ${case})
  set(rate ${CMAKE_MATCH_1})
  set(kept ${CMAKE_MATCH_2})
  run(dropping ${DROPPING} 2 ${rate})
  math(EXPR expected "${plain_bytes} * ${kept} / ${plain_attention}")
  if(NOT dropping_attention EQUAL kept OR NOT dropping_mlp EQUAL kept
    OR NOT dropping_bytes EQUAL expected)
    fail("at a drop rate of ${rate} there are ${dropping_attention} and ${dropping_mlp} slots of "
      "${dropping_bytes} bytes, "
      "not ${kept} of each and ${expected} of ${plain_bytes} bytes")
  endif()
endforeach()
message(STATUS "${lines} lines, the same losses, and an arena smaller by the dropped share")
