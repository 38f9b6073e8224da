// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A planted fault: includes an upper floor.
#pragma once
#include "dropbp/schedule.hpp"
