# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Trains 500 and 5,000 steps with PROGRAM, with checkpoints and validations, of which each may open
# at most 16 files at once. The longer run needs at most 800 bytes a step more at its peak: it keeps
# a record of each step, and a checkpoint holds all of them as text. MEASURE is the program
# measure_child; WORK_DIR and TEXT come from the command line. With FAULT the longer run has a wider
# model, which must be seen.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

set(descriptors 16)
file(REMOVE_RECURSE ${WORK_DIR})
foreach(steps IN ITEMS 500 5000)
  set(size --steps ${steps} --hidden 16)
  if(FAULT AND steps EQUAL 5000)
    set(size --steps 200 --hidden 512)
  endif()
  execute_process(COMMAND ${MEASURE} ${descriptors} ${PROGRAM} --data ${TEXT} --layers 2
    --intermediate 24 --heads 2 ${size} --batch 1 --sequence 16 --warmup 5
    --eval-every 50 --eval-batches 1 --drop-rate 0.5 --allocation greedy --allocate-at 0.01
    --threads 1 --progress never --checkpoint ${WORK_DIR}/${steps} --checkpoint-every 50
    RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE messages)
  if(NOT status EQUAL 0 OR NOT output MATCHES "KiB ([0-9]+)")
    fail("${steps} steps with ${descriptors} files must succeed:\n${output}${messages}")
  endif()
  set(peak_${steps} ${CMAKE_MATCH_1})
endforeach()
math(EXPR grown "${peak_5000} - ${peak_500}")
execute_process(COMMAND ${CMAKE_COMMAND} -E echo
  "promise 23: training_steps=5000 most_KiB_of_records=${grown} most_files_open=${descriptors}")
math(EXPR most "800 * 4500 / 1024")
if(grown GREATER most)
  fail("5,000 steps must need at most ${most} KiB more than 500, but need ${grown} KiB more")
endif()
