# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Warning flags of this project's programs. They are linked PRIVATE and never installed, so they do
# not affect consumers. The header tests use the same list of warnings.
set(dropbp_warning_flags
  -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow)
if(DROPBP_WERROR)
  list(APPEND dropbp_warning_flags -Werror)
endif()

add_library(dropbp_warnings INTERFACE)
target_compile_options(dropbp_warnings INTERFACE ${dropbp_warning_flags})

if(DROPBP_NATIVE)
  target_compile_options(dropbp_warnings INTERFACE -march=native)
endif()

if(DROPBP_SANITIZE)
  set(flags -fsanitize=${DROPBP_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(dropbp_warnings INTERFACE ${flags})
  target_link_options(dropbp_warnings INTERFACE ${flags})
  target_compile_definitions(dropbp_warnings INTERFACE _GLIBCXX_ASSERTIONS)
  # By g++'s manual this warning is often false with sanitizers; it is false in the standard
  # library's headers.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(dropbp_warnings INTERFACE -Wno-maybe-uninitialized)
  endif()
endif()
