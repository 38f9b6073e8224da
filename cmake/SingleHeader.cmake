# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# dropbp_single_header: writes the core as single_include/dropbp.hpp into the build folder.
set(dropbp_single_header ${PROJECT_BINARY_DIR}/single_include/dropbp.hpp)
add_custom_command(OUTPUT ${dropbp_single_header} VERBATIM
  COMMAND ${CMAKE_COMMAND} -DINCLUDE_DIR=${dropbp_include_dir} -DOUTPUT=${dropbp_single_header}
    -P ${PROJECT_SOURCE_DIR}/cmake/single_header.cmake
  DEPENDS ${dropbp_core_headers} ${PROJECT_SOURCE_DIR}/cmake/single_header.cmake
  COMMENT "Writing single_include/dropbp.hpp")
add_custom_target(dropbp_single_header DEPENDS ${dropbp_single_header})
