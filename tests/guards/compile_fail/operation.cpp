// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a layer asks of its operation: Saved, forward and backward.
#include <atomic>
#include <memory>
#include <vector>

#include "dropbp/layer.hpp"

using Vector = std::vector<float>;

// expect: dropbp: an operation needs a default-constructible, movable member type `struct Saved`
namespace operation_without_saved {
struct Branch {
#ifndef DROPBP_TEST_WRONG
  struct Saved {};
#endif
  std::vector<float> forward(const std::vector<float>& x, void*) { return x; }
  std::vector<float> backward(const std::vector<float>& grad_output, auto&) { return grad_output; }
};

std::vector<float> use(dropbp::DropBPLayer<Branch>& layer, const std::vector<float>& x) {
  return layer.forward(x);
}
}  // namespace operation_without_saved

// The layer keeps what an operation saves: it must see the type.
// expect: dropbp: an operation needs a default-constructible, movable member type `struct Saved`
namespace saved_is_private {
class Branch {
#ifndef DROPBP_TEST_WRONG
 public:
#endif
  struct Saved {};

 public:
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace saved_is_private

// The layer makes what an operation saves.
// expect: dropbp: an operation needs a default-constructible, movable member type `struct Saved`
namespace saved_without_default {
struct Branch {
  struct Saved {
#ifdef DROPBP_TEST_WRONG
    explicit Saved(int) {}
#endif
  };
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace saved_without_default

// The layer moves what an operation saves.
// expect: dropbp: an operation needs a default-constructible, movable member type `struct Saved`
namespace saved_that_stays {
struct Branch {
  struct Saved {
#ifdef DROPBP_TEST_WRONG
    std::atomic<int> reads = 0;
#endif
  };
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace saved_that_stays

// The layer owns its operation.
// expect: dropbp: a layer owns its operation, which must be movable
namespace operation_that_stays {
struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  std::atomic<int> calls = 0;
#else
  std::unique_ptr<std::atomic<int>> calls;
#endif
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace operation_that_stays

// A layer of a constant operation can only call constant functions.
// expect: dropbp: the operation needs forward(const T& x, Saved* saved, args
namespace constant_operation {
struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  Vector forward(const Vector& x, Saved*) { return x; }
#else
  Vector forward(const Vector& x, Saved*) const { return x; }
#endif
  Vector backward(const Vector& grad_output, Saved&) const { return grad_output; }
};

Vector use(dropbp::DropBPLayer<const Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace constant_operation

// An operation needs a forward that takes a constant x.
// expect: dropbp: the operation needs forward(const T& x, Saved* saved, args
namespace operation_without_forward {
struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  Vector forward(Vector& x, Saved*) { return x; }
#else
  Vector forward(const Vector& x, Saved*) { return x; }
#endif
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward_branch(x); }
}  // namespace operation_without_forward

// The layer calls forward.
// expect: dropbp: the operation needs forward(const T& x, Saved* saved, args
namespace forward_is_private {
class Branch {
 public:
  struct Saved {};
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#ifdef DROPBP_TEST_WRONG

