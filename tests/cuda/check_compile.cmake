# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Compiles the kernels of SOURCE for each of ARCHITECTURES (with | between). What makes them slow is
# an error: registers spilled to memory, arrays in local memory, arithmetic in double. Prints the
# number of kernels, and leaves their PTX in WORK_DIR. If DROPBP_COMPILED is set in the environment,
# appends a line with their number to that file. NVCC, INCLUDE_DIR and DEFINE (flags of the
# preprocessor, with | between) come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

string(REPLACE "|" ";" ARCHITECTURES "${ARCHITECTURES}")
string(REPLACE "|" ";" DEFINE "${DEFINE}")
set(targets "")
foreach(architecture IN LISTS ARCHITECTURES)
  list(APPEND targets -gencode arch=compute_${architecture},code=sm_${architecture})
endforeach()
file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})
# The PTX is kept for the tests cuda-ptx.
execute_process(
  COMMAND ${NVCC} -std=c++20 -fatbin ${targets} -I ${INCLUDE_DIR} ${DEFINE}
  --keep --keep-dir ${WORK_DIR} -o ${WORK_DIR}/kernels.fatbin
    -Werror all-warnings -Xptxas -v,-warn-spills,-warn-lmem-usage,-warn-double-usage,-Werror
    ${SOURCE}
  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT status EQUAL 0)
  string(REGEX REPLACE "(ptxas info[^\n]*| *[0-9]+ bytes stack frame[^\n]*)\n" "" output
    "${output}")
  list(JOIN ARCHITECTURES ", sm_" text)
  fail("the kernels do not compile for sm_${text}:\n${output}")
endif()
file(GLOB leftovers ${WORK_DIR}/*.ii ${WORK_DIR}/*.gpu ${WORK_DIR}/*.c ${WORK_DIR}/*.cpp
  ${WORK_DIR}/*.cubin)
if(leftovers)
  file(REMOVE ${leftovers})  # tens of megabytes
endif()

set(most_registers 0)
string(REGEX MATCHALL "Used [0-9]+ registers" lines "${output}")
foreach(line IN LISTS lines)
  string(REGEX REPLACE "[^0-9]" "" registers "${line}")
  if(registers GREATER most_registers)
    set(most_registers ${registers})
  endif()
endforeach()
set(count "")
foreach(architecture IN LISTS ARCHITECTURES)
  string(REGEX MATCHALL "Compiling entry function '[^']*' for 'sm_${architecture}'" entries
    "${output}")
  list(LENGTH entries here)
  if(here LESS 1)
    fail("no kernel was compiled for sm_${architecture}")
  endif()
  if(count AND NOT here EQUAL count)
    fail("${here} kernels were compiled for sm_${architecture}, but ${count} for another "
      "architecture")
  endif()
  set(count ${here})
endforeach()
list(JOIN ARCHITECTURES ", sm_" text)
if(DEFINED ENV{DROPBP_COMPILED})
  file(APPEND $ENV{DROPBP_COMPILED} "${count} ${DEFINE}\n")
endif()
message(NOTICE
  "${count} kernels compiled for each of sm_${text}; none spills; at most ${most_registers} "
  "registers")
