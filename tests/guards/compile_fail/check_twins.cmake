# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Compiles all twins among SOURCES (with | between), the right ones in one run of the compiler and
# the wrong ones in another: each file in a namespace of its own, since nearly all of the time goes
# into the headers. COMPILER, INCLUDE_DIR, THIRD_PARTY (include directories with | between), FLAGS
# and WORK_DIR come from the command line too.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

string(REPLACE "|" ";" SOURCES "${SOURCES}")
string(REPLACE "|" ";" THIRD_PARTY "${THIRD_PARTY}")
separate_arguments(flags UNIX_COMMAND "${FLAGS}")
foreach(directory IN LISTS THIRD_PARTY)
  list(APPEND flags -isystem ${directory})
endforeach()

set(includes "")
set(bodies "")
foreach(source IN LISTS SOURCES)
  file(STRINGS ${source} first LIMIT_COUNT 1)
  if(NOT first MATCHES "^// expect: (dropbp: .+)$")
    fail("${source} must open with a line '// expect: dropbp: REGULAR EXPRESSION'")
  endif()
  cmake_path(GET source STEM LAST_ONLY twin)
  set(expected_${twin} "${CMAKE_MATCH_1}")
  file(STRINGS ${source} lines REGEX "^#include ")
  list(APPEND includes ${lines})
  # A specialisation of a template of the library's must stand outside of other namespaces.
  file(STRINGS ${source} specialisation REGEX "^template <>" LIMIT_COUNT 1)
  if(specialisation)
    string(APPEND bodies "#include \"${source}\"\n")
  else()
    string(APPEND bodies "namespace twin_${twin} {\n#include \"${source}\"\n}\n")
  endif()
endforeach()
list(REMOVE_DUPLICATES includes)
list(JOIN includes "\n" includes)
set(all ${WORK_DIR}/twins.cc)
file(WRITE ${all} "${includes}\n${bodies}")

function(compile)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env LC_ALL=C ${COMPILER} -std=c++20 -fsyntax-only -I ${INCLUDE_DIR}
      -I ${CMAKE_CURRENT_LIST_DIR} ${flags} ${ARGN} ${all}
    RESULT_VARIABLE status ERROR_VARIABLE messages)
  set(status ${status} PARENT_SCOPE)
  set(messages "${messages}" PARENT_SCOPE)
endfunction()

compile()
if(NOT status EQUAL 0)
  fail("one of ${SOURCES} must compile, but does not:\n${messages}")
endif()

execute_process(COMMAND ${COMPILER} --version OUTPUT_VARIABLE version)
set(no_limit -fmax-errors=0)
if(version MATCHES "clang")
  set(no_limit -ferror-limit=0)
endif()
compile(-DDROPBP_TEST_WRONG ${no_limit})

# Which file an error belongs to: the one that it is in, or whose call has led there. g++ says so in
# lines before the error, clang++ in notes after it.
string(REGEX REPLACE "[][;]" " " lines "${messages}")  # special in lists
string(REPLACE "\n" ";" lines "${lines}")
set(context "")
set(error "")
foreach(line IN LISTS lines)
  set(twin "")
  if(line MATCHES "([A-Za-z0-9_]+)\\.cpp:[0-9]+")
    set(twin ${CMAKE_MATCH_1})
  endif()
  if(line MATCHES ":[0-9]+:[0-9]+: (fatal )?error: (.*)")
    set(error "${CMAKE_MATCH_2}")
    if(NOT twin)
      set(twin "${context}")
    endif()
    set(context "")
  elseif(twin AND NOT line MATCHES ": note: ")
    set(context ${twin})
    continue()
  endif()
  if(twin AND error)
    if(NOT DEFINED said_${twin})
      set(said_${twin} "${error}")
    endif()
    set(error "")
  endif()
endforeach()

set(complaints "")
foreach(source IN LISTS SOURCES)
  cmake_path(GET source STEM LAST_ONLY twin)
  if(NOT DEFINED said_${twin})
    string(APPEND complaints "${source} with DROPBP_TEST_WRONG compiles, but must not\n")
  elseif(NOT said_${twin} MATCHES "${expected_${twin}}")
    string(APPEND complaints
      "${source} with DROPBP_TEST_WRONG fails, but says first\n  ${said_${twin}}\nand not\n"
      "  ${expected_${twin}}\n")
  endif()
endforeach()
if(complaints)
  file(WRITE ${WORK_DIR}/messages.txt "${messages}")
  fail("${complaints}All that the compiler says is in ${WORK_DIR}/messages.txt")
endif()
list(LENGTH SOURCES count)
message(STATUS "${count} pairs of twins")
