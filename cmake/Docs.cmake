# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# dropbp_docs: generates the reference from the headers' comments, in docs/html of the build folder.
# Defined if Doxygen is found.
find_package(Doxygen 1.9.2 QUIET)
if(NOT DOXYGEN_FOUND)
  message(STATUS "dropbp: Doxygen 1.9.2 or newer not found, so the target dropbp_docs is left out")
  return()
endif()

# dropbp_configure_doxygen(FILE OUTPUT_DIR INCLUDE_DIR)
function(dropbp_configure_doxygen file dropbp_docs_dir dropbp_docs_include)
  file(MAKE_DIRECTORY ${dropbp_docs_dir})
  configure_file(${PROJECT_SOURCE_DIR}/docs/Doxyfile.in ${file} @ONLY)
endfunction()

dropbp_configure_doxygen(${PROJECT_BINARY_DIR}/docs/Doxyfile ${PROJECT_BINARY_DIR}/docs
  ${dropbp_include_dir})
add_custom_target(dropbp_docs VERBATIM
  COMMAND ${DOXYGEN_EXECUTABLE} ${PROJECT_BINARY_DIR}/docs/Doxyfile
  COMMENT "Writing docs/html")
