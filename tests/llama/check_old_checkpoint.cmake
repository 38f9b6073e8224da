# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that PROGRAM resumes from the checkpoint in FOLDER, which a released version has written,
# and ends with the loss of that version's run. FOLDER and WORK_DIR come from the command line too.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

file(REMOVE_RECURSE ${WORK_DIR})
file(COPY ${FOLDER}/ DESTINATION ${WORK_DIR}/checkpoint FILES_MATCHING PATTERN "*.safetensors")
file(COPY ${FOLDER}/../text DESTINATION ${WORK_DIR})
file(READ ${FOLDER}/flags flags)
file(READ ${FOLDER}/loss loss)
string(STRIP "${loss}" loss)
separate_arguments(flags UNIX_COMMAND "${flags}")
execute_process(COMMAND ${PROGRAM} ${flags} --checkpoint checkpoint --resume --progress never
  WORKING_DIRECTORY ${WORK_DIR} RESULT_VARIABLE status OUTPUT_VARIABLE output
  ERROR_VARIABLE output)
if(NOT status EQUAL 0 OR NOT output MATCHES "resumed after step 2")
  fail("the checkpoint of ${FOLDER} must be resumed after step 2:\n${output}")
endif()
# Four digits are printed; the processor's instructions may change the last one.
string(REGEX MATCH "step 4/4 +loss ([0-9])\\.([0-9]+)" whole "${output}")
set(found ${CMAKE_MATCH_1}${CMAKE_MATCH_2})
string(REPLACE "." "" wanted "${loss}")
math(EXPR difference "${found} - ${wanted}")
if(difference LESS -1 OR difference GREATER 1)
  fail("the loss after step 4 must be ${loss}:\n${output}")
endif()
