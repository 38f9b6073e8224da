// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: the twin that must compile does not.
// expect: dropbp: text
namespace faulty {
int value = "text";
}  // namespace faulty
