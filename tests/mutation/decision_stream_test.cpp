// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The program with the pinned hashes of decisions as a test case, for run.py.
#define main decision_stream
#include "../decision_stream/decision_stream.cpp"
#undef main

#include "support/catch.hpp"

TEST_CASE("The hashes of the decision stream are the pinned ones") {
  CHECK(decision_stream() == 0);
}
