// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Signals that end a training early but in order.
#pragma once

namespace llama {

/// From now on SIGINT, SIGTERM and SIGHUP are noted instead of ending the program, except those
/// that were ignored from the start, as by nohup. A second SIGINT does end it.
void catch_interrupts();

/// The first signal that was noted; 0 for none.
[[nodiscard]] int interrupting_signal() noexcept;

}  // namespace llama
