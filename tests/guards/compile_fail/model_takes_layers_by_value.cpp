// expect: dropbp: a handler.s model needs for_each_layer\(visit\), which calls visit\(layer\) with
// a reference SPDX-FileCopyrightText: 2026 The dropbp authors SPDX-License-Identifier: MIT

// A visitor of copies would tell nobody.
#include <functional>

#include "branch.hpp"

struct Model {
  dropbp::DropBPLayer<Branch> layer{Branch{}};
#ifdef DROPBP_TEST_WRONG
  using Visit = std::function<void(dropbp::DropBPLayer<Branch>)>;
#else
  using Visit = std::function<void(dropbp::DropBPLayer<Branch>&)>;
#endif
  void for_each_layer(const Visit& visit) { visit(layer); }
};

void use(Model& model) { dropbp::DropBPHandler handler{model}; }
