# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# MODULE has at most MOST lines.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

file(READ ${MODULE} text)
string(REGEX MATCHALL "\n" ends "${text}")
list(LENGTH ends lines)
if(lines GREATER MOST)
  fail("${MODULE} has ${lines} lines, and at most ${MOST} are promised")
endif()
