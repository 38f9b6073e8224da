// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The namespace of the library. Everything lives in an inline namespace tagged with the ABI version, so that
// two versions linked into one program fail to link instead of mixing.
#pragma once

#include "dropbp/version.hpp"

#define DROPBP_NAMESPACE_BEGIN \
  namespace dropbp {           \
  inline namespace v0_1 {
#define DROPBP_NAMESPACE_END \
  }                          \
  }
