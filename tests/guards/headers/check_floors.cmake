# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that a header includes only headers of its own floor and of lower ones, as "dropbp/...".
# Below kernels and interop, the only other headers are those of the standard library. Only .cuh
# files include CUDA headers. Ops include no CUDA code. INCLUDE_DIR comes from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

# The floors, lowest first. backend is below tensor, which uses its kernels for contiguous memory.
set(floors
  "base/|(version|dropbp_fwd|steady_clock)\\.hpp"
  "backend/"
  "(tensor|operation|model|flops|plan|drop_options)\\.hpp"
  "policy/"
  "(schedule|layer|stream_norms|branches|parameter_ranges)\\.hpp"
  "(handler|adaptive|report|state|state_text)\\.hpp|sensitivity/"
  "dropbp\\.h(pp)?$|c/"
  "kernels/"
  "ops/|interop/"
  "dropbp\\.cuh")
set(first_open_floor 7)  # from here on third-party headers are allowed

set(standard
  algorithm any array atomic barrier bit bitset charconv chrono codecvt compare complex concepts
  condition_variable coroutine deque exception execution filesystem format forward_list fstream
  functional
  future initializer_list iomanip ios iosfwd iostream istream iterator latch limits list locale map
  memory
  memory_resource mutex new numbers numeric optional ostream queue random ranges ratio regex
  scoped_allocator
  semaphore set shared_mutex source_location span sstream stack stdexcept stop_token streambuf
  string
  string_view syncstream system_error thread tuple type_traits typeindex typeinfo unordered_map
  unordered_set
  utility valarray variant vector version
  cassert cctype cerrno cfenv cfloat cinttypes climits clocale cmath csetjmp csignal cstdarg cstddef
  cstdint
  cstdio cstdlib cstring ctime cuchar cwchar cwctype
  stddef.h stdint.h)
set(cuda "cuda|cublas|cudnn|curand|cusparse|cusolver|cub/|thrust/|cooperative_groups|mma\\.h")
set(cuda "^(${cuda}|nvtx|device_)")

set(faults "")
function(floor_of file result)
  set(${result} "" PARENT_SCOPE)
  set(floor 0)
  foreach(pattern IN LISTS floors)
    if(file MATCHES "^dropbp/(${pattern})")
      set(${result} ${floor} PARENT_SCOPE)
      return()
    endif()
    math(EXPR floor "${floor} + 1")
  endforeach()
endfunction()

file(GLOB_RECURSE headers RELATIVE ${INCLUDE_DIR} ${INCLUDE_DIR}/dropbp/*)
foreach(header IN LISTS headers)
  floor_of(${header} floor)
  if(floor STREQUAL "")
    list(APPEND faults "${header} has no floor: add it to tests/guards/headers/check_floors.cmake")
    continue()
  endif()
  file(STRINGS ${INCLUDE_DIR}/${header} lines REGEX "^[ \t]*#[ \t]*include")
  foreach(line IN LISTS lines)
    if(NOT line MATCHES "include[ \t]*[<\"]([^>\"]+)[>\"]")
      list(APPEND faults "${header} has an include that names no file: ${line}")
      continue()
    endif()
    set(included ${CMAKE_MATCH_1})
    if(included IN_LIST standard)
      continue()
    endif()
    set(verdict "")
    if(included MATCHES "^dropbp/")
      floor_of(${included} target)
      if(target STREQUAL "")
        set(verdict "which has no floor")
      elseif(target GREATER floor)
        set(verdict "which lies higher, on floor ${target}")
      elseif(included MATCHES "\\.cuh$" AND NOT header MATCHES "\\.cuh$")
        set(verdict "which only a .cuh file may")
      elseif(included MATCHES "/cuda[/.]" AND NOT header MATCHES "/cuda[/.]|\\.cuh$")
        set(verdict "which only dropbp.cuh and kernels/cuda may")
      endif()
    elseif(included MATCHES "${cuda}")
      if(NOT header MATCHES "\\.cuh$")
        set(verdict "which only a .cuh file may")
      endif()
    elseif(header MATCHES "\\.cuh$" AND included MATCHES "^(fmt|Eigen)/")
      set(verdict "which stays out of .cuh files")
    elseif(EXISTS ${INCLUDE_DIR}/${included} OR line MATCHES "include[ \t]*\"" )
      set(verdict "which must be written from the root, as \"dropbp/...\"")
    elseif(floor LESS first_open_floor)
      set(verdict "but only the standard library and dropbp may come in here")
    endif()
    if(verdict)
      list(APPEND faults "${header} (floor ${floor}) includes ${included}, ${verdict}")
    endif()
  endforeach()
endforeach()

if(faults)
  list(JOIN faults "\n" faults)
  fail("${faults}")
endif()
list(LENGTH headers count)
message(NOTICE "${count} headers keep to their floors")
