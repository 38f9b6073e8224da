# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# STEP=install: configures the project as a packager would, installs it and moves the result to
# WORK_DIR/moved. STEP=consume: builds and runs consumer/ in the given WAY. The other variables are
# named in CMakeLists.txt.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

set(common -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_BUILD_TYPE=Release)

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGV " " command)
    fail("failed: ${command}\n${output}")
  endif()
endfunction()

if(STEP STREQUAL "install")
  set(build ${WORK_DIR}/install-build)
  set(prefix ${WORK_DIR}/installed)
  set(moved ${WORK_DIR}/moved)
  file(REMOVE_RECURSE ${build} ${prefix} ${moved})
  run(${CMAKE_COMMAND} -S ${SOURCE_DIR} -B ${build} ${common} -DCMAKE_INSTALL_PREFIX=${prefix}
    -DDROPBP_BUILD_TESTS=OFF -DDROPBP_BUILD_EXAMPLES=OFF -DDROPBP_BUILD_BENCHMARKS=OFF)
  run(${CMAKE_COMMAND} --build ${build})
  run(${CMAKE_COMMAND} --install ${build})

  file(GLOB_RECURSE wanted RELATIVE ${SOURCE_DIR}/include ${SOURCE_DIR}/include/*)
  file(GLOB_RECURSE got RELATIVE ${prefix}/include ${prefix}/include/*)
  if(NOT "${wanted}" STREQUAL "${got}")
    fail("installed headers: ${got}\nbut the source has: ${wanted}")
  endif()
  file(GLOB_RECURSE files ${prefix}/*.cmake)
  foreach(file IN LISTS files)
    file(READ ${file} text)
    foreach(path IN ITEMS ${SOURCE_DIR} ${WORK_DIR})
      string(FIND "${text}" "${path}" position)
      if(NOT position EQUAL -1)
        fail("${file} remembers ${path}")
      endif()
    endforeach()
  endforeach()
  file(RENAME ${prefix} ${moved})
  return()
endif()

set(build ${WORK_DIR}/${NAME})
file(REMOVE_RECURSE ${build})
if(NOT REQUEST)
  set(REQUEST ${VERSION})
endif()
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${build} ${common}
  -DWAY=${WAY} -DREQUEST=${REQUEST} -DCOMPONENT=${COMPONENT} -DFAULT=${FAULT}
  -DCMAKE_PREFIX_PATH=${WORK_DIR}/moved -DFETCHCONTENT_SOURCE_DIR_DROPBP=${SOURCE_DIR}
  -DDROPBP_SOURCE=${SOURCE_DIR} ${OPTIONS})
run(${CMAKE_COMMAND} --build ${build})
run(${build}/consumer)

# Nothing of this project may be part of the consumer's installation.
if(NOT WAY STREQUAL "find_package")
  run(${CMAKE_COMMAND} --install ${build} --prefix ${build}/prefix)
  file(GLOB_RECURSE files ${build}/prefix/*)
  if(files)
    fail("installing the consumer also installs ${files}")
  endif()
endif()
