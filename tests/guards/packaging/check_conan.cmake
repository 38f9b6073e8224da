# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# If Conan 2 is installed: packages the checkout with the recipe, and builds and runs its
# test_package, without the network. SOURCE_DIR, WORK_DIR, COMPILER, GENERATOR and VERSION come from
# the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

find_program(conan conan)
if(conan)
  execute_process(COMMAND ${conan} --version OUTPUT_VARIABLE said ERROR_VARIABLE said)
endif()
if(NOT conan OR NOT said MATCHES "version ([2-9]|[1-9][0-9])\\.")
  message(NOTICE "SKIPPED: Conan 2 is not installed")
  return()
endif()

# Conan writes beside test_package, so test_package is copied; Conan also gets its own home folder.
set(ENV{CONAN_HOME} ${WORK_DIR}/home)
set(ENV{CXX} ${COMPILER})
file(REMOVE_RECURSE ${WORK_DIR})
file(COPY ${SOURCE_DIR}/cmake/packaging/conan/test_package DESTINATION ${WORK_DIR})
set(detect profile detect)
set(create create ${SOURCE_DIR}/cmake/packaging/conan --test-folder=${WORK_DIR}/test_package
  --no-remote -s compiler.cppstd=20 -c tools.cmake.cmaketoolchain:generator=${GENERATOR})
foreach(step IN ITEMS detect create)
  execute_process(COMMAND ${conan} ${${step}} RESULT_VARIABLE status OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    fail("failed: conan ${${step}}\n${output}")
  endif()
endforeach()
if(NOT output MATCHES "dropbp/${VERSION}[ :]" OR NOT output MATCHES "branches kept")
  fail("the recipe packages another version, or its test did not run:\n${output}")
endif()
