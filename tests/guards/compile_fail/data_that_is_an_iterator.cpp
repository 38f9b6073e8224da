// expect: dropbp: data\(\) of this tensor type must return a pointer to its elements
// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An iterator can be dereferenced, too, but says nothing of what lies behind it.
#include <cstddef>
#include <deque>
#include <utility>
#include <vector>

#include "dropbp/layer.hpp"

struct Field {
#ifdef DROPBP_TEST_WRONG
  std::deque<float> storage;
  auto data() { return storage.begin(); }
  auto data() const { return storage.begin(); }
#else
  std::vector<float> storage;
  auto data() { return storage.data(); }
  auto data() const { return storage.data(); }
#endif
  std::size_t size() const { return storage.size(); }
};

struct Branch {
  struct Saved {};
  Field forward(const Field& x, Saved*) { return x; }
  Field backward(const Field& grad_output, Saved&) { return grad_output; }
};

Field use(dropbp::DropBPLayer<Branch>& layer, Field grad) {
  return layer.backward(std::move(grad));
}
