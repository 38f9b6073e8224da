# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Runs the vcpkg port with stand-ins for vcpkg's own functions that do the same through CMake, then
# builds consumer/ against what it installed. SOURCE_DIR, WORK_DIR, COMPILER, GENERATOR, VERSION and
# FEATURES come from the command line.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)

set(PORT dropbp)
set(CURRENT_PACKAGES_DIR ${WORK_DIR}/packages)
set(build ${WORK_DIR}/port-build)
file(REMOVE_RECURSE ${WORK_DIR})

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    fail("failed: ${ARGV}\n${output}")
  endif()
endfunction()

function(vcpkg_check_features)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "OUT_FEATURE_OPTIONS" "FEATURES;INVERTED_FEATURES")
  set(options "")
  foreach(list IN ITEMS FEATURES INVERTED_FEATURES)
    while(arg_${list})
      list(POP_FRONT arg_${list} feature variable)
      set(value OFF)
      if((feature IN_LIST FEATURES AND list STREQUAL "FEATURES") OR
          (NOT feature IN_LIST FEATURES AND list STREQUAL "INVERTED_FEATURES"))
        set(value ON)
      endif()
      list(APPEND options -D${variable}=${value})
    endwhile()
  endforeach()
  set(${arg_OUT_FEATURE_OPTIONS} ${options} PARENT_SCOPE)
endfunction()
function(vcpkg_cmake_configure)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "SOURCE_PATH" "OPTIONS")
  run(${CMAKE_COMMAND} -S ${arg_SOURCE_PATH} -B ${build} -G ${GENERATOR}
    -DCMAKE_CXX_COMPILER=${COMPILER}
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=${CURRENT_PACKAGES_DIR} ${arg_OPTIONS})
endfunction()
function(vcpkg_cmake_install)
  run(${CMAKE_COMMAND} --build ${build} --target install)
endfunction()
function(vcpkg_cmake_config_fixup)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "PACKAGE_NAME;CONFIG_PATH" "")
  file(RENAME ${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH}
    ${CURRENT_PACKAGES_DIR}/share/${arg_PACKAGE_NAME})
  # vcpkg corrects the path from the package's files to its root, which is now one folder shorter.
  file(GLOB files ${CURRENT_PACKAGES_DIR}/share/${arg_PACKAGE_NAME}/*.cmake)
  foreach(file IN LISTS files)
    file(READ ${file} text)
    string(REPLACE "\${CMAKE_CURRENT_LIST_DIR}/../../../" "\${CMAKE_CURRENT_LIST_DIR}/../../" text
      "${text}")
    string(REGEX
      REPLACE
      "(get_filename_component\\(_IMPORT_PREFIX \"\\\${CMAKE_CURRENT_LIST_FILE}\" PATH\\)\n)"
      "\\1get_filename_component(_IMPORT_PREFIX \"\${_IMPORT_PREFIX}/stand-in\" ABSOLUTE)\n" text
      "${text}")
    file(WRITE ${file} "${text}")
  endforeach()
endfunction()
function(vcpkg_fixup_pkgconfig)
  # It finds its prefix by itself, which is all that vcpkg would correct.
  file(READ ${CURRENT_PACKAGES_DIR}/share/pkgconfig/dropbp.pc text)
  if(NOT text MATCHES "\nprefix=\\\${pcfiledir}/")
    fail("dropbp.pc does not find its prefix:\n${text}")
  endif()
endfunction()
function(vcpkg_install_copyright)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "FILE_LIST")
  file(INSTALL ${arg_FILE_LIST} DESTINATION ${CURRENT_PACKAGES_DIR}/share/${PORT} RENAME copyright)
endfunction()

include(${SOURCE_DIR}/cmake/packaging/vcpkg/portfile.cmake)

foreach(file IN ITEMS include/dropbp/dropbp.hpp share/dropbp/dropbp-config.cmake
  share/dropbp/copyright share/dropbp/usage)
  if(NOT EXISTS ${CURRENT_PACKAGES_DIR}/${file})
    fail("the port installs no ${file}")
  endif()
endforeach()
# vcpkg's own checks after a build: nothing beside include/ and share/<port>, no empty folders.
file(GLOB folders RELATIVE ${CURRENT_PACKAGES_DIR} ${CURRENT_PACKAGES_DIR}/*
  ${CURRENT_PACKAGES_DIR}/share/*)
list(REMOVE_ITEM folders include share share/dropbp share/cmake share/pkgconfig)
if(folders)
  fail("the port installs ${folders}")
endif()
if(NOT "ops" IN_LIST FEATURES
  AND EXISTS ${CURRENT_PACKAGES_DIR}/share/dropbp/dropbp-ops-targets.cmake)
  fail("the port installs dropbp::ops without its feature")
endif()
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${WORK_DIR}/consumer -G ${GENERATOR}
  -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_BUILD_TYPE=Release -DWAY=find_package
  -DREQUEST=${VERSION}
  -DCMAKE_PREFIX_PATH=${CURRENT_PACKAGES_DIR} -DDROPBP_SOURCE=${SOURCE_DIR})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/consumer)
run(${WORK_DIR}/consumer/consumer)
