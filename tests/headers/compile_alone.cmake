# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Compiles a file of one header included twice. COMPILER, HEADER, INCLUDE_DIR, THIRD_PARTY (include
# directories with | between), FLAGS and WORK_DIR come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

cmake_path(GET COMPILER FILENAME label)
string(MAKE_C_IDENTIFIER "${label}_${HEADER}" stem)
set(source ${WORK_DIR}/${stem}.cpp)
separate_arguments(flags UNIX_COMMAND "${FLAGS}")
string(REPLACE "|" ";" THIRD_PARTY "${THIRD_PARTY}")
set(system "")
foreach(directory IN LISTS THIRD_PARTY)
  list(APPEND system -isystem ${directory})
endforeach()
set(compile ${COMPILER} -std=c++20 -fsyntax-only -I ${INCLUDE_DIR} ${system})

# An interop header is judged only where the library it joins to is installed.
if(HEADER MATCHES "^dropbp/interop/")
  file(STRINGS ${INCLUDE_DIR}/${HEADER} lines REGEX "^[ \t]*#[ \t]*include[ \t]*<")
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "^[^<]*<([^>]+)>.*$" "\\1" wanted "${line}")
    file(WRITE ${source} "#if !__has_include(<${wanted}>)\n#error missing\n#endif\n")
    execute_process(COMMAND ${compile} ${source} RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
    if(NOT status EQUAL 0)
      message(NOTICE "SKIPPED: ${HEADER} needs <${wanted}>, which is not installed")
      return()
    endif()
  endforeach()
  # Nor where that library's own headers do not compile: those of libtorch 1.13 do not with clang++ in C++20.
  list(JOIN lines "\n" lines)
  file(WRITE ${source} "${lines}\n")
  execute_process(COMMAND ${compile} ${source} RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
  if(NOT status EQUAL 0)
    message(NOTICE "SKIPPED: what ${HEADER} includes from elsewhere does not compile with ${label} in C++20")
    return()
  endif()
endif()

file(WRITE ${source} "#include \"${HEADER}\"\n#include \"${HEADER}\"\n")
execute_process(COMMAND ${compile} ${flags} ${source} RESULT_VARIABLE status ERROR_VARIABLE messages)
if(NOT status EQUAL 0)
  fail("${HEADER} does not compile alone and twice with ${label}:\n${messages}")
endif()
