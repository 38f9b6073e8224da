// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What makes a type a tensor: its elements, its sums and its norms.
#include <cstddef>
#include <deque>
#include <list>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "dropbp/layer.hpp"
#include "dropbp/tensor.hpp"

// What goes through a layer must be a tensor.
// expect: dropbp: this tensor type does not know y += x
namespace layer_of_no_tensor {
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
}  // namespace layer_of_no_tensor

// What goes through backward must be a tensor.
// expect: dropbp: this gradient type does not know y += x
namespace gradient_is_no_tensor {
#ifdef DROPBP_TEST_WRONG
using Gradient = std::list<float>;
#else
using Gradient = std::vector<float>;
#endif

struct Branch {
  struct Saved {};
  Gradient forward(const Gradient& x, Saved*) { return x; }
  Gradient backward(const Gradient& grad_output, Saved&) { return grad_output; }
};

Gradient use(dropbp::DropBPLayer<Branch>& layer, Gradient grad) {
  return layer.backward(std::move(grad));
}
}  // namespace gradient_is_no_tensor

// What is added stays as it is.
// expect: dropbp: this tensor type does not know y += x
namespace accumulate_changes_the_other_tensor {
struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
#ifdef DROPBP_TEST_WRONG
    static void accumulate(Field& y, Field& x) { y.value += x.value; }
#else
    static void accumulate(Field& y, const Field& x) { y.value += x.value; }
#endif
  };
};

void use(Field& y, const Field& x) { dropbp::accumulate(y, x); }
}  // namespace accumulate_changes_the_other_tensor

// Another tensor is added, not a number.
// expect: dropbp: this tensor type does not know y += x
namespace accumulate_with_other_arguments {
struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
#ifdef DROPBP_TEST_WRONG
    static void accumulate(Field& y, float x) { y.value += x; }
#else
    static void accumulate(Field& y, const Field& x) { y.value += x.value; }
#endif
  };
};

void use(Field& y, const Field& x) { dropbp::accumulate(y, x); }
}  // namespace accumulate_with_other_arguments

// Traits are functions of a type, not of an object.
// expect: dropbp: this tensor type does not know y += x
namespace accumulate_that_is_not_static {
struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
#ifdef DROPBP_TEST_WRONG
    void accumulate(Field& y, const Field& x) { y.value += x.value; }
#else
    static void accumulate(Field& y, const Field& x) { y.value += x.value; }
#endif
  };
};

void use(Field& y, const Field& x) { dropbp::accumulate(y, x); }
}  // namespace accumulate_that_is_not_static

// A view of constants cannot be added to.
// expect: dropbp: this tensor type does not know y += x
namespace accumulate_into_constants {
#ifdef DROPBP_TEST_WRONG
using View = std::span<const float>;
#else
using View = std::span<float>;
#endif

void use(View y, View x) { dropbp::accumulate(y, x); }
}  // namespace accumulate_into_constants

// A matrix view with an outer stride may have gaps between its rows.
// expect: dropbp: this tensor type does not know y += x
namespace rows_with_gaps {
struct View {
  float* first = nullptr;
  std::size_t count = 0;
  float* data() { return first; }
  const float* data() const { return first; }
  std::size_t size() const { return count; }
#ifdef DROPBP_TEST_WRONG
  std::size_t outerStride() const { return 2 * count; }
#endif
};

void use(View& y, const View& x) { dropbp::accumulate(y, x); }
}  // namespace rows_with_gaps

// GradientScaling needs y *= factor.
// expect: dropbp: this tensor type does not know y *= factor
namespace scale_of_a_tensor_without_it {
struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
    static void accumulate(Field& y, const Field& x) { y.value += x.value; }
#ifndef DROPBP_TEST_WRONG
    static void scale(Field& y, double factor) { y.value *= static_cast<float>(factor); }
#endif
  };
};

void use(Field& y) { dropbp::scale(y, 0.5); }
}  // namespace scale_of_a_tensor_without_it

// A norm is returned as a number.
// expect: dropbp: this tensor type does not know its norm
namespace norm_that_is_no_number {
struct Field {
  float value = 0;
  struct dropbp_tensor_traits {
#ifdef DROPBP_TEST_WRONG
    static Field squared_norm(const Field& x) { return {x.value * x.value}; }
#else
    static double squared_norm(const Field& x) { return static_cast<double>(x.value * x.value); }
#endif
  };
};

double use(const Field& x) { return dropbp::squared_norm(x); }
}  // namespace norm_that_is_no_number

// As in uBLAS, whose data() is the storage.
// expect: dropbp: data() of this tensor type must return a pointer to its elements
namespace data_that_is_no_pointer {
struct Field {
  std::vector<float> storage;
#ifdef DROPBP_TEST_WRONG
  std::vector<float>& data() { return storage; }
  const std::vector<float>& data() const { return storage; }
#else
  float* data() { return storage.data(); }
  const float* data() const { return storage.data(); }
#endif
  std::size_t size() const { return storage.size(); }
};

void use(Field& y, const Field& x) { dropbp::accumulate(y, x); }
}  // namespace data_that_is_no_pointer

