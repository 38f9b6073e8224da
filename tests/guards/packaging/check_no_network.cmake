# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# In a network namespace without interfaces: the project is configured, and a first program of it
# and one of a consumer are built and run. COMPILER, GENERATOR, SOURCE_DIR and WORK_DIR come from
# the command line. FAULT=download: the consumer downloads something, which must be seen.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

find_program(unshare unshare)
set(alone ${unshare} --map-root-user --net)
if(unshare)
  execute_process(COMMAND ${alone} ${CMAKE_COMMAND} -E true RESULT_VARIABLE status
    ERROR_VARIABLE messages)
endif()
if(NOT unshare OR NOT status EQUAL 0)
  message(NOTICE "SKIPPED: this user may not make a network namespace: ${messages}")
  return()
endif()

file(REMOVE_RECURSE ${WORK_DIR})
set(consumer ${WORK_DIR}/consumer)
set(download "")
if(FAULT STREQUAL "download")
  # 192.0.2.1 is reserved for documentation; nothing answers there anyway.
  set(download "file(DOWNLOAD http://192.0.2.1/file \${CMAKE_BINARY_DIR}/file TIMEOUT 20 STATUS s)
    list(GET s 0 code)\nif(code)\nmessage(FATAL_ERROR \"no network: \${s}\")\nendif()\n")
endif()
file(WRITE ${consumer}/CMakeLists.txt "cmake_minimum_required(VERSION 3.22)
project(consumer LANGUAGES CXX)
${download}add_subdirectory(${SOURCE_DIR} dropbp)
add_executable(consumer main.cpp)
target_link_libraries(consumer PRIVATE dropbp::dropbp)\n")
file(WRITE ${consumer}/main.cpp "#include <dropbp/dropbp.hpp>
int main() { return dropbp::DropSchedule<>({1.0, 2.0}).plan(0).size() == 2 ? 0 : 1; }\n")

function(run)
  execute_process(COMMAND ${alone} ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    fail("without a network this must work: ${command}\n${output}")
  endif()
endfunction()

set(options -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER})
run(${CMAKE_COMMAND} -S ${consumer} -B ${consumer}/build ${options})
run(${CMAKE_COMMAND} --build ${consumer}/build)
run(${consumer}/build/consumer)
if(FAULT)
  return()
endif()
# All that the project looks for, tests, examples and benchmarks included.
run(${CMAKE_COMMAND} -S ${SOURCE_DIR} -B ${WORK_DIR}/project ${options})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/project --target quickstart)
run(${CMAKE_CTEST_COMMAND} --test-dir ${WORK_DIR}/project -R "^example\\.quickstart$"
  --no-tests=error)
