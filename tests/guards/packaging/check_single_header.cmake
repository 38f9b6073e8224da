# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that the target dropbp_single_header writes a header that does not depend on the path of
# the sources, and that two linked files need nothing else. BUILD_DIR, INCLUDE_DIR, SCRIPT,
# COMPILER, FLAGS and WORK_DIR come from the command line; FAULT plants one.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR}/elsewhere ${WORK_DIR}/single_include)
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    fail("the single header does not work: ${ARGV}\n${output}")
  endif()
endfunction()

if(BUILD_DIR)
  run(${CMAKE_COMMAND} --build ${BUILD_DIR} --target dropbp_single_header)
  file(COPY ${BUILD_DIR}/single_include/dropbp.hpp DESTINATION ${WORK_DIR}/single_include)
else()
  run(${CMAKE_COMMAND} -DINCLUDE_DIR=${INCLUDE_DIR} -DOUTPUT=${WORK_DIR}/single_include/dropbp.hpp
    -P ${SCRIPT})
endif()
if(FAULT STREQUAL "other_bytes")
  file(APPEND ${WORK_DIR}/single_include/dropbp.hpp "// made today\n")
elseif(FAULT STREQUAL "a_missing_header")
  file(APPEND ${WORK_DIR}/single_include/dropbp.hpp "#include \"dropbp/kernels/matrix.hpp\"\n")
elseif(FAULT STREQUAL "a_second_definition")
  file(APPEND ${WORK_DIR}/single_include/dropbp.hpp "int forgot_inline() { return 0; }\n")
endif()

file(COPY ${INCLUDE_DIR} DESTINATION ${WORK_DIR}/elsewhere)
run(${CMAKE_COMMAND} -DINCLUDE_DIR=${WORK_DIR}/elsewhere/include
  -DOUTPUT=${WORK_DIR}/elsewhere/dropbp.hpp -P ${SCRIPT})
file(SHA256 ${WORK_DIR}/single_include/dropbp.hpp here)
file(SHA256 ${WORK_DIR}/elsewhere/dropbp.hpp there)
if(NOT here STREQUAL there AND NOT FAULT MATCHES "^a_")
  fail("the single header has other bytes when it is made again elsewhere")
endif()

separate_arguments(flags UNIX_COMMAND "${FLAGS}")
run(${COMPILER} -std=c++20 ${flags} -I ${WORK_DIR}/single_include
  ${CMAKE_CURRENT_LIST_DIR}/single_header/main.cpp
  ${CMAKE_CURRENT_LIST_DIR}/single_header/other.cpp -o ${WORK_DIR}/program)
run(${WORK_DIR}/program)
