// expect: dropbp: a handler.s model needs for_each_layer\(visit\), which calls visit\(layer\) with
// a reference SPDX-FileCopyrightText: 2026 The dropbp authors SPDX-License-Identifier: MIT

// The handler calls for_each_layer.
#include "branch.hpp"

class Model {
#ifndef DROPBP_TEST_WRONG
 public:
#endif
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    visit(layer_);
  }

 private:
  dropbp::DropBPLayer<Branch> layer_{Branch{}};
};

void use(Model& model) { dropbp::DropBPHandler handler{model}; }
