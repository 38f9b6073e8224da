# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# cmake -DPROGRAM=llama-finetune -DPYTHON=python3 -DSCRIPT=check_gguf.py -DFOLDER=scratch -P this
# A model is written in both formats, and the published reader finds the same numbers.

file(REMOVE_RECURSE ${FOLDER})
file(MAKE_DIRECTORY ${FOLDER})
string(REPEAT "A text of which each byte is a token.\n" 100 text)
file(WRITE ${FOLDER}/text ${text})
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(result EQUAL 77)
    message(STATUS "${output}")
    return()
  endif()
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${ARGN} gave ${result}:\n${output}")
  endif()
  message(STATUS "${output}")
endfunction()

run(${PROGRAM} --data ${FOLDER}/text --steps 2 --batch 1 --sequence 16 --layers 2 --hidden 32
  --intermediate 48 --heads 4 --kv-heads 2 --eval-batches 1 --quiet --out ${FOLDER}/model)
foreach(type IN ITEMS f32 f16 bf16)
  run(${PROGRAM} --model ${FOLDER}/model --data ${FOLDER}/text --steps 0 --sequence 16
    --eval-batches 1 --batch 1 --quiet --out ${FOLDER}/${type} --out-format gguf
    --out-dtype ${type})
  run(${PYTHON} ${SCRIPT} ${FOLDER}/${type}/model.gguf ${FOLDER}/model)
endforeach()
