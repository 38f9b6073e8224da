# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Runs a benchmark with --quick and --help and checks what it writes: a table, a JSON file with the
# promised keys, a plot.

set(keys_step_time rows/0/drop_rate rows/0/forward_ms rows/0/backward_ms rows/0/optimizer_ms
  rows/0/step_ms rows/0/ratio
  rows/0/limit rows/0/flops_limit rows/0/efficiency overhead_at_zero sgemm_fraction
  tokens_per_second)
set(keys_activation_memory rows/0/drop_rate rows/0/peak_activation_bytes rows/0/longest_sequence
  rows/0/ratio)
set(keys_convergence regimes/0/methods/18/name regimes/0/methods/0/validation_loss/mean
  regimes/0/methods/0/time/mean regimes/0/methods/1/speed/mean
  regimes/0/methods/1/speed_against_half_the_batch/mean)
set(keys_sensitivity_cost rows/0/branches rows/0/cost_ratio rows/0/max_relative_error
  running_spearman running_overhead)
set(keys_allocation greedy_over_optimal_median seconds_for_1e6_branches)
set(keys_include_cost rows/0/header rows/0/compiler rows/0/seconds core_over_empty_seconds)
set(keys_products products/0/gflops expansions/0/gigabytes_per_second expansions/0/share_of_product)
set(keys_layers layers/0/ratio layers/0/gflops layers/0/parallel_loops)
set(keys_communication_simulation by_gpus/15/ratio_kept_sent/2 by_tokens/0/ratio_all_sent/0
  crossover_tokens/LLaMA2-7B)
set(keys_machinery rows/0/branches rows/0/begin_step_ns rows/0/allocations_a_step)

file(MAKE_DIRECTORY ${FOLDER})
set(json ${FOLDER}/${NAME}.json)
set(svg ${FOLDER}/${NAME}.svg)
file(REMOVE ${json} ${svg})
set(runs ${FOLDER}/build/convergence-quick)
file(REMOVE_RECURSE ${runs})

execute_process(COMMAND ${PROGRAM} --help OUTPUT_VARIABLE help RESULT_VARIABLE result)
if(NOT result EQUAL 0 OR NOT help MATCHES "--quick")
  message(FATAL_ERROR
    "${NAME} --help must name --quick and succeed; it ended with ${result} and:\n${help}")
endif()

set(arguments --quick --json ${json})
if(PLOT AND help MATCHES "--svg")
  list(APPEND arguments --svg ${svg})
endif()
execute_process(COMMAND ${PROGRAM} ${arguments} WORKING_DIRECTORY ${FOLDER}
  OUTPUT_VARIABLE output ERROR_VARIABLE errors RESULT_VARIABLE result)
if(NOT result EQUAL 0 OR output STREQUAL "")
  message(FATAL_ERROR
    "${NAME} ${arguments} must print a table and succeed; it ended with ${result} "
    "and:\n${output}\n${errors}")
endif()
message(STATUS "${output}")

file(READ ${json} text)
foreach(key IN LISTS keys_${NAME})
  string(REPLACE "/" ";" path "${key}")
  string(JSON value ERROR_VARIABLE missing GET "${text}" ${path})
  if(missing)
    message(FATAL_ERROR "${NAME} --json must write ${key}, but ${missing}:\n${text}")
  endif()
endforeach()
if(PLOT AND help MATCHES "--svg")
  file(READ ${svg} picture)
  if(NOT picture MATCHES "<svg")
    message(FATAL_ERROR "${NAME} --svg must write a picture, but ${svg} is none")
  endif()
endif()

# A second start repeats no run that is done. One whose line was cut short is repeated, and has the
# same result.
if(NAME STREQUAL "convergence")
  file(READ ${runs}/runs.jsonl done)
  string(LENGTH "${done}" length)
  math(EXPR length "${length} - 40")
  string(SUBSTRING "${done}" 0 ${length} cut)
  file(WRITE ${runs}/runs.jsonl "${cut}")
  execute_process(COMMAND ${PROGRAM} ${arguments} WORKING_DIRECTORY ${FOLDER}
    OUTPUT_VARIABLE again ERROR_VARIABLE errors RESULT_VARIABLE result)
  file(READ ${runs}/runs.jsonl done_again)
  string(REGEX MATCHALL ": loss " repeated "${errors}")
  list(LENGTH repeated repeated)
  if(NOT result EQUAL 0 OR NOT again STREQUAL output OR NOT done_again STREQUAL done
      OR NOT repeated EQUAL 1)
    message(FATAL_ERROR "a second start of ${NAME} must repeat the one run that was cut short, but "
      "it repeated ${repeated}, ended with ${result}, and wrote:\n${again}\n${errors}")
  endif()
endif()
