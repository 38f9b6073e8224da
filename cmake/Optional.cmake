# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Libraries that only examples and tests of the interop headers use: a target each where they are found.

find_package(Armadillo QUIET)
if(ARMADILLO_FOUND AND NOT TARGET dropbp_armadillo)
  add_library(dropbp_armadillo INTERFACE)
  # A compiler's own directories must not be named again: <cstdlib> would no longer find <stdlib.h>.
  set(dropbp_armadillo_include_dirs ${ARMADILLO_INCLUDE_DIRS})
  if(dropbp_armadillo_include_dirs)
    list(REMOVE_ITEM dropbp_armadillo_include_dirs ${CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES} /usr/include)
  endif()
  target_include_directories(dropbp_armadillo SYSTEM INTERFACE ${dropbp_armadillo_include_dirs})
  target_link_libraries(dropbp_armadillo INTERFACE ${ARMADILLO_LIBRARIES})
endif()
