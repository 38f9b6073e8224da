// expect: dropbp: the expected words
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: the compiler says something else than expected.
#ifdef DROPBP_TEST_WRONG
int value = "dropbp: the expected words";
#endif
