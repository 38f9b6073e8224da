// expect: invalid conversion
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: the first line expects the compiler's own words.
#ifdef DROPBP_TEST_WRONG
int value = "text";
#endif
