# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Compiles all cases in SOURCES (separated by |): the correct twins in one run of the compiler and
# the wrong ones in another, because nearly all of the time goes into the headers. COMPILER,
# INCLUDE_DIR, THIRD_PARTY (include directories with | between), FLAGS and WORK_DIR come from the
# command line too. CMakeLists.txt says what a case is.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

string(REPLACE "|" ";" SOURCES "${SOURCES}")
string(REPLACE "|" ";" THIRD_PARTY "${THIRD_PARTY}")
separate_arguments(flags UNIX_COMMAND "${FLAGS}")
foreach(directory IN LISTS THIRD_PARTY)
  list(APPEND flags -isystem ${directory})
endforeach()

# Sets `result` to the lines of `text`, without the characters that are special in lists.
function(split_lines result text)
  string(REGEX REPLACE "[][;\\\\]" " " text "${text}")
  string(REPLACE "\n" ";" text "${text}")
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

# -- the cases: `cases`, and of each expected_CASE and place_CASE; case_FILE_LINE for each line ----

set(form "a case must open with '// expect: dropbp: SENTENCE' and, right below, 'namespace NAME {'")
set(cases "")
set(includes "")
foreach(source IN LISTS SOURCES)
  string(APPEND includes "#include \"${source}\"\n")
  cmake_path(GET source STEM LAST_ONLY file)
  file(READ ${source} text)
  split_lines(lines "${text}")
  set(number 0)
  set(case "")
  set(expected "")  # not empty between `expect` and `namespace`
  foreach(line IN LISTS lines)
    math(EXPR number "${number} + 1")
    if(line MATCHES "^// expect: (.*)$")
      set(expected "${CMAKE_MATCH_1}")
      if(NOT expected MATCHES "^dropbp: .")
        fail("${source}:${number}: ${form}")
      endif()
    elseif(line MATCHES "^namespace ([A-Za-z0-9_]+) {")
      if(expected)
        set(case ${CMAKE_MATCH_1})
        if(case IN_LIST cases)
          fail("${source}:${number}: there is another case ${case}; give this one its own name")
        endif()
        list(APPEND cases ${case})
        set(expected_${case} "${expected}")
        set(place_${case} ${source}:${number})
        set(expected "")
      elseif(NOT case STREQUAL CMAKE_MATCH_1)
        fail("${source}:${number}: ${form}")
      endif()
    elseif(expected AND line MATCHES "^//( .+)$")
      string(APPEND expected "${CMAKE_MATCH_1}")
    elseif(expected)
      fail("${source}:${number}: ${form}")
    endif()
    set(case_${file}_${number} ${case})
  endforeach()
  if(NOT case OR expected)
    fail("${source}:${number}: ${form}")
  endif()
endforeach()
set(all ${WORK_DIR}/twins.cc)
file(WRITE ${all} "${includes}")

# -- what the compiler says -----------------------------------------------------------------------

function(compile)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env LC_ALL=C ${COMPILER} -std=c++20 -fsyntax-only -I ${INCLUDE_DIR}
      ${flags} ${ARGN} ${all}
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

# Finds the case of an error: the one that contains it or whose call has led to it. g++ prints the
# calls before the error, clang++ in notes after it.
split_lines(lines "${messages}")
set(context "")
set(error "")
foreach(line IN LISTS lines)
  set(case "")
  if(line MATCHES "([A-Za-z0-9_]+)\\.cpp:([0-9]+)")
    set(case "${case_${CMAKE_MATCH_1}_${CMAKE_MATCH_2}}")
  endif()
  if(line MATCHES ":[0-9]+:[0-9]+: (fatal )?error: (.*)")
    set(error "${CMAKE_MATCH_2}")
    if(NOT case)
      set(case "${context}")
    endif()
    set(context "")
  elseif(case AND NOT line MATCHES ": note: ")
    set(context ${case})
    continue()
  endif()
  if(case AND error)
    if(NOT DEFINED said_${case})
      set(said_${case} "${error}")
    endif()
    set(error "")
  endif()
endforeach()

set(complaints "")
foreach(case IN LISTS cases)
  if(NOT DEFINED said_${case})
    string(APPEND complaints
      "${place_${case}}: ${case} with DROPBP_TEST_WRONG compiles, but must not\n")
    continue()
  endif()
  string(FIND "${said_${case}}" "${expected_${case}}" at)
  if(at EQUAL -1)
    string(APPEND complaints
      "${place_${case}}: ${case} with DROPBP_TEST_WRONG fails, but says first\n"
      "  ${said_${case}}\nand not\n  ${expected_${case}}\n")
  endif()
endforeach()
if(complaints)
  file(WRITE ${WORK_DIR}/messages.txt "${messages}")
  fail("${complaints}All that the compiler says is in ${WORK_DIR}/messages.txt")
endif()
list(LENGTH cases count)
execute_process(COMMAND ${CMAKE_COMMAND} -E echo "promise 20: least_pairs=${count}")
