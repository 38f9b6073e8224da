// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: one case hides behind the name of another.
// expect: dropbp: our words
namespace faulty {
#ifdef DROPBP_TEST_WRONG
static_assert(false, "dropbp: our words");
#endif
}  // namespace faulty

// expect: dropbp: our words
namespace faulty {
#ifdef DROPBP_TEST_WRONG
static_assert(false, "dropbp: our words");
#endif
}  // namespace faulty
