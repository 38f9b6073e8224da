# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that the table of promises is right about a sample of test results. AWK, SOURCE_DIR (this
# folder) come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

execute_process(
  COMMAND ${AWK} -v form=quick -v format=text -v sightings=sightings -f ${SOURCE_DIR}/table.awk
    ${SOURCE_DIR}/sample/table.csv ${SOURCE_DIR}/sample/tests.xml
    ${SOURCE_DIR}/sample/fuzz/counts.csv
  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE messages)
file(READ ${SOURCE_DIR}/sample/table.txt expected)
if(NOT output STREQUAL expected)
  fail("the table of the sample is not sample/table.txt, but\n${output}${messages}")
endif()
file(STRINGS sightings sightings)
if(NOT sightings STREQUAL "12")
  fail("the planted fault of promise 12 alone is red, but sightings has ${sightings}")
endif()
if(NOT status EQUAL 1)
  fail("promises are not held, so the exit code must be 1, but it is ${status}")
endif()

# Every patch belongs to a promise, and every named one is there.
file(STRINGS ${SOURCE_DIR}/../promises.csv lines REGEX "^[0-9]")
list(LENGTH lines count)
if(NOT count EQUAL 24)
  fail("promises.csv must have 24 promises, but it has ${count} (or a bracket splits a line)")
endif()
file(READ ${SOURCE_DIR}/../promises.csv table)
file(GLOB patches ${SOURCE_DIR}/faults/*.patch)
foreach(patch IN LISTS patches)
  cmake_path(GET patch STEM name)
  string(FIND "${table}" ";${name};" at)
  if(at LESS 0)
    fail("promises.csv does not name the fault ${name}")
  endif()
endforeach()
string(REGEX MATCHALL ";[0-9][0-9]_[a-z0-9_]+;" names "${table}")
foreach(name IN LISTS names)
  string(REPLACE ";" "" name "${name}")
  if(name AND NOT EXISTS ${SOURCE_DIR}/faults/${name}.patch)
    fail("promises.csv names the fault ${name}, which is not in faults/")
  endif()
endforeach()
