// expect: dropbp: this tensor type does not know y \+= x
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What goes through a layer must be a tensor.
#include "dropbp/layer.hpp"

struct Field {
  float value = 0;
#ifndef DROPBP_TEST_WRONG
  struct dropbp_tensor_traits {
    static void accumulate(Field& y, const Field& x) { y.value += x.value; }
  };
#endif
};

struct Branch {
  struct Saved {};
  Field forward(const Field& x, Saved*) { return x; }
  Field backward(const Field& grad_output, Saved&) { return grad_output; }
};

Field use(dropbp::DropBPLayer<Branch>& layer, const Field& x) { return layer.forward(x); }