// An iterator can be dereferenced, too, but says nothing of what lies behind it.
// expect: dropbp: data() of this tensor type must return a pointer to its elements
namespace data_that_is_an_iterator {
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
}  // namespace data_that_is_an_iterator

// Traits that hand on what the type itself calls data().
// expect: dropbp: data() of this tensor type must return a pointer to its elements
namespace traits_whose_data_is_no_pointer {
struct Field {
  std::vector<float> storage;
  struct dropbp_tensor_traits {
#ifdef DROPBP_TEST_WRONG
    static auto& data(Field& x) { return x.storage; }
    static auto& data(const Field& x) { return x.storage; }
#else
    static auto data(Field& x) { return x.storage.data(); }
    static auto data(const Field& x) { return x.storage.data(); }
#endif
    static std::size_t size(const Field& x) { return x.storage.size(); }
  };
};

void use(Field& y, const Field& x) { dropbp::accumulate(y, x); }
}  // namespace traits_whose_data_is_no_pointer

// expect: dropbp: there are no kernels for this (backend, scalar)
namespace scalar_without_kernels {
#ifdef DROPBP_TEST_WRONG
using Scalar = int;
#else
using Scalar = float;
#endif

void use(std::vector<Scalar>& y, const std::vector<Scalar>& x) { dropbp::accumulate(y, x); }
}  // namespace scalar_without_kernels

// Norms need kernels as sums do.
// expect: dropbp: there are no kernels for this (backend, scalar)
namespace norm_of_a_scalar_without_kernels {
#ifdef DROPBP_TEST_WRONG
using Scalar = short;
#else
using Scalar = double;
#endif

double use(const std::vector<Scalar>& x) { return dropbp::squared_norm(x); }
}  // namespace norm_of_a_scalar_without_kernels

// Memory of another backend is never touched by the kernels of the host.
// expect: dropbp: there are no kernels for this (backend, scalar)
namespace device_memory_without_kernels {
struct DeviceArray {
  float* pointer = nullptr;
  std::size_t count = 0;
  struct dropbp_tensor_traits {
    static float* data(DeviceArray& x) { return x.pointer; }
    static const float* data(const DeviceArray& x) { return x.pointer; }
    static std::size_t size(const DeviceArray& x) { return x.count; }
#ifdef DROPBP_TEST_WRONG
    struct OwnCard {};
    using backend = OwnCard;
#endif
  };
};

void use(DeviceArray& y, const DeviceArray& x) { dropbp::accumulate(y, x); }
}  // namespace device_memory_without_kernels

// Memory of a card needs its own kernels.
// expect: dropbp: there are no kernels for this (backend, scalar)
namespace cuda_memory_without_kernels {
#ifdef DROPBP_TEST_WRONG
using Memory = dropbp::Cuda;
#else
using Memory = dropbp::Cpu;
#endif

struct Array {
  float* pointer = nullptr;
  std::size_t count = 0;
  struct dropbp_tensor_traits {
    using backend = Memory;
    static float* data(const Array& x) { return x.pointer; }
    static std::size_t size(const Array& x) { return x.count; }
  };
};

void use(Array& y, const Array& x) { dropbp::accumulate(y, x); }
}  // namespace cuda_memory_without_kernels

// Own kernels must have what is asked of them.
// expect: dropbp: y += x needs accumulate(y, x, n) in the backend_kernels
namespace kernels_without_accumulate {
struct AccumulatingCard {};
}  // namespace kernels_without_accumulate

template <>
struct dropbp::backend_kernels<kernels_without_accumulate::AccumulatingCard, float> {
#ifndef DROPBP_TEST_WRONG
  static void accumulate(float* y, const float* x, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) y[i] += x[i];
  }
#endif
};

namespace kernels_without_accumulate {
struct Halves {
  float* pointer = nullptr;
  std::size_t count = 0;
  struct dropbp_tensor_traits {
    using backend = AccumulatingCard;
    static float* data(const Halves& x) { return x.pointer; }
    static std::size_t size(const Halves& x) { return x.count; }
  };
};

void use(Halves& y, const Halves& x) { dropbp::accumulate(y, x); }
}  // namespace kernels_without_accumulate

// Own kernels must have what is asked of them.
// expect: dropbp: a norm needs squared_norm(x, n) in the backend_kernels
namespace kernels_without_squared_norm {
struct NormingCard {};
}  // namespace kernels_without_squared_norm

template <>
struct dropbp::backend_kernels<kernels_without_squared_norm::NormingCard, float> {
#ifndef DROPBP_TEST_WRONG
  static double squared_norm(const float* x, std::size_t n) {
    return n == 0 ? 0.0 : static_cast<double>(x[0]);
  }
#endif
};

namespace kernels_without_squared_norm {
struct Norms {
  float* pointer = nullptr;
  std::size_t count = 0;
  struct dropbp_tensor_traits {
    using backend = NormingCard;
    static float* data(const Norms& x) { return x.pointer; }
    static std::size_t size(const Norms& x) { return x.count; }
  };
};

double use(const Norms& x) { return dropbp::squared_norm(x); }
}  // namespace kernels_without_squared_norm
