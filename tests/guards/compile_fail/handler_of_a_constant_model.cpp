// expect: dropbp: a handler.s model needs for_each_layer\(visit\), which calls visit\(layer\) with
// a reference SPDX-FileCopyrightText: 2026 The dropbp authors SPDX-License-Identifier: MIT

// The handler changes the layers.
#include "branch.hpp"

#ifdef DROPBP_TEST_WRONG
using Model = const PlainModel;
#else
using Model = PlainModel;
#endif

void use(Model& model) { dropbp::DropBPHandler handler{model}; }
