# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# An interop header is checked only if its library is installed; otherwise the calling script prints
# that and ends. `source` is a file that may be overwritten; the compiler and its flags follow.
macro(skip_without_library include_dir header source)
  if("${header}" MATCHES "^dropbp/interop/")
    file(STRINGS ${include_dir}/${header} lines REGEX "^[ \t]*#[ \t]*include[ \t]*<")
    foreach(line IN LISTS lines)
      string(REGEX REPLACE "^[^<]*<([^>]+)>.*$" "\\1" wanted "${line}")
      file(WRITE ${source} "#if !__has_include(<${wanted}>)\n#error missing\n#endif\n")
      execute_process(COMMAND ${ARGN} ${source} RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
      if(NOT status EQUAL 0)
        message(NOTICE "SKIPPED: ${header} needs <${wanted}>, which is not installed")
        return()
      endif()
    endforeach()
  endif()
endmacro()
