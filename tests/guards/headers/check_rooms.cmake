# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that each room of examples/llama includes only itself and those below it: formats, model,
# app. LLAMA_DIR comes from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

set(rooms formats model app)
set(faults "")
set(upper ${rooms})
foreach(room IN LISTS rooms)
  list(REMOVE_ITEM upper ${room})
  file(GLOB files ${LLAMA_DIR}/${room}/*)
  if(NOT files)
    list(APPEND faults "${LLAMA_DIR}/${room} is empty or missing")
  endif()
  list(JOIN upper "|" pattern)
  if(pattern STREQUAL "")
    break()
  endif()
  foreach(file IN LISTS files)
    file(STRINGS ${file} includes REGEX "^#include \"llama/(${pattern})/")
    foreach(include IN LISTS includes)
      get_filename_component(name ${file} NAME)
      list(APPEND faults "${room}/${name}: ${include}")
    endforeach()
  endforeach()
endforeach()
if(faults)
  list(JOIN faults "\n  " text)
  message(FATAL_ERROR "A room includes one above it:\n  ${text}")
endif()
