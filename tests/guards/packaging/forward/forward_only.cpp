// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Uses the names without their definitions, and no heavy header of the standard library came with
// them.
#include "names.hpp"

#if defined(_GLIBCXX_VECTOR) || defined(_GLIBCXX_STRING) || defined(_GLIBCXX_SPAN) ||   \
    defined(_GLIBCXX_CONCEPTS) || defined(_LIBCPP_VECTOR) || defined(_LIBCPP_STRING) || \
    defined(_LIBCPP_SPAN) || defined(_LIBCPP_CONCEPTS)
#error "dropbp_fwd.hpp is not light: it brings headers of the standard library beyond <cstdint>"
#endif

bool forward_only(const Trainer& trainer) {
  return trainer.handler == nullptr && keeps_all(trainer);
}
