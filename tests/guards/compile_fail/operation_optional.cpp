// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The optional functions of an operation: where one is there, it must be callable.
#include <utility>
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

// Like forward, forward_residual is given a pointer.
// expect: dropbp: the operation's forward_residual would never be called
namespace forward_residual_with_a_reference {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  void forward_residual(Vector&, Saved&) {}
#else
  void forward_residual(Vector&, Saved*) {}
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, Vector x) { return layer.forward(std::move(x)); }
}  // namespace forward_residual_with_a_reference

// What forward_residual returns would be lost.
// expect: dropbp: forward_residual must add f(x) to x in place and return nothing
namespace forward_residual_returns_the_sum {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  Vector forward_residual(const Vector& x, Saved*) { return x; }
#else
  void forward_residual(Vector&, Saved*) {}
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, Vector x) { return layer.forward(std::move(x)); }
}  // namespace forward_residual_returns_the_sum

// Like backward, backward_residual is given a reference.
// expect: dropbp: the operation's backward_residual would never be called
namespace backward_residual_with_a_pointer {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  void backward_residual(Vector&, Saved*) {}
#else
  void backward_residual(Vector&, Saved&) {}
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) { return layer.backward(grad); }
}  // namespace backward_residual_with_a_pointer

// What backward_residual returns would be lost.
// expect: dropbp: backward_residual must add the input's gradient to grad in place and return
// nothing
namespace backward_residual_returns_the_sum {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  Vector backward_residual(const Vector& grad, Saved&) { return grad; }
#else
  void backward_residual(Vector&, Saved&) {}
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) { return layer.backward(grad); }
}  // namespace backward_residual_returns_the_sum

// Like backward, backward_parameters is given a reference.
// expect: dropbp: the operation's backward_parameters would never be called
namespace backward_parameters_with_a_pointer {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  void backward_parameters(const Vector&, Saved*) {}
#else
  void backward_parameters(const Vector&, Saved&) {}
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace backward_parameters_with_a_pointer

// The extra arguments go to the optional functions too.
// expect: dropbp: the operation's backward_parameters would never be called
namespace backward_parameters_without_the_extra_argument {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*, float) { return x; }
  Vector backward(const Vector& grad_output, Saved&, float) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  void backward_parameters(const Vector&, Saved&) {}
#else
  void backward_parameters(const Vector&, Saved&, float) {}
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) {
  return layer.backward(grad, 1.0f);
}
}  // namespace backward_parameters_without_the_extra_argument

// A cost that is never read would count as 1.
// expect: dropbp: the operation's cost() must be const and return a number
namespace cost_that_is_not_const {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  double cost() { return 8.0; }
#else
  double cost() const { return 8.0; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace cost_that_is_not_const

// The name of cost() before version 0.2: a cost that nobody reads would count as 1.
// expect: dropbp: the operation's flops() is called cost() since version 0.2
namespace cost_by_its_old_name {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  double flops() const { return 8.0; }
#else
  double cost() const { return 8.0; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace cost_by_its_old_name

// A cost is a number.
// expect: dropbp: the operation's cost() must be const and return a number
namespace cost_that_is_no_number {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  Vector cost() const { return {8.0f}; }
#else
  float cost() const { return 8.0f; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace cost_that_is_no_number

// A frozen branch that is never asked would count as trainable.
// expect: dropbp: the operation's trainable() must be const and return a bool
namespace trainable_that_is_not_const {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG
  bool trainable() { return false; }
#else
  bool trainable() const { return false; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace trainable_that_is_not_const
