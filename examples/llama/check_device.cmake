# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# --device cuda trains where there is a card, and prints the table of its result. Elsewhere it ends
# with exit code 1 and one sentence on standard error, whether the program was built with CUDA or
# not. PROGRAM comes from the command line.

execute_process(COMMAND ${PROGRAM} --device cuda --steps 1 --layers 1 --hidden 32 --heads 2
  --intermediate 32 --batch 1 --sequence 16
  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE error)
string(STRIP "${error}" error)
if(status EQUAL 0 AND output MATCHES "drop rate 0.5 +[0-9]+\\.[0-9]+ ")
  message(STATUS "trained on a card")
elseif(status EQUAL 1 AND output STREQUAL "" AND NOT error MATCHES "\n"
  AND error MATCHES "^llama-finetune: .*(CUDA|cuda)")
  message(STATUS "${error}")
else()
  message(FATAL_ERROR
    "--device cuda must train, or without a card print one sentence on standard error and exit "
    "with 1, but it exited "
    "with ${status} and printed '${output}' and '${error}'")
endif()
