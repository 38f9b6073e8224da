# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# dropbp::c: the functions of dropbp/dropbp.h, compiled once for the static and the shared library
# (dropbp::c_static, dropbp::c_shared). dropbp::c is the shared one where BUILD_SHARED_LIBS is set.
# In a project that contains this one they are built only where they are linked.

set(dropbp_c_source ${PROJECT_BINARY_DIR}/dropbp_c.cpp)
file(CONFIGURE OUTPUT ${dropbp_c_source} @ONLY
  CONTENT "#define DROPBP_IMPLEMENTATION\n#include <dropbp/dropbp.h>\n")
# The functions of C and nothing of the standard library's templates.
set(dropbp_c_symbols ${PROJECT_BINARY_DIR}/dropbp_c.map)
file(CONFIGURE OUTPUT ${dropbp_c_symbols} @ONLY
  CONTENT
  "DROPBP_@PROJECT_VERSION_MAJOR@.@PROJECT_VERSION_MINOR@ { global: dropbp_*; local: *; };\n")

add_library(dropbp_c_objects OBJECT EXCLUDE_FROM_ALL ${dropbp_c_source})
add_library(dropbp_c_static STATIC EXCLUDE_FROM_ALL $<TARGET_OBJECTS:dropbp_c_objects>)
add_library(dropbp_c_shared SHARED EXCLUDE_FROM_ALL $<TARGET_OBJECTS:dropbp_c_objects>)
target_include_directories(dropbp_c_objects PRIVATE ${dropbp_include_dir})
target_compile_features(dropbp_c_objects PRIVATE cxx_std_20)
set_target_properties(dropbp_c_objects PROPERTIES
  POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
foreach(kind IN ITEMS static shared)
  add_library(dropbp::c_${kind} ALIAS dropbp_c_${kind})
  target_include_directories(dropbp_c_${kind} INTERFACE
    $<BUILD_INTERFACE:${dropbp_include_dir}> $<INSTALL_INTERFACE:include>)
  set_target_properties(dropbp_c_${kind} PROPERTIES OUTPUT_NAME dropbp EXPORT_NAME c_${kind}
    LINKER_LANGUAGE CXX)
  if(DROPBP_BUILD_C)
    set_target_properties(dropbp_c_${kind} PROPERTIES EXCLUDE_FROM_ALL OFF)
  endif()
endforeach()
# What a project without C++ must link besides the static library: CMake tells it the language of an
# imported library only where that language is enabled.
set(dropbp_c_private_libraries ${CMAKE_CXX_IMPLICIT_LINK_LIBRARIES})
list(FILTER dropbp_c_private_libraries INCLUDE REGEX "^(stdc\\+\\+|c\\+\\+|c\\+\\+abi|m)$")
list(REMOVE_DUPLICATES dropbp_c_private_libraries)
target_link_libraries(dropbp_c_static INTERFACE ${dropbp_c_private_libraries})
# Before 1.0 a minor version may change the interface.
set_target_properties(dropbp_c_shared PROPERTIES VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
if(UNIX AND NOT APPLE)
  target_link_options(dropbp_c_shared PRIVATE LINKER:--version-script=${dropbp_c_symbols})
  set_target_properties(dropbp_c_shared PROPERTIES LINK_DEPENDS ${dropbp_c_symbols})
endif()
if(BUILD_SHARED_LIBS)
  add_library(dropbp::c ALIAS dropbp_c_shared)
else()
  add_library(dropbp::c ALIAS dropbp_c_static)
endif()
