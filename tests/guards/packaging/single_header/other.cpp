// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A second file with the whole header: what is not inline in it fails to link.
#include "dropbp.hpp"

std::string report_of(const dropbp::Report& report);
std::string report_of(const dropbp::Report& report) { return to_text(report); }
