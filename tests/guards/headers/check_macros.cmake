# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that HEADERS compile after macros that other libraries define, do not change those macros,
# and add only DROPBP_* macros. COMPILER, INCLUDE_DIR, THIRD_PARTY and HEADERS (with | between) and
# WORK_DIR come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)
include(${CMAKE_CURRENT_LIST_DIR}/library.cmake)

string(REPLACE "|" ";" THIRD_PARTY "${THIRD_PARTY}")
string(REPLACE "|" ";" HEADERS "${HEADERS}")

# Headers of other libraries are included before the macros, because they need not tolerate them.
set(prelude "")
file(GLOB_RECURSE files ${INCLUDE_DIR}/dropbp/*.hpp)
foreach(file IN LISTS files)
  cmake_path(RELATIVE_PATH file BASE_DIRECTORY ${INCLUDE_DIR} OUTPUT_VARIABLE relative)
  if(relative MATCHES "^dropbp/(kernels|ops)/" AND NOT THIRD_PARTY)
    continue()
  endif()
  set(wanted "[^>]+")
  if(relative MATCHES "/interop/" AND NOT relative IN_LIST HEADERS)
    set(wanted "[a-z_]+")  # the standard library's alone: HEADERS may include this header
  endif()
  file(STRINGS ${file} lines REGEX "^[ \t]*#[ \t]*include[ \t]*<${wanted}>")
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "^[^<]*<([^>]+)>.*$" "#if __has_include(<\\1>)\n#include <\\1>\n#endif\n"
      line "${line}")
    list(APPEND prelude "${line}")
  endforeach()
endforeach()
list(REMOVE_DUPLICATES prelude)
list(JOIN prelude "" prelude)

set(includes "")
foreach(header IN LISTS HEADERS)
  string(APPEND includes "#include \"${header}\"\n")
endforeach()

file(WRITE ${WORK_DIR}/before.cpp
  "${prelude}#include \"${CMAKE_CURRENT_LIST_DIR}/hostile_macros.h\"\n")
file(WRITE ${WORK_DIR}/after.cpp
  "${prelude}#include \"${CMAKE_CURRENT_LIST_DIR}/hostile_macros.h\"\n${includes}")

set(compile ${COMPILER} -std=c++20 -I ${INCLUDE_DIR})
foreach(directory IN LISTS THIRD_PARTY)
  list(APPEND compile -isystem ${directory})
endforeach()
foreach(header IN LISTS HEADERS)
  skip_without_library(${INCLUDE_DIR} ${header} ${WORK_DIR}/library.cpp ${compile} -fsyntax-only)
endforeach()

execute_process(COMMAND ${compile} -fsyntax-only ${WORK_DIR}/before.cpp RESULT_VARIABLE status
  ERROR_VARIABLE messages)
if(NOT status EQUAL 0)
  fail("the test itself is broken:\n${messages}")
endif()
execute_process(COMMAND ${compile} -fsyntax-only ${WORK_DIR}/after.cpp RESULT_VARIABLE status
  ERROR_VARIABLE messages)
if(NOT status EQUAL 0)
  fail("${HEADERS} does not compile after the macros of others:\n${messages}")
endif()

foreach(side IN ITEMS before after)
  execute_process(COMMAND ${compile} -dM -E ${WORK_DIR}/${side}.cpp
    OUTPUT_FILE ${WORK_DIR}/${side}.txt
    COMMAND_ERROR_IS_FATAL ANY)
  file(READ ${WORK_DIR}/${side}.txt text)
  string(REGEX MATCHALL "#define [A-Za-z0-9_]+" ${side}_names "${text}")
  list(TRANSFORM ${side}_names REPLACE "#define " "")
endforeach()

set(faults "")
set(added ${after_names})
list(REMOVE_ITEM added ${before_names})
list(FILTER added EXCLUDE REGEX "^DROPBP_")
foreach(name IN LISTS added)
  string(APPEND faults "${HEADERS} adds the macro ${name}\n")
endforeach()
set(lost ${before_names})
list(REMOVE_ITEM lost ${after_names})
foreach(name IN LISTS lost)
  string(APPEND faults "${HEADERS} loses the macro ${name}\n")
endforeach()
if(faults)
  fail("${faults}")
endif()
file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/hostile_macros.h hostile REGEX "^#define")
list(LENGTH hostile count)
list(LENGTH HEADERS headers)
execute_process(COMMAND ${CMAKE_COMMAND} -E echo
  "promise 18: least_macros=${count} headers_seen=${headers}")
