# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that llama-finetune and llama-generate have every option that PAGE gives them in a command
# ("$ llama-finetune --model ..."). PAGE, FINETUNE and GENERATE (the programs) come from the command
# line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

file(READ ${PAGE} text)
cmake_path(GET PAGE FILENAME page)
string(REPLACE "\\\n" " " text "${text}")  # a command may have several lines
string(REGEX REPLACE "[][;]" " " text "${text}")
set(count 0)
foreach(program IN ITEMS finetune generate)
  string(TOUPPER ${program} variable)
  execute_process(COMMAND ${${variable}} --help OUTPUT_VARIABLE help COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "\n\\$ ([a-zA-Z_./]*/)?llama-${program} [^\n]*" commands "${text}")
  foreach(command IN LISTS commands)
    string(REGEX REPLACE "[|<>&].*" "" command "${command}")  # what another program gets
    string(REGEX REPLACE "'[^']*'" "" command "${command}")
    string(REGEX MATCHALL " --[a-z0-9-]+" options "${command} ")
    foreach(option IN LISTS options)
      math(EXPR count "${count} + 1")
      if(NOT help MATCHES "${option}[ ,\n]")
        fail("${page} gives llama-${program} the option${option}, which it does not have")
      endif()
    endforeach()
  endforeach()
endforeach()
message(NOTICE "${count} options are there")
