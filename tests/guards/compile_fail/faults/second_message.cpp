// expect: dropbp: our words
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: the compiler's own words come before ours.
#ifdef DROPBP_TEST_WRONG
int value = "text";
static_assert(false, "dropbp: our words");
#endif
