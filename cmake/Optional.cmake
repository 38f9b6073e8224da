# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Optional libraries of examples, tests and benchmarks: a target for each library that is found, and
# a skipped test for each that is not.

# Adds a skipped test to ctest's summary, in place of tests that are left out.
function(dropbp_add_skipped_test name label why)
  add_test(NAME ${name} COMMAND ${CMAKE_COMMAND} -E echo "SKIPPED: ${why}")
  set_tests_properties(${name} PROPERTIES LABELS ${label} SKIP_REGULAR_EXPRESSION "^SKIPPED:")
endfunction()

find_path(DROPBP_PCRE2_INCLUDE_DIR pcre2.h)
find_library(DROPBP_PCRE2_LIBRARY pcre2-8)
mark_as_advanced(DROPBP_PCRE2_INCLUDE_DIR DROPBP_PCRE2_LIBRARY)
if(DROPBP_PCRE2_INCLUDE_DIR AND DROPBP_PCRE2_LIBRARY AND NOT TARGET dropbp_pcre2)
  add_library(dropbp_pcre2 INTERFACE)
  if(NOT DROPBP_PCRE2_INCLUDE_DIR STREQUAL "/usr/include")
    target_include_directories(dropbp_pcre2 SYSTEM INTERFACE ${DROPBP_PCRE2_INCLUDE_DIR})
  endif()
  target_link_libraries(dropbp_pcre2 INTERFACE ${DROPBP_PCRE2_LIBRARY})
endif()

find_path(DROPBP_UTF8PROC_INCLUDE_DIR utf8proc.h)
find_library(DROPBP_UTF8PROC_LIBRARY utf8proc)
mark_as_advanced(DROPBP_UTF8PROC_INCLUDE_DIR DROPBP_UTF8PROC_LIBRARY)
if(DROPBP_UTF8PROC_INCLUDE_DIR AND DROPBP_UTF8PROC_LIBRARY AND NOT TARGET dropbp_utf8proc)
  add_library(dropbp_utf8proc INTERFACE)
  if(NOT DROPBP_UTF8PROC_INCLUDE_DIR STREQUAL "/usr/include")
    target_include_directories(dropbp_utf8proc SYSTEM INTERFACE ${DROPBP_UTF8PROC_INCLUDE_DIR})
  endif()
  target_link_libraries(dropbp_utf8proc INTERFACE ${DROPBP_UTF8PROC_LIBRARY})
endif()

find_package(Armadillo QUIET)
if(ARMADILLO_FOUND AND NOT TARGET dropbp_armadillo)
  add_library(dropbp_armadillo INTERFACE)
  # Do not pass the compiler's own directories: <cstdlib> would no longer find <stdlib.h>.
  set(dropbp_armadillo_include_dirs ${ARMADILLO_INCLUDE_DIRS})
  if(dropbp_armadillo_include_dirs)
    list(REMOVE_ITEM dropbp_armadillo_include_dirs ${CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES}
      /usr/include)
  endif()
  target_include_directories(dropbp_armadillo SYSTEM INTERFACE ${dropbp_armadillo_include_dirs})
  target_link_libraries(dropbp_armadillo INTERFACE ${ARMADILLO_LIBRARIES})
endif()
