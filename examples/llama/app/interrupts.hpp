// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Signals that end a training early, after the current step.
#pragma once

namespace llama {

/// Records SIGINT, SIGTERM and SIGHUP from now on instead of ending the program, except those that
/// were ignored from the start, as by nohup. A second SIGINT ends the program.
void catch_interrupts();

/// The first recorded signal; 0 for none.
[[nodiscard]] int interrupting_signal() noexcept;

}  // namespace llama
