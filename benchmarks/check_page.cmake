# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that PAGE contains the tables that PROGRAM prints.

execute_process(COMMAND ${PROGRAM} OUTPUT_VARIABLE tables ERROR_VARIABLE errors
  RESULT_VARIABLE result)
if(NOT result EQUAL 0 OR tables STREQUAL "")
  message(FATAL_ERROR
    "${PROGRAM} must print tables and succeed; it ended with ${result} and:\n${errors}")
endif()
file(READ ${PAGE} page)
string(FIND "${page}" "${tables}" found)
if(found EQUAL -1)
  message(FATAL_ERROR "${PAGE} must contain what the program prints now. Replace its tables "
    "by:\n${tables}")
endif()
