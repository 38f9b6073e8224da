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
if(CMAKE_VERSION VERSION_LESS 3.23)
  install(DIRECTORY ${dropbp_include_dir}/dropbp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
    FILES_MATCHING PATTERN "*.hpp" PATTERN "*.cuh")
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
