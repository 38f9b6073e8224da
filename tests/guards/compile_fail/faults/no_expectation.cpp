// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: the first line expects nothing.
int value = "text";
