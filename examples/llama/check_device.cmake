# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# --device cuda trains where there is a card. Elsewhere it ends with exit code 1 and one sentence on standard error, whether the program
# was built with CUDA or not. PROGRAM comes from the command line.

execute_process(COMMAND ${PROGRAM} --device cuda --steps 1 --layers 1 --hidden 32 --heads 2 --intermediate 32 --batch 1 --sequence 16
  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE error)
if(status EQUAL 0)
  message(STATUS "trained on a card")
  return()
endif()
string(STRIP "${error}" error)
if(NOT status EQUAL 1 OR NOT output STREQUAL "" OR error MATCHES "\n" OR NOT error MATCHES "^llama-finetune: .*(CUDA|cuda)")
  message(FATAL_ERROR "--device cuda without a card must print one sentence on standard error and exit with 1, but it exited with "
    "${status} and printed '${output}' and '${error}'")
endif()
message(STATUS "${error}")
