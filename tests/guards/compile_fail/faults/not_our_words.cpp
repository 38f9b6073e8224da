// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: the compiler's own words are expected.
// expect: invalid conversion
namespace faulty {
#ifdef DROPBP_TEST_WRONG
int value = "text";
#endif
}  // namespace faulty
