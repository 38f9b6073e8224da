# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Builds and runs consumer_c/ in the given WAY: find_package, add_subdirectory or pkg-config; SHARED
# says with which library. NAME, SOURCE_DIR, WORK_DIR, GENERATOR, COMPILER, C_COMPILER, VERSION and
# LIBRARY_DIR (below the prefix) come from the command line too.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

set(build ${WORK_DIR}/${NAME})
set(consumer ${CMAKE_CURRENT_LIST_DIR}/consumer_c)
set(moved ${WORK_DIR}/moved)
file(REMOVE_RECURSE ${build})
file(MAKE_DIRECTORY ${build})

function(run result)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    fail("failed: ${command}\n${output}")
  endif()
  string(STRIP "${output}" output)
  set(${result} "${output}" PARENT_SCOPE)
endfunction()

if(WAY STREQUAL "pkg-config")
  find_program(pkg_config pkg-config)
  if(NOT pkg_config)
    message(NOTICE "SKIPPED: there is no pkg-config")
    return()
  endif()
  set(ENV{PKG_CONFIG_PATH} ${moved}/${LIBRARY_DIR}/pkgconfig:${moved}/share/pkgconfig)
  set(ENV{LD_LIBRARY_PATH} ${moved}/${LIBRARY_DIR})
  foreach(package IN ITEMS dropbp dropbp-c)
    run(version ${pkg_config} --modversion ${package})
    if(NOT version STREQUAL VERSION)
      fail("${package} states the version ${version}, not ${VERSION}")
    endif()
  endforeach()
  run(flags ${pkg_config} --cflags --libs dropbp-c)
  separate_arguments(flags UNIX_COMMAND "${flags}")
  run(output ${C_COMPILER} -std=c99 ${consumer}/main.c ${flags} -o ${build}/consumer)
  run(flags ${pkg_config} --cflags dropbp)
  separate_arguments(flags UNIX_COMMAND "${flags}")
  file(WRITE ${build}/cxx.cpp "#include <dropbp/plan.hpp>\n")
  run(output ${COMPILER} -std=c++20 -fsyntax-only ${flags} ${build}/cxx.cpp)
else()
  run(output ${CMAKE_COMMAND} -S ${consumer} -B ${build} -G ${GENERATOR}
    -DCMAKE_C_COMPILER=${C_COMPILER} -DCMAKE_CXX_COMPILER=${COMPILER} -DWAY=${WAY}
    -DREQUEST=${VERSION} -DBUILD_SHARED_LIBS=${SHARED} -DCMAKE_PREFIX_PATH=${moved}
    -DDROPBP_SOURCE=${SOURCE_DIR})
  run(output ${CMAKE_COMMAND} --build ${build})
endif()
run(output ${build}/consumer)
if(NOT output MATCHES "^version [0-9]+, [0-8] branches dropped$")
  fail("the program says:\n${output}")
endif()
# The libraries that the program asks for: its own name once where it is shared.
find_program(readelf readelf)
if(readelf)
  run(output ${readelf} -d ${build}/consumer)
  if(SHARED AND NOT output MATCHES "NEEDED[^\n]*libdropbp.so.[0-9]+.[0-9]+\\]")
    fail("the program does not ask for libdropbp.so:\n${output}")
  elseif(NOT SHARED AND output MATCHES "libdropbp")
    fail("the program asks for libdropbp.so:\n${output}")
  endif()
endif()
