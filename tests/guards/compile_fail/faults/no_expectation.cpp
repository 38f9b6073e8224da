// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: the second case expects nothing.
// expect: dropbp: our words
namespace the_case_before {
#ifdef DROPBP_TEST_WRONG
static_assert(false, "dropbp: our words");
#endif
}  // namespace the_case_before

namespace faulty {
int value = "text";
}  // namespace faulty
