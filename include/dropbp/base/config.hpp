// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The namespace of the library. Everything lives in an inline namespace tagged with the ABI
// version, so that two versions linked into one program fail to link instead of mixing.
#pragma once

#include "dropbp/version.hpp"

#if (defined(_MSVC_LANG) && _MSVC_LANG < 202002L) || (!defined(_MSVC_LANG) && __cplusplus < 202002L)
#error "dropbp: C++20 is needed: -std=c++20, or CMake's cxx_std_20 (in .cu files cuda_std_20)"
#endif

#if defined(__GNUC__) && !defined(__cpp_exceptions)
#error "dropbp: exceptions are needed. With -fno-exceptions use the C interface, dropbp/dropbp.h"
#endif

#define DROPBP_JOIN_(a, b, c, d) a##b##c##d
#define DROPBP_JOIN(a, b, c, d) DROPBP_JOIN_(a, b, c, d)

// v0_1 for all 0.1.x: before 1.0 a minor version may change the layout of types.
#define DROPBP_ABI_TAG DROPBP_JOIN(v, DROPBP_VERSION_MAJOR, _, DROPBP_VERSION_MINOR)

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
