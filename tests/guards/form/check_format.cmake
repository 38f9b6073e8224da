# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that clang-format 19 changes no C++ or CUDA file in SOURCE_DIR, with the rules of STYLE.
# Other releases format some lines differently. SOURCE_DIR and STYLE come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)
include(${CMAKE_CURRENT_LIST_DIR}/files.cmake)

find_program(clang_format clang-format-19)
if(NOT clang_format)
  message(NOTICE "SKIPPED: clang-format-19 is not installed (Debian: clang-format-19)")
  return()
endif()
tracked_files(${SOURCE_DIR} files)
# clang-format would take a .h file for Objective-C.
list(FILTER files INCLUDE REGEX "\\.(hpp|cpp|cu|cuh)$")
list(LENGTH files count)
if(count EQUAL 0)
  fail("no file was found in ${SOURCE_DIR}")
endif()
execute_process(WORKING_DIRECTORY ${SOURCE_DIR} RESULT_VARIABLE status
  OUTPUT_VARIABLE output ERROR_VARIABLE output
  COMMAND ${clang_format} --dry-run -Werror --style=file:${STYLE} ${files})
if(NOT status EQUAL 0)
  fail("clang-format-19 must change no file, but it would. Run clang-format-19 -i on these:\n"
    "${output}")
endif()
message(NOTICE "${count} files are as clang-format 19 lays them out")
