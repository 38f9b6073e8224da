# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Checks that packages, macros and ABI tag have the version of version.hpp. SOURCE_DIR, COMPILER and
# WORK_DIR come from the command line; PACKAGING is the folder of the packages, VERSION_HEADER the
# header.

include(${CMAKE_CURRENT_LIST_DIR}/../../support/script.cmake NO_POLICY_SCOPE)
include(${SOURCE_DIR}/cmake/Version.cmake)

dropbp_read_version(${VERSION_HEADER} version)
string(REPLACE "." ";" parts ${version})
list(POP_FRONT parts major minor patch)

file(READ ${PACKAGING}/vcpkg/vcpkg.json json)
string(JSON of_vcpkg GET "${json}" version)
if(NOT of_vcpkg STREQUAL version)
  fail("vcpkg.json states version ${of_vcpkg}, but version.hpp ${version}")
endif()
file(READ ${PACKAGING}/conan/conanfile.py recipe)
if(recipe MATCHES "\n +version *= *[\"']" OR NOT recipe MATCHES "version\\.hpp")
  fail("conanfile.py must read its version from version.hpp, and states one of its own")
endif()

# The header's tag is made of its version macros.
file(MAKE_DIRECTORY ${WORK_DIR})
file(WRITE ${WORK_DIR}/version.cpp "#include <dropbp/plan.hpp>\n"
  "static_assert(DROPBP_VERSION_MAJOR == ${major} && DROPBP_VERSION_MINOR == ${minor} &&"
  " DROPBP_VERSION_PATCH == ${patch});\n"
  "using Tagged = dropbp::v${major}_${minor}::DropPlan;\n"
  "static_assert(requires(dropbp::DropPlan& plan, Tagged*& tagged) { tagged = &plan; });\n")
execute_process(COMMAND ${COMPILER} -std=c++20 -fsyntax-only -I ${SOURCE_DIR}/include
  ${WORK_DIR}/version.cpp
  RESULT_VARIABLE status ERROR_VARIABLE messages)
if(NOT status EQUAL 0)
  fail("macros or ABI tag differ from version ${version}:\n${messages}")
endif()
