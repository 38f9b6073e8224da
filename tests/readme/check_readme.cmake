# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# What README.md shows is what is there: each ```cpp block is a whole file under examples/ or consecutive lines of one,
# each file that it links to exists, and the output below the first program is the output of that program.
# README, SOURCE_DIR and PROGRAM (the quickstart; none for a page without output) come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

file(READ ${README} readme)
cmake_path(GET README FILENAME name)
file(GLOB_RECURSE examples ${SOURCE_DIR}/examples/*.cpp ${SOURCE_DIR}/examples/*.hpp)

# The text between the next `open` and the next closing fence, cut off the front of `rest`.
macro(take_block open)
  set(block "")
  string(FIND "${rest}" "${open}\n" at)
  if(at GREATER_EQUAL 0)
    string(LENGTH "${open}\n" skip)
    math(EXPR at "${at} + ${skip}")
    string(SUBSTRING "${rest}" ${at} -1 rest)
    string(FIND "${rest}" "\n```" end)
    math(EXPR end "${end} + 1")
    string(SUBSTRING "${rest}" 0 ${end} block)
    string(SUBSTRING "${rest}" ${end} -1 rest)
  endif()
endmacro()

set(rest "${readme}")
set(blocks 0)
while(TRUE)
  take_block("```cpp")
  if(block STREQUAL "")
    break()
  endif()
  math(EXPR blocks "${blocks} + 1")
  set(found FALSE)
  foreach(example IN LISTS examples)
    file(READ ${example} text)
    string(FIND "\n${text}" "\n${block}" at)
    if(at GREATER_EQUAL 0)
      set(found TRUE)
    endif()
  endforeach()
  if(NOT found)
    fail("${name} shows code that is in no file under examples/:\n${block}")
  endif()
endwhile()
if(blocks EQUAL 0)
  fail("${name} shows no code")
endif()

if(PROGRAM)
  set(rest "${readme}")
  take_block("```console")
  string(FIND "${block}" "\n" at)  # behind the command itself
  math(EXPR at "${at} + 1")
  string(SUBSTRING "${block}" ${at} -1 shown)
  execute_process(COMMAND ${PROGRAM} OUTPUT_VARIABLE output RESULT_VARIABLE status)
  if(NOT status EQUAL 0 OR NOT output STREQUAL shown)
    fail("${name} shows other output than the first program has (exit code ${status}):\n${output}\n${name}:\n${shown}")
  endif()
endif()

# Without the bracket before: CMake's lists cannot hold a single one.
string(REGEX MATCHALL "\\((examples|benchmarks|include|tests|cmake|docs)/[^)]*\\)" links "${readme}")
foreach(link IN LISTS links)
  string(REGEX REPLACE "[()]" "" link "${link}")
  if(NOT EXISTS ${SOURCE_DIR}/${link})
    fail("${name} links to ${link}, which does not exist")
  endif()
endforeach()
message(STATUS "${blocks} blocks of code and the output are as shown")
