# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that no line of a text file in SOURCE_DIR is longer than 100 columns. SOURCE_DIR comes from
# the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)
include(${CMAKE_CURRENT_LIST_DIR}/files.cmake)

# Exceptions: each is a regex of file names, and the reason.
set(exceptions
  "\\.svg$"                # drawn by gnuplot
  "\\.json$"               # data, of other programs too
  "\\.safetensors$"        # binary
  "\\.csv$"                # a table: a row is a line
  "^tests/data/old/"       # written by released versions
  "^tests/promises\\.md$"   # a table: a row is a line
  "^tests/promises/faults/"  # a line of source behind the mark of a patch
  "^tests/data/nf4/golden\\.txt$"  # made by a program
  "^tests/fuzz/corpus/"    # inputs of any bytes
  "^tests/mutation/equivalent\\.txt$"  # a line a mutant
  "^LICENSE$")             # a text that is not ours to wrap
# In C++, lines of a raw string are also exempt: clang-format does not split it.
set(raw_string "R\"[a-z]*\\(")
set(raw_string_end "\\)[a-z]*\"")

tracked_files(${SOURCE_DIR} files)
set(faults "")
set(count 0)
foreach(file IN LISTS files)
  set(excepted FALSE)
  foreach(exception IN LISTS exceptions)
    if(file MATCHES "${exception}")
      set(excepted TRUE)
    endif()
  endforeach()
  if(excepted)
    continue()
  endif()
  math(EXPR count "${count} + 1")
  file(STRINGS ${SOURCE_DIR}/${file} lines LENGTH_MINIMUM 101 ENCODING UTF-8)
  if(lines STREQUAL "")
    continue()
  endif()
  # Reads the file again as one string, because lists break at semicolons, brackets and backslashes.
  file(READ ${SOURCE_DIR}/${file} text)
  string(REGEX REPLACE "[][;\\\\]" "x" text "${text}")
  string(REPLACE "\n" ";" text "${text}")
  set(number 0)
  set(in_raw_string FALSE)
  foreach(line IN LISTS text)
    math(EXPR number "${number} + 1")
    string(LENGTH "${line}" length)
    if(in_raw_string)
      if(line MATCHES "${raw_string_end}")
        set(in_raw_string FALSE)
      endif()
      continue()
    endif()
    if(file MATCHES "\\.(cpp|hpp|cu|cuh|h)$" AND line MATCHES "${raw_string}")
      if(NOT line MATCHES "${raw_string}.*${raw_string_end}")
        set(in_raw_string TRUE)
      endif()
      continue()
    endif()
    if(length GREATER 100)
      string(APPEND faults "${file}:${number} has ${length} columns, and at most 100 are allowed\n")
    endif()
  endforeach()
endforeach()
if(count EQUAL 0)
  fail("no file was found in ${SOURCE_DIR}")
endif()
if(faults)
  fail("${faults}")
endif()
message(NOTICE "${count} files have no line over 100 columns")
