# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# PROGRAM asks a plan that was never drawn, or checks a failure. It ends abnormally, prints no
# answer and says why.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

function(expect argument sentence)
  execute_process(COMMAND ${PROGRAM} ${argument} RESULT_VARIABLE status OUTPUT_VARIABLE output
    ERROR_VARIABLE messages)
  if(status EQUAL 0 OR output OR NOT messages MATCHES "^dropbp: ${sentence}")
    fail("a wrong ${argument} ends with ${status}, prints '${output}' and says:\n${messages}")
  endif()
endfunction()
expect(question "a plan must be drawn before")
expect(status "a schedule must not be a null pointer")
