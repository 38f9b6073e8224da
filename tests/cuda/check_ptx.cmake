# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# What the compiler made of the kernels' accesses to memory, in the PTX files that match FILES:
#   no generic ones, which are slower than those of a known memory, and no local memory;
#   no atomics on floats, whose order would change results from run to run;
#   in a kernel that is instantiated for elements of 16 bytes together (its name says T and the
#   width), all accesses to rows of T are that wide: the element-wise ones of T itself only where
#   NARROW (a regex of kernel names) allows them.

include(${CMAKE_CURRENT_LIST_DIR}/../support/script.cmake NO_POLICY_SCOPE)

file(GLOB files ${FILES})
if(NOT files)
  fail("there is no PTX at ${FILES}: the test that compiles it comes first")
endif()
set(faults "")
set(kernels 0)
set(wide 0)
foreach(file IN LISTS files)
  # Only kernels' names and accesses to memory: file(STRINGS) of all lines would take minutes.
  file(STRINGS ${file} lines REGEX "\\.entry|[\t ](ld|st|atom|red)\\.")
  set(kernel "")
  foreach(line IN LISTS lines ITEMS "\t.entry end(")
    if(line MATCHES "\\.entry ([A-Za-z0-9_$]+)")
      set(next ${CMAKE_MATCH_1})
      if(is_wide AND NOT has_wide)
        list(APPEND faults
          "${kernel} is for elements of 16 bytes together, but no access is that wide")
      endif()
      if(kernel)
        math(EXPR kernels "${kernels} + 1")
      endif()
      string(REGEX REPLACE "^_ZN6dropbp[0-9a-z_]*cuda8run_bodyI(NS1_6detail)?[0-9]*(.*)EEvT_DpT0_$"
        "\\2" kernel ${next})
      string(REGEX REPLACE "EJ.*" "" kernel ${kernel})
      set(is_wide FALSE)
      set(has_wide FALSE)
      if(kernel MATCHES "IfLj4E|(BFloat16|Half)E?Lj8E|IN?S?[0-9]*_?(8BFloat16|4Half)ELj8E")
        set(is_wide TRUE)
        math(EXPR wide "${wide} + 1")
      endif()
      continue()
    endif()
    string(REGEX MATCH "[\t ]((ld|st|atom|red)\\.[a-z0-9.:_]*)" access "${line}")
    set(access ${CMAKE_MATCH_1})
    if(access MATCHES "\\.param")
      continue()
    elseif(access MATCHES "\\.local")
      list(APPEND faults "${kernel} uses local memory: ${access}")
    elseif(access MATCHES "^(atom|red)\\..*(f16|bf16|f32|f64)")
      list(APPEND faults "${kernel} adds in an order that changes: ${access}")
    elseif(NOT access MATCHES "^(ld|st|atom|red)\\.([a-z_]+\\.)*(global|shared|const)")
      list(APPEND faults "${kernel} has a generic access, of no known memory: ${access}")
    elseif(access MATCHES
      "^(ld|st)\\.global.*\\.v4\\.(u32|b32|f32|s32)|^(ld|st)\\.global.*\\.v2\\.(u64|b64|f64)")
      set(has_wide TRUE)
    elseif(is_wide AND access MATCHES "^(ld|st)\\.global.*(u16|b16|v2\\.u32|v2\\.f32)"
      AND NOT (NARROW AND kernel MATCHES "${NARROW}"))
      list(APPEND faults
        "${kernel} is for elements of 16 bytes together, but has the access ${access}")
    endif()
  endforeach()
endforeach()
if(faults)
  list(REMOVE_DUPLICATES faults)
  list(JOIN faults "\n" faults)
  fail("${faults}")
endif()
if(kernels LESS 1 OR wide LESS 1)
  fail("${kernels} kernels, ${wide} of them for elements of 16 bytes together: that cannot be all")
endif()
list(LENGTH files count)
message(NOTICE
  "${kernels} kernels in ${count} PTX files keep to the rules, ${wide} of them with accesses of "
  "16 bytes")
