# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Makes the archive of the last commit twice, in another folder, time zone, language and mask of
# modes: the bytes are equal. It holds the committed files, no others, and the bill of materials
# names its checksum. SOURCE_DIR and WORK_DIR come from the command line; FAULT=time makes the two
# archives differ, FAULT=file adds one.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

find_program(git git)
find_program(bash bash)
find_program(gzip gzip)
find_program(sha256sum sha256sum)
if(NOT git OR NOT bash OR NOT gzip OR NOT sha256sum OR NOT EXISTS ${SOURCE_DIR}/.git)
  message(NOTICE "SKIPPED: it needs a git checkout, bash, gzip and sha256sum")
  return()
endif()
execute_process(COMMAND ${git} -C ${SOURCE_DIR} rev-parse HEAD RESULT_VARIABLE status
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_VARIABLE messages)
if(NOT status EQUAL 0)
  message(NOTICE "SKIPPED: git does not read this checkout: ${messages}")
  return()
endif()

file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})
# A clone with a working tree of its own; its history is that of the checkout.
execute_process(COMMAND ${git} clone --quiet --no-hardlinks --shared ${SOURCE_DIR} ${WORK_DIR}/clone
  RESULT_VARIABLE status ERROR_VARIABLE messages)
if(NOT status EQUAL 0)
  message(NOTICE "SKIPPED: git does not clone this checkout: ${messages}")
  return()
endif()
if(NOT EXISTS ${WORK_DIR}/clone/cmake/release.sh)
  message(NOTICE "SKIPPED: cmake/release.sh is not committed yet")
  return()
endif()
if(FAULT)
  file(READ ${WORK_DIR}/clone/cmake/release.sh script)
  if(FAULT STREQUAL "time")
    string(REPLACE "gzip -n -9" "(date +%N; cat) | gzip -n -9" script "${script}")
  else()
    string(REPLACE "archive --format=tar" "archive --add-file=/etc/hostname --format=tar" script
      "${script}")
  endif()
  file(WRITE ${WORK_DIR}/clone/cmake/release.sh "${script}")
endif()
execute_process(COMMAND ${bash} -c "umask 022; cmake/release.sh '${WORK_DIR}/first'"
  WORKING_DIRECTORY ${WORK_DIR}/clone COMMAND_ERROR_IS_FATAL ANY OUTPUT_QUIET)
execute_process(COMMAND ${CMAKE_COMMAND} -E env TZ=Asia/Tokyo LC_ALL=C.UTF-8
  ${bash} -c "umask 077; sleep 1.1; '${WORK_DIR}/clone/cmake/release.sh' --commit ${commit} second"
  WORKING_DIRECTORY ${WORK_DIR} COMMAND_ERROR_IS_FATAL ANY OUTPUT_QUIET)

file(GLOB names RELATIVE ${WORK_DIR}/first ${WORK_DIR}/first/*)
list(LENGTH names count)
if(NOT count EQUAL 3)
  fail("a release must have three files, but has ${names}")
endif()
foreach(name IN LISTS names)
  execute_process(COMMAND ${CMAKE_COMMAND} -E compare_files ${WORK_DIR}/first/${name}
    ${WORK_DIR}/second/${name} RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
  if(NOT status EQUAL 0)
    fail("${name} has other bytes when it is made again")
  endif()
endforeach()

list(FILTER names INCLUDE REGEX "\\.tar\\.gz$")
string(REPLACE ".tar.gz" "" name ${names})
execute_process(COMMAND ${CMAKE_COMMAND} -E tar tzf ${WORK_DIR}/first/${names}
  OUTPUT_VARIABLE inside COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${git} -C ${WORK_DIR}/clone ls-tree -r --name-only HEAD
  OUTPUT_VARIABLE committed COMMAND_ERROR_IS_FATAL ANY)
string(REGEX REPLACE "[^\n]*/\n" "" inside "${inside}")  # folders
string(REPLACE "${name}/" "" inside "${inside}")
string(REGEX MATCHALL "[^\n]+" inside "${inside}")
string(REGEX MATCHALL "[^\n]+" committed "${committed}")
list(SORT inside)
list(SORT committed)
if(NOT inside STREQUAL committed)
  list(REMOVE_ITEM inside ${committed})
  fail("the archive must hold the committed files and no others, such as ${inside}")
endif()

file(READ ${WORK_DIR}/first/${name}.spdx.json json)
file(SHA256 ${WORK_DIR}/first/${name}.tar.gz sum)
string(JSON listed GET "${json}" packages 0 checksums 0 checksumValue)
if(NOT listed STREQUAL sum)
  fail("the bill of materials must have the archive's checksum ${sum}, but has ${listed}")
endif()
string(JSON packages LENGTH "${json}" packages)
string(JSON relations LENGTH "${json}" relationships)
if(NOT packages EQUAL relations)
  fail("each of the ${packages} packages must have one relationship, but there are ${relations}")
endif()
