# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Reads MAJOR.MINOR.PATCH from version.hpp.
function(dropbp_read_version header result)
  file(READ "${header}" text)
  set(version "")
  foreach(part IN ITEMS MAJOR MINOR PATCH)
    if(NOT text MATCHES "#define DROPBP_VERSION_${part} ([0-9]+)")
      message(FATAL_ERROR "${header} must define DROPBP_VERSION_${part} as a number")
    endif()
    list(APPEND version ${CMAKE_MATCH_1})
  endforeach()
  list(JOIN version "." version)
  set(${result} ${version} PARENT_SCOPE)
endfunction()
