# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Flags of our own programs. Linked PRIVATE and never installed, so none of them reaches a consumer.
# The header tests use the same list of warnings.
set(dropbp_warning_flags
  -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Werror)

add_library(dropbp_warnings INTERFACE)
target_compile_options(dropbp_warnings INTERFACE ${dropbp_warning_flags})

# GCC's warnings from data flow come and go with the release and with what it inlines, false ones among them:
# they are shown, but do not stop the build of someone with another release.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  foreach(warning IN ITEMS array-bounds maybe-uninitialized restrict stringop-overflow stringop-overread)
    target_compile_options(dropbp_warnings INTERFACE -Wno-error=${warning})
  endforeach()
endif()

if(DROPBP_NATIVE)
  target_compile_options(dropbp_warnings INTERFACE -march=native)
endif()

if(DROPBP_SANITIZE)
  set(flags -fsanitize=${DROPBP_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(dropbp_warnings INTERFACE ${flags})
  target_link_options(dropbp_warnings INTERFACE ${flags})
  target_compile_definitions(dropbp_warnings INTERFACE _GLIBCXX_ASSERTIONS)
endif()
