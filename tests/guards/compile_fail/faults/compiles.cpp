// expect: dropbp: never said
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: the macro changes nothing.
void use() {}
