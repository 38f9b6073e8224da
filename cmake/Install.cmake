# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(dropbp_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/dropbp)

# Core, ops and cuda are exported separately, so that find_package(dropbp) works without Eigen and
# the CUDA Toolkit.
function(dropbp_install_target target export)
  if(CMAKE_VERSION VERSION_LESS 3.23)
    install(TARGETS ${target} EXPORT ${export})
  else()
    get_target_property(sets ${target} INTERFACE_HEADER_SETS)
    set(file_sets "")
    foreach(set IN LISTS sets)
      list(APPEND file_sets FILE_SET ${set} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
    endforeach()
    install(TARGETS ${target} EXPORT ${export} ${file_sets})
  endif()
  install(EXPORT ${export} NAMESPACE dropbp:: DESTINATION ${dropbp_package_dir})
endfunction()

dropbp_install_target(dropbp dropbp-targets)
dropbp_install_target(dropbp_cuda dropbp-cuda-targets)
if(TARGET dropbp_ops)
  dropbp_install_target(dropbp_ops dropbp-ops-targets)
endif()
if(TARGET dropbp_mpi)
  dropbp_install_target(dropbp_mpi dropbp-mpi-targets)
endif()
if(CMAKE_VERSION VERSION_LESS 3.23)
  install(DIRECTORY ${dropbp_include_dir}/dropbp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
    FILES_MATCHING PATTERN "*.hpp" PATTERN "*.cuh" PATTERN "*.h")
endif()

# dropbp.pc: the headers for C++. dropbp-c.pc: the C interface with its library. Both find their
# prefix from where they lie, so that the package may be moved.
function(dropbp_install_pkg_config name directory)
  file(RELATIVE_PATH dropbp_prefix_from_here /prefix/${directory} /prefix)
  string(REGEX REPLACE "/$" "" dropbp_prefix_from_here "${dropbp_prefix_from_here}")
  configure_file(cmake/${name}.pc.in ${PROJECT_BINARY_DIR}/${name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION ${directory})
endfunction()
dropbp_install_pkg_config(dropbp ${CMAKE_INSTALL_DATADIR}/pkgconfig)
if(DROPBP_BUILD_C)
  install(TARGETS dropbp_c_static dropbp_c_shared EXPORT dropbp-c-targets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT dropbp-c-targets NAMESPACE dropbp:: DESTINATION ${dropbp_package_dir})
  list(TRANSFORM dropbp_c_private_libraries PREPEND -l OUTPUT_VARIABLE dropbp_c_private_flags)
  list(JOIN dropbp_c_private_flags " " dropbp_c_private_flags)
  dropbp_install_pkg_config(dropbp-c ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endif()

configure_package_config_file(cmake/dropbp-config.cmake.in
  ${PROJECT_BINARY_DIR}/dropbp-config.cmake INSTALL_DESTINATION ${dropbp_package_dir})
# Before 1.0 a minor version may change the interface. The package fits every architecture.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/dropbp-config-version.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
  ${PROJECT_BINARY_DIR}/dropbp-config.cmake
  ${PROJECT_BINARY_DIR}/dropbp-config-version.cmake
  DESTINATION ${dropbp_package_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