 private:
#endif
  Vector forward(const Vector& x, Saved*) { return x; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace forward_is_private

// Forward must know whether it is to save.
// expect: dropbp: the operation needs forward(const T& x, Saved* saved, args
namespace forward_without_saved {
struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  Vector forward(const Vector& x) { return x; }
#else
  Vector forward(const Vector& x, Saved*) { return x; }
#endif
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace forward_without_saved

// A dropped branch's forward is given no place to save into: a pointer, which may be null.
// expect: dropbp: the operation needs forward(const T& x, Saved* saved, args
namespace forward_saves_into_a_reference {
struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  Vector forward(const Vector& x, Saved&) { return x; }
#else
  Vector forward(const Vector& x, Saved*) { return x; }
#endif
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace forward_saves_into_a_reference

// What forward computes is returned, not written into its argument.
// expect: dropbp: the operation needs forward(const T& x, Saved* saved, args...), which returns
// f(x)
namespace forward_returns_nothing {
struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  void forward(const Vector&, Saved*) {}
#else
  Vector forward(const Vector& x, Saved*) { return x; }
#endif
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace forward_returns_nothing

// A residual sum needs f(x) of the type of x.
// expect: dropbp: forward must return f(x) as a tensor of the type of x
namespace forward_returns_another_type {
struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  using Result = std::vector<double>;
#else
  using Result = Vector;
#endif
  Result forward(const Vector& x, Saved*) { return Result(x.size()); }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace forward_returns_another_type

// The operation is called with the layer's tensor type.
// expect: dropbp: the operation needs forward(const T& x, Saved* saved, args
namespace forward_of_another_scalar {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
};

#ifdef DROPBP_TEST_WRONG
using Input = std::vector<double>;
#else
using Input = Vector;
#endif

Input use(dropbp::DropBPLayer<Branch>& layer, const Input& x) { return layer.forward(x); }
}  // namespace forward_of_another_scalar

// An operation needs a backward, which forward already asks for.
// expect: dropbp: the operation needs backward(const T& grad_output, Saved& saved, args
namespace operation_without_backward {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
#ifndef DROPBP_TEST_WRONG
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace operation_without_backward

// The branch face needs a backward too.
// expect: dropbp: the operation needs backward(const T& grad_output, Saved& saved, args
namespace backward_branch_without_backward {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
#ifndef DROPBP_TEST_WRONG
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#endif
};

auto use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) {
  return layer.backward_branch(grad);
}
}  // namespace backward_branch_without_backward

// Backward is handed what forward saved.
// expect: dropbp: the operation needs backward(const T& grad_output, Saved& saved, args
namespace backward_without_saved {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
#ifdef DROPBP_TEST_WRONG
  Vector backward(const Vector& grad_output) { return grad_output; }
#else
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) { return layer.backward(grad); }
}  // namespace backward_without_saved

// Backward always has something saved: a reference.
// expect: dropbp: the operation needs backward(const T& grad_output, Saved& saved, args
namespace backward_with_a_pointer {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
#ifdef DROPBP_TEST_WRONG
  Vector backward(const Vector& grad_output, Saved*) { return grad_output; }
#else
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x); }
}  // namespace backward_with_a_pointer

// The gradient of the output still passes through the shortcut: backward must leave it as it is.
// expect: dropbp: the operation needs backward(const T& grad_output, Saved& saved, args
namespace backward_changes_its_argument {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
#ifdef DROPBP_TEST_WRONG
  Vector backward(Vector& grad_output, Saved&) { return grad_output; }
#else
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) { return layer.backward(grad); }
}  // namespace backward_changes_its_argument

// The gradient of the input is returned, not written into the argument.
// expect: dropbp: the operation needs backward(const T& grad_output, Saved& saved, args...), which
// returns
namespace backward_returns_nothing {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) { return x; }
#ifdef DROPBP_TEST_WRONG
  void backward(const Vector&, Saved&) {}
#else
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) { return layer.backward(grad); }
}  // namespace backward_returns_nothing

// A residual sum needs the gradient of the input of the type of the one it is added to.
// expect: dropbp: backward must return the gradient of its input as a tensor of the type of
// grad_output
namespace backward_returns_another_type {
struct Branch {
  struct Saved {};
#ifdef DROPBP_TEST_WRONG
  using Result = std::vector<double>;
#else
  using Result = Vector;
#endif
  Vector forward(const Vector& x, Saved*) { return x; }
  Result backward(const Vector& grad_output, Saved&) { return Result(grad_output.size()); }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad) { return layer.backward(grad); }
}  // namespace backward_returns_another_type

// The extra arguments of a call must be those of the operation.
// expect: dropbp: the operation needs forward(const T& x, Saved* saved, args
namespace extra_argument_missing {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*, const Vector&) { return x; }
  Vector backward(const Vector& grad_output, Saved&, const Vector&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x,
           [[maybe_unused]] const Vector& mask) {
#ifdef DROPBP_TEST_WRONG
  return layer.forward(x);
#else
  return layer.forward(x, mask);
#endif
}
}  // namespace extra_argument_missing

// The extra arguments of forward go to backward too.
// expect: dropbp: the operation needs backward(const T& grad_output, Saved& saved, args
namespace extra_argument_missing_in_backward {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*, const Vector&) { return x; }
  Vector backward(const Vector& grad_output, Saved&, const Vector&) { return grad_output; }
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad,
           [[maybe_unused]] const Vector& mask) {
#ifdef DROPBP_TEST_WRONG
  return layer.backward(grad);
#else
  return layer.backward(grad, mask);
#endif
}
}  // namespace extra_argument_missing_in_backward

// The extra arguments of forward_branch go to backward_branch too.
// expect: dropbp: the operation needs backward(const T& grad_output, Saved& saved, args
namespace extra_argument_missing_in_backward_branch {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*, const Vector&) { return x; }
  Vector backward(const Vector& grad_output, Saved&, const Vector&) { return grad_output; }
};

auto use(dropbp::DropBPLayer<Branch>& layer, const Vector& grad,
         [[maybe_unused]] const Vector& mask) {
#ifdef DROPBP_TEST_WRONG
  return layer.backward_branch(grad);
#else
  return layer.backward_branch(grad, mask);
#endif
}
}  // namespace extra_argument_missing_in_backward_branch

// An extra argument goes to forward and backward alike.
// expect: dropbp: the operation needs backward(const T& grad_output, Saved& saved, args
namespace extra_argument_of_forward_alone {
struct Branch {
  struct Saved {};
  Vector forward(const Vector& x, Saved*, float) { return x; }
#ifdef DROPBP_TEST_WRONG
  Vector backward(const Vector& grad_output, Saved&) { return grad_output; }
#else
  Vector backward(const Vector& grad_output, Saved&, float) { return grad_output; }
#endif
};

Vector use(dropbp::DropBPLayer<Branch>& layer, const Vector& x) { return layer.forward(x, 1.0f); }
}  // namespace extra_argument_of_forward_alone
