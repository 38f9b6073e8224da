// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "library.hpp"

// -Wconversion objects to this, and the consumer did not ask for it.
int narrow(double value) { return value; }

int version_of_other() {
  return DROPBP_VERSION_MAJOR * 10000 + DROPBP_VERSION_MINOR * 100 + DROPBP_VERSION_PATCH;
}
