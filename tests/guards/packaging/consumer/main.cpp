// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "library.hpp"

int version_of_main() {
  return DROPBP_VERSION_MAJOR * 10000 + DROPBP_VERSION_MINOR * 100 + DROPBP_VERSION_PATCH;
}

int main() {
  if (narrow(1.5) != 1) return 1;
  return version_of_main() == version_of_other() ? 0 : 2;
}
