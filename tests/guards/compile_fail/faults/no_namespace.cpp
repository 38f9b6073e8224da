// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: what is expected belongs to no namespace.
// expect: dropbp: our words
#ifdef DROPBP_TEST_WRONG
static_assert(false, "dropbp: our words");
#endif

// expect: dropbp: our words
namespace the_case_behind {
#ifdef DROPBP_TEST_WRONG
static_assert(false, "dropbp: our words");
#endif
}  // namespace the_case_behind
