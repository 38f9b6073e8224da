# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Holds what the compiler made of the kernels that take the most time: registers of a thread, which
# limit the blocks of a multiprocessor, and instructions. SOURCE is compiled for sm_90; an
# instruction has 16 bytes there, so that READELF sees their number in the size of a section. Also
# no store may be a strong one (st.global.wb), and the gate of SwiGLU must divide and raise e in the
# approximate way. NVCC, INCLUDE_DIR, SOURCE and WORK_DIR come from the command line; PLANT, for the
# test of this test, lowers all limits.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

# Kernel, most registers, most instructions, a little above those of nvcc 13.0.
set(limits
  "SwigluForwardMap 64 464"
  "SwigluBackwardMap 64 688"
  "NormForward.*Lb0ELb0E 64 960"
  "NormForward.*Lb0ELb1E 64 1248"
  "NormBackward 84 1680"             # three blocks of 256 threads have 85
  "AttentionForwardMma 168 4400"     # three blocks of 128 threads have 170
  "AttentionBackwardQueriesMma 168 3600")

execute_process(COMMAND ${NVCC} --version OUTPUT_VARIABLE version)
if(NOT version MATCHES "release 13\\.")
  message(NOTICE "skipped: the figures are those of nvcc 13")
  return()
endif()
file(MAKE_DIRECTORY ${WORK_DIR})
execute_process(
  COMMAND ${NVCC} -std=c++20 -arch=sm_90 -cubin -I ${INCLUDE_DIR} --keep --keep-dir ${WORK_DIR}
    -Xptxas -v -o ${WORK_DIR}/figures.cubin ${SOURCE}
  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT status EQUAL 0)
  fail("the kernels do not compile:\n${output}")
endif()
execute_process(COMMAND ${READELF} -SW ${WORK_DIR}/figures.cubin
  RESULT_VARIABLE status OUTPUT_VARIABLE sections ERROR_QUIET)
if(NOT status EQUAL 0)
  fail("${READELF} does not read the cubin")
endif()
string(REPLACE ";" "," output "${output}")
string(REPLACE "\n" ";" output "${output}")
string(REGEX REPLACE "[][;]" " " sections "${sections}")
string(REPLACE "\n" ";" sections "${sections}")

set(faults "")
set(table "")
foreach(limit IN LISTS limits)
  string(REPLACE " " ";" limit "${limit}")
  list(GET limit 0 kernel)
  list(GET limit 1 most_registers)
  list(GET limit 2 most_instructions)
  if(PLANT)
    math(EXPR most_registers "${most_registers} - ${PLANT}")
    math(EXPR most_instructions "${most_instructions} - 40 * ${PLANT}")
  endif()
  set(registers "")
  set(here FALSE)
  foreach(line IN LISTS output)
    if(line MATCHES "Compiling entry function '([^']*)'")
      string(REGEX MATCH "${kernel}" here "${CMAKE_MATCH_1}")
    elseif(here AND line MATCHES "Used ([0-9]+) registers")
      set(registers ${CMAKE_MATCH_1})
    endif()
  endforeach()
  set(instructions "")
  foreach(line IN LISTS sections)
    if(line MATCHES "\\.text\\.[^ ]*${kernel}[^ ]* +PROGBITS +[0-9a-f]+ [0-9a-f]+ ([0-9a-f]+)")
      math(EXPR instructions "0x${CMAKE_MATCH_1} / 16")
    endif()
  endforeach()
  if(NOT registers OR NOT instructions)
    fail("there is no kernel ${kernel}, or no figure of it")
  endif()
  string(APPEND table "\n  ${kernel}: ${registers} registers, ${instructions} instructions")
  if(registers GREATER most_registers OR instructions GREATER most_instructions)
    string(CONCAT fault "${kernel} has ${registers} registers and ${instructions} instructions, "
      "but may have ${most_registers} and ${most_instructions}")
    list(APPEND faults "${fault}")
  endif()
endforeach()

file(GLOB ptx ${WORK_DIR}/*.ptx)
set(kernel "")
set(gates 0)
foreach(file IN LISTS ptx)
  file(STRINGS ${file} lines REGEX "\\.entry|st\\.global\\.(wb|cg)|div\\.|ex2\\.")
  foreach(line IN LISTS lines)
    if(line MATCHES "\\.entry ([A-Za-z0-9_$]+)")
      set(kernel ${CMAKE_MATCH_1})
    elseif(line MATCHES "st\\.global\\.(wb|cg)")
      list(APPEND faults "${kernel} has a strong store: ${line}")
    elseif(kernel MATCHES "Swiglu" AND line MATCHES "div\\.(rn|full)")
      list(APPEND faults "${kernel} divides exactly: ${line}")
    elseif(kernel MATCHES "Swiglu")
      math(EXPR gates "${gates} + 1")
    endif()
  endforeach()
endforeach()
if(NOT ptx OR gates LESS 1)
  fail("no approximate operation of SwiGLU was found in the PTX at ${WORK_DIR}")
endif()
if(faults)
  list(REMOVE_DUPLICATES faults)
  list(JOIN faults "\n" faults)
  fail("${faults}")
endif()
message(NOTICE "the figures of sm_90 are within their limits:${table}")
