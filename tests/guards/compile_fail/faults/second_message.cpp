// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: the compiler's own words come before ours.
// expect: dropbp: our words
namespace the_case_before {
#ifdef DROPBP_TEST_WRONG
static_assert(false, "dropbp: our words");
#endif
}  // namespace the_case_before

// expect: dropbp: our words
namespace faulty {
#ifdef DROPBP_TEST_WRONG
int value = "text";
static_assert(false, "dropbp: our words");
#endif
}  // namespace faulty

// expect: dropbp: our words
namespace the_case_behind {
#ifdef DROPBP_TEST_WRONG
static_assert(false, "dropbp: our words");
#endif
}  // namespace the_case_behind
