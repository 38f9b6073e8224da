# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# The program SOURCE in another language, built or run by TOOL with LIBRARY, prints what REFERENCE
# prints. WORK_DIR comes from the command line too.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

cmake_path(GET LIBRARY PARENT_PATH folder)
set(ENV{LD_LIBRARY_PATH} ${folder})
set(ENV{DROPBP_LIBRARY} ${LIBRARY})
set(program ${TOOL} ${SOURCE})
if(SOURCE MATCHES "\\.rs$")
  set(program ${WORK_DIR}/plan_in_rust)
  execute_process(COMMAND ${TOOL} ${SOURCE} -D warnings -L native=${folder} -l dylib=dropbp
    -o ${program} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    fail("${SOURCE} does not compile:\n${output}")
  endif()
endif()
execute_process(COMMAND ${program} OUTPUT_VARIABLE output RESULT_VARIABLE status)
execute_process(COMMAND ${REFERENCE} OUTPUT_VARIABLE expected RESULT_VARIABLE other)
if(NOT status EQUAL 0 OR NOT other EQUAL 0 OR NOT output STREQUAL expected OR expected STREQUAL "")
  fail("${SOURCE} ends with ${status} and prints\n${output}instead of\n${expected}")
endif()
