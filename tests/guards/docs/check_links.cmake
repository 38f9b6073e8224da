# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that every file that a page in DOCS_DIR links to exists, and that an index.md links to
# every other page. DOCS_DIR comes from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

file(GLOB pages ${DOCS_DIR}/*.md)
set(faults "")
set(count 0)
foreach(page IN LISTS pages)
  cmake_path(GET page FILENAME name)
  file(READ ${page} text)
  string(REGEX REPLACE "\n```[^`]*\n```" "\n" text "${text}")  # code: a lambda is no link
  string(REPLACE "](" "\nLINK:" text "${text}")  # CMake's lists cannot hold a single bracket
  string(REGEX MATCHALL "\nLINK:[^()# \n]+" links "${text}")
  list(TRANSFORM links REPLACE "\nLINK:" "")
  foreach(link IN LISTS links)
    math(EXPR count "${count} + 1")
    if(NOT link MATCHES "^[a-z]+:" AND NOT EXISTS ${DOCS_DIR}/${link})
      string(APPEND faults "${name} links to ${link}, which does not exist\n")
    endif()
  endforeach()
  if(name STREQUAL "index.md")
    set(listed ${links})
  endif()
endforeach()
if(EXISTS ${DOCS_DIR}/index.md)
  foreach(page IN LISTS pages)
    cmake_path(GET page FILENAME name)
    if(NOT name STREQUAL "index.md" AND NOT name IN_LIST listed)
      string(APPEND faults "index.md does not link to ${name}\n")
    endif()
  endforeach()
endif()
if(faults)
  fail("${faults}")
endif()
message(NOTICE "${count} links lead somewhere")
