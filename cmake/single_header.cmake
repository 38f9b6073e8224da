# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Writes the core as one header:
#   cmake -DINCLUDE_DIR=include -DOUTPUT=dropbp.hpp -P cmake/single_header.cmake
# Each header of dropbp is inserted where it is first included. The text depends on the headers
# alone, not on their path.

cmake_minimum_required(VERSION 3.22)

set(opening
  "// SPDX-FileCopyrightText: 2026 The dropbp authors\n// SPDX-License-Identifier: MIT\n\n")

# Appends a header, and the headers of dropbp that it includes, to the global property `text`.
function(append_header header)
  get_property(seen GLOBAL PROPERTY seen)
  if(header IN_LIST seen)
    return()
  endif()
  set_property(GLOBAL APPEND PROPERTY seen ${header})
  file(READ ${INCLUDE_DIR}/${header} rest)
  string(FIND "${rest}" "${opening}" at)
  string(FIND "${rest}" "\n#pragma once\n" guard)
  if(NOT at EQUAL 0 OR guard EQUAL -1)
    message(FATAL_ERROR "${header} must open with the SPDX lines and hold #pragma once")
  endif()
  string(REPLACE "${opening}" "" rest "${rest}")
  string(REPLACE "\n#pragma once\n" "\n" rest "${rest}")
  set_property(GLOBAL APPEND_STRING PROPERTY text "\n// ---- ${header}\n\n")
  while(rest MATCHES "#include \"(dropbp/[^\"\n]+)\"\n")
    set(line "${CMAKE_MATCH_0}")
    set(included ${CMAKE_MATCH_1})
    string(FIND "${rest}" "${line}" at)
    string(SUBSTRING "${rest}" 0 ${at} before)
    string(LENGTH "${line}" length)
    math(EXPR at "${at} + ${length}")
    string(SUBSTRING "${rest}" ${at} -1 rest)
    set_property(GLOBAL APPEND_STRING PROPERTY text "${before}")
    append_header(${included})
  endwhile()
  set_property(GLOBAL APPEND_STRING PROPERTY text "${rest}")
endfunction()

set_property(GLOBAL PROPERTY text "")
append_header(dropbp/dropbp.hpp)
get_property(text GLOBAL PROPERTY text)
string(REGEX REPLACE "\n\n\n+" "\n\n" text "${text}")
file(WRITE ${OUTPUT}
  "${opening}// The core of dropbp in one file, made from its headers. Change those, not "
  "this.\n#pragma once\n${text}")
