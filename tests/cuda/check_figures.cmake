# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Holds what the compiler made of the kernels that take the most time: registers of a thread, which
# limit the blocks of a multiprocessor, and instructions. SOURCE is compiled for sm_90; an
# instruction has 16 bytes there, so that READELF sees their number in the size of a section. Also
# no store may be a strong one (st.global.wb), the gate of SwiGLU must divide and raise e in the
# approximate way, and attention must read shared memory as its table says. NVCC, INCLUDE_DIR,
# SOURCE and WORK_DIR come from the command line; PLANT, for the test of this test, lowers all
# limits.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

# Kernel, most registers, instructions with nvcc 13.0.88. The limit of instructions is 5 % above,
# because a patch of nvcc may change some; an exact exp in SwiGLU adds 22 % or more, an exact
# division 52 %. Where registers may be 64, the kernel's launch bounds allow no more.
set(margin_percent 5)
set(limits
  "SwigluForwardMap 64 464"
  "SwigluBackwardMap 64 688"
  "NormForward.*Lb0ELb0E 64 936"
  "NormForward.*Lb0ELb1E 64 1224"
  "NormBackward 84 1640"             # three blocks of 256 threads have 85
  "Fp8Quantize 64 816"
  "AttentionForwardMmaILj64E 248 2152"  # two blocks of 128 threads have 255
  "AttentionForwardMmaILj128E 248 2256"
  "AttentionBackwardQueriesMmaILj64E 252 1704"
  "AttentionBackwardQueriesMmaILj128E 232 1672"
  "AttentionBackwardKeysMmaILj64E 255 1736"
  "AttentionBackwardKeysMmaILj128E 255 1736")

# Kernel, matrix products, most loads of four matrices, most loads of less than 16 bytes from shared
# memory. The bandwidth of shared memory limits attention.
set(shared_limits
  "AttentionForwardMmaILj64E 128 40 0"
  "AttentionForwardMmaILj128E 128 48 0"
  "AttentionBackwardQueriesMmaILj64E 96 40 0"
  "AttentionBackwardQueriesMmaILj128E 96 64 0"
  "AttentionBackwardKeysMmaILj64E 64 32 8"  # the statistics of 4 queries
  "AttentionBackwardKeysMmaILj128E 64 48 8")

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
  math(EXPR most_instructions "${most_instructions} * (100 + ${margin_percent}) / 100")
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
set(kernels "")
foreach(file IN LISTS ptx)
  file(STRINGS ${file} lines
    REGEX "\\.entry|st\\.global\\.(wb|cg)|div\\.|ex2\\.|mma\\.sync|ldmatrix|ld\\.shared")
  foreach(line IN LISTS lines)
    if(line MATCHES "\\.entry ([A-Za-z0-9_$]+)")
      set(kernel ${CMAKE_MATCH_1})
      set(products_${kernel} 0)
      set(matrices_${kernel} 0)
      set(narrow_${kernel} 0)
      list(APPEND kernels ${kernel})
    elseif(line MATCHES "mma\\.sync")
      math(EXPR products_${kernel} "${products_${kernel}} + 1")
    elseif(line MATCHES "ldmatrix")
      math(EXPR matrices_${kernel} "${matrices_${kernel}} + 1")
    elseif(line MATCHES "ld\\.shared")
      if(NOT line MATCHES "\\.v4\\.")
        math(EXPR narrow_${kernel} "${narrow_${kernel}} + 1")
      endif()
    elseif(line MATCHES "st\\.global\\.(wb|cg)")
      list(APPEND faults "${kernel} has a strong store: ${line}")
    elseif(kernel MATCHES "Swiglu" AND line MATCHES "div\\.(rn|full)")
      list(APPEND faults "${kernel} divides exactly: ${line}")
    elseif(kernel MATCHES "Swiglu")
      math(EXPR gates "${gates} + 1")
    endif()
  endforeach()
endforeach()
foreach(limit IN LISTS shared_limits)
  string(REPLACE " " ";" limit "${limit}")
  list(GET limit 0 name)
  list(GET limit 1 products)
  list(GET limit 2 most_matrices)
  list(GET limit 3 most_narrow)
  if(PLANT)
    math(EXPR most_matrices "${most_matrices} - ${PLANT}")
  endif()
  set(kernel ${kernels})
  list(FILTER kernel INCLUDE REGEX "${name}")
  list(LENGTH kernel count)
  if(NOT count EQUAL 1)
    fail("there are ${count} kernels ${name}")
  endif()
  string(CONCAT figures "${products_${kernel}} products, ${matrices_${kernel}} loads of matrices "
    "and ${narrow_${kernel}} narrow loads from shared memory")
  string(APPEND table "\n  ${name}: ${figures}")
  if(NOT products_${kernel} EQUAL products OR matrices_${kernel} GREATER most_matrices
      OR narrow_${kernel} GREATER most_narrow)
    list(APPEND faults
      "${name} has ${figures}, but may have ${products}, ${most_matrices} and ${most_narrow}")
  endif()
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
