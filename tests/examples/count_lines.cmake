# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Counts the lines between `// [dropbp` and `// dropbp]` in each program of DIRECTORY: what its
# tensor type needs. Types of the standard library have no such lines, all others at most eight.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

set(most_lines 8)

file(GLOB programs ${DIRECTORY}/*.cpp)
foreach(program IN LISTS programs)
  cmake_path(GET program STEM name)
  file(READ ${program} text)
  string(REGEX REPLACE "[][;\\]" "." text
    "${text}")  # what CMake's lists cannot hold; ". dropbp" and "dropbp." now
  string(REPLACE "\n" ";" lines "${text}")
  set(count 0)
  set(inside FALSE)
  foreach(line IN LISTS lines)
    if(line MATCHES "^ *// \\.dropbp$")
      set(inside TRUE)
    elseif(line MATCHES "^ *// dropbp\\.$")
      set(inside FALSE)
    elseif(inside)
      math(EXPR count "${count} + 1")
    endif()
  endforeach()
  if(inside)
    fail("${name} never closes what it opens with // [dropbp")
  endif()
  if(name MATCHES "^std_")
    if(NOT count EQUAL 0 OR text MATCHES "tensor_traits")
      fail("${name} needs lines for the library, and a type of the standard library must need none")
    endif()
  elseif(count EQUAL 0)
    fail("${name} does not show which lines are for the library")
  elseif(count GREATER most_lines)
    fail("${name} needs ${count} lines for the library; at most ${most_lines} are promised")
  endif()
  message(STATUS "${name}: ${count}")
endforeach()
if(NOT programs)
  fail("there are no programs in ${DIRECTORY}")
endif()
