# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# tracked_files(DIRECTORY RESULT): the files that git tracks or would add, relative to DIRECTORY;
# without git, all but those in build/.
function(tracked_files directory result)
  find_program(git git)
  set(status 1)
  if(git AND EXISTS ${directory}/.git)
    execute_process(WORKING_DIRECTORY ${directory} RESULT_VARIABLE status OUTPUT_VARIABLE output
      COMMAND ${git} ls-files --cached --others --exclude-standard ERROR_QUIET)
  endif()
  set(files "")
  if(status EQUAL 0)
    string(REGEX REPLACE "\n$" "" output "${output}")
    string(REPLACE "\n" ";" names "${output}")
    foreach(name IN LISTS names)
      if(EXISTS ${directory}/${name})  # a file may be deleted and still be tracked
        list(APPEND files ${name})
      endif()
    endforeach()
  else()
    file(GLOB_RECURSE files RELATIVE ${directory} ${directory}/*)
    list(FILTER files EXCLUDE REGEX "^build/|__pycache__")
  endif()
  set(${result} "${files}" PARENT_SCOPE)
endfunction()
