# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# CMake's own check of the core's headers, as a packager would run it. SOURCE_DIR, WORK_DIR,
# COMPILER and GENERATOR come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

find_program(found ${COMPILER})
if(NOT found)
  message(NOTICE "SKIPPED: ${COMPILER} is not installed")
  return()
endif()
if(CMAKE_VERSION VERSION_LESS 3.24)
  message(NOTICE "SKIPPED: CMake verifies header sets from 3.24 on")
  return()
endif()
file(REMOVE_RECURSE ${WORK_DIR})
set(configure -S ${SOURCE_DIR} -B ${WORK_DIR} -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER}
  -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0 -DCMAKE_VERIFY_INTERFACE_HEADER_SETS=ON
  -DDROPBP_BUILD_TESTS=OFF -DDROPBP_BUILD_EXAMPLES=OFF -DDROPBP_BUILD_BENCHMARKS=OFF
  -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON)
set(build --build ${WORK_DIR} --target all_verify_interface_header_sets)
foreach(arguments IN ITEMS configure build)
  execute_process(COMMAND ${CMAKE_COMMAND} ${${arguments}} RESULT_VARIABLE status
    OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    fail("the header sets do not verify with ${COMPILER}:\n${output}")
  endif()
endforeach()
# There must be one object per header, otherwise nothing was verified.
file(GLOB_RECURSE objects ${WORK_DIR}/*.hpp.cxx.o)
list(LENGTH objects count)
if(count LESS 20)
  fail("the header sets verify only ${count} headers with ${COMPILER}")
endif()
message(NOTICE "${count} headers verified with ${COMPILER}")
