# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Included by the scripts that ctest runs: the policies of the project, and an error whose text is
# not wrapped.
cmake_policy(VERSION 3.22)

function(fail)
  list(JOIN ARGN "" text)
  message(NOTICE "${text}")
  message(FATAL_ERROR "this check failed")
endfunction()
