// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The namespace of the library. Everything lives in an inline namespace tagged with the ABI
// version, so that two versions in one program do not mix: each file uses its own, and a type of
// one passed to a function of the other fails to link.
#pragma once

#include "dropbp/version.hpp"

#if (defined(_MSVC_LANG) && _MSVC_LANG < 202002L) || (!defined(_MSVC_LANG) && __cplusplus < 202002L)
#error "dropbp: C++20 is needed: -std=c++20, or CMake's cxx_std_20 (in .cu files cuda_std_20)"
#endif

// Without exceptions errors go to a handler (base/error.hpp).
#if defined(__GNUC__) && !defined(__cpp_exceptions)
#define DROPBP_EXCEPTIONS 0
#else
#define DROPBP_EXCEPTIONS 1
#endif

#define DROPBP_JOIN_(a, b, c, d) a##b##c##d
#define DROPBP_JOIN(a, b, c, d) DROPBP_JOIN_(a, b, c, d)

// v0_1 for all 0.1.x: before 1.0 a minor version may change the layout of types. Files without
// exceptions have functions of their own: the linker must not choose theirs, which abort, for files
// that catch.
#if DROPBP_EXCEPTIONS
#define DROPBP_ABI_TAG DROPBP_JOIN(v, DROPBP_VERSION_MAJOR, _, DROPBP_VERSION_MINOR)
#else
#define DROPBP_ABI_TAG DROPBP_JOIN(no_exceptions_v, DROPBP_VERSION_MAJOR, _, DROPBP_VERSION_MINOR)
#endif

#define DROPBP_NAMESPACE_BEGIN \
  namespace dropbp {           \
  inline namespace DROPBP_ABI_TAG {
#define DROPBP_NAMESPACE_END \
  }                          \
  }

// Marks functions of non-template classes that use much of the standard library. As templates they
// are compiled only where they are called, which halves the time to include the core
// (benchmarks/include_cost).
#define DROPBP_LAZY template <class = void>
