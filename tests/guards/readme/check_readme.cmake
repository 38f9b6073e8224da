# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks a page (README.md, docs/*.md): each block of code (```cpp, ```c, ```python, ```rust,
# ```julia) is a whole file under examples/ or consecutive lines of one, each ```diff block is the
# output of diff for the two files that it names, and each file that the page links to exists. With
# PROGRAM (the quickstart) the page has at most 200 lines, and its first ```console block shows the
# output of that program. README (the page), FOLDER (that of its links) and SOURCE_DIR come from the
# command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

file(READ ${README} readme)
cmake_path(GET README FILENAME page)
file(GLOB_RECURSE examples ${SOURCE_DIR}/examples/*.cpp ${SOURCE_DIR}/examples/*.hpp
  ${SOURCE_DIR}/examples/*.cu ${SOURCE_DIR}/examples/*.c ${SOURCE_DIR}/examples/*.h
  ${SOURCE_DIR}/examples/*.py ${SOURCE_DIR}/examples/*.rs ${SOURCE_DIR}/examples/*.jl)

# Cuts the text between the next `open` and the next closing fence off the front of `rest`.
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

set(blocks 0)
set(fences "```cpp" "```c" "```python" "```rust" "```julia")
set(rest "${readme}")
while(fences)
  list(GET fences 0 fence)
  take_block("${fence}")
  if(block STREQUAL "")
    list(POP_FRONT fences)
    set(rest "${readme}")
    continue()
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
    fail("${page} shows code that is in no file under examples/:\n${block}")
  endif()
endwhile()

set(rest "${readme}")
while(TRUE)
  take_block("```diff")
  if(block STREQUAL "")
    break()
  endif()
  math(EXPR blocks "${blocks} + 1")
  find_program(diff diff)
  if(NOT diff)
    message(NOTICE "SKIPPED: there is no diff here, and ${page} shows one")
    return()
  endif()
  if(NOT block MATCHES "^--- ([^\n]*)\n\\+\\+\\+ ([^\n]*)\n")
    fail("${page} shows a diff that does not begin with the names of two files:\n${block}")
  endif()
  set(from ${CMAKE_MATCH_1})
  set(to ${CMAKE_MATCH_2})
  set(found FALSE)
  foreach(context IN ITEMS 3 2 1 0)
    execute_process(WORKING_DIRECTORY ${SOURCE_DIR} OUTPUT_VARIABLE real ERROR_VARIABLE real
      COMMAND ${diff} -U${context} --label ${from} --label ${to} ${from} ${to})
    if(block STREQUAL real)
      set(found TRUE)
    endif()
  endforeach()
  if(NOT found)
    fail("${page} shows another diff than there is between ${from} and ${to}, which is:\n${real}")
  endif()
endwhile()
string(REGEX MATCHALL "\n" ends "${readme}")
list(LENGTH ends lines)
if(PROGRAM AND lines GREATER 200)
  fail("${page} has ${lines} lines, and at most 200 are allowed: move parts to docs/")
endif()
if(blocks EQUAL 0 AND PROGRAM)
  fail("${page} shows no code")
endif()

if(PROGRAM)
  set(rest "${readme}")
  take_block("```console")
  string(FIND "${block}" "\n" at)  # behind the command itself
  math(EXPR at "${at} + 1")
  string(SUBSTRING "${block}" ${at} -1 shown)
  execute_process(COMMAND ${PROGRAM} OUTPUT_VARIABLE output RESULT_VARIABLE status)
  if(NOT status EQUAL 0 OR NOT output STREQUAL shown)
    fail("${page} shows other output than the first program has (exit code "
      "${status}):\n${output}\n${page}:\n${shown}")
  endif()
endif()

# Without the bracket before: CMake's lists cannot hold a single one.
set(folders "(\\.\\./)?(examples|benchmarks|include|tests|cmake|docs)/[^)]*")
string(REGEX MATCHALL "\\((${folders}|[A-Za-z_]+\\.md|\\.\\./README\\.md)\\)" links "${readme}")
foreach(link IN LISTS links)
  string(REGEX REPLACE "[()]" "" link "${link}")
  if(NOT EXISTS ${FOLDER}/${link})
    fail("${page} links to ${link}, which does not exist")
  endif()
endforeach()
message(STATUS "${blocks} blocks of code are as shown")
