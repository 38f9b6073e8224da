// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Everything a consumer may include, twice over: what is not inline in it fails to link.
#pragma once

#include <dropbp/dropbp.hpp>
#ifdef CONSUMER_USES_OPS
#include "ops.hpp"
#endif

#ifdef CONSUMER_DEFINES_TWICE
int forgot_inline() { return 0; }
#endif

int narrow(double value);
int version_of_main();
int version_of_other();
