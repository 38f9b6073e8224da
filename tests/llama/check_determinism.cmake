# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Trains 100 steps with PROGRAM on 1, 2 and 3 threads, with and without recomputation, several times
# (twice; ten times with DROPBP_PROMISES=full): the weights of all these runs have one hash, in each
# mode. WORK_DIR and TEXT, a file to train on, come from the command line. With FAULT one run has
# another seed, which must be seen.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

set(times 2)
if("$ENV{DROPBP_PROMISES}" STREQUAL "full")
  set(times 10)
endif()
file(REMOVE_RECURSE ${WORK_DIR})
set(runs 0)
set(differing 0)
set(modes full lora qlora)
if(FAULT)
  set(modes full)
endif()
foreach(mode IN LISTS modes)
  set(expected "")
  foreach(recompute IN ITEMS "" --recompute)
    foreach(threads IN ITEMS 1 2 3)
      foreach(time RANGE 1 ${times})
        math(EXPR runs "${runs} + 1")
        set(more ${recompute})
        set(output_option --merge-out)
        if(mode STREQUAL "full")
          set(output_option --out)
        endif()
        if(FAULT AND runs EQUAL 5)
          list(APPEND more --seed 2)
        endif()
        set(out ${WORK_DIR}/${runs})
        execute_process(COMMAND ${PROGRAM} --data ${TEXT} --layers 2 --hidden 48 --intermediate 64
          --heads 4 --steps 100 --batch 2 --sequence 32 --warmup 5 --eval-every 0 --eval-batches 1
          --drop-rate 0.5 --allocation greedy --allocate-at 0.1 --mode ${mode} --threads ${threads}
          ${more} --progress never ${output_option} ${out}
          RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
        if(NOT status EQUAL 0)
          fail("the training must succeed:\n${output}")
        endif()
        file(GLOB weights ${out}/*.safetensors)
        list(LENGTH weights count)
        if(NOT count EQUAL 1)
          fail("the training must write one file of weights, not ${weights}")
        endif()
        file(SHA256 ${weights} hash)
        file(REMOVE_RECURSE ${out})
        if(NOT expected)
          set(expected ${hash})
        elseif(NOT hash STREQUAL expected)
          math(EXPR differing "${differing} + 1")
          message(NOTICE "${mode}, ${threads} threads ${recompute}: ${hash}, not ${expected}")
        endif()
      endforeach()
    endforeach()
  endforeach()
endforeach()
execute_process(COMMAND ${CMAKE_COMMAND} -E echo
  "promise 22: runs=${runs} least_steps=100 differing=${differing}")
if(differing)
  fail("${differing} of ${runs} runs end with other weights")
endif()
