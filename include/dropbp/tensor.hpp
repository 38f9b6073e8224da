// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Requirements of a tensor: y += x. Norms and contiguous memory are optional.
#pragma once

#include <concepts>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "dropbp/backend/cpu/kernels.hpp"
#include "dropbp/base/deferred.hpp"
#include "dropbp/base/error.hpp"

DROPBP_NAMESPACE_BEGIN

namespace detail {

template <class T>
concept has_nested_traits = requires { typename T::dropbp_tensor_traits; };

template <class T>
concept is_pointer = std::is_pointer_v<std::remove_cvref_t<T>>;

// Half is a number of devices alone.
template <class T>
concept is_number =
    std::convertible_to<T, long double> || std::same_as<std::remove_cvref_t<T>, BFloat16>;

// Types with an outer stride (matrix views) are excluded: they may have gaps between rows, which
// data() and size() do not describe.
template <class T>
concept has_data_and_size = !std::is_const_v<T> && requires(T& t, const T& c) {
  { *c.data() } -> is_number;
  { c.size() } -> std::convertible_to<std::size_t>;
  requires is_pointer<decltype(c.data())> && is_pointer<decltype(t.data())>;
} && !requires(const T& c) { c.outerStride(); };

template <class T>
struct default_tensor_traits {};

template <has_nested_traits T>
struct default_tensor_traits<T> : T::dropbp_tensor_traits {};

template <has_data_and_size T>
  requires(!has_nested_traits<T>)
struct default_tensor_traits<T> {
  static auto data(T& t) { return t.data(); }
  static auto data(const T& t) { return t.data(); }
  static std::size_t size(const T& t) { return static_cast<std::size_t>(t.size()); }
};

}  // namespace detail

/// Describes a tensor type. Types with contiguous data() and size(), such as std::vector<float> and
/// std::span<float>, need nothing. Others define static functions in a nested struct
/// `dropbp_tensor_traits` or, for types of other libraries, in a specialisation of this template:
///
/// - `void accumulate(T& y, const T& x)`:
///   y += x, element by element: sufficient for training
/// - `void scale(T& y, double factor)`:
///   y *= factor: for GradientScaling
/// - `double squared_norm(const T&)`:
///   sum of squares: for GradientNormSensitivity
/// - `DeferredNumber deferred_squared_norm(const T&)`:
///   the same without waiting for the device: for RunningSensitivity; optional
/// - `double squared_distance(const T&, const T&)`, `T clone(const T&)`:
///   with squared_norm: for GradientSensitivity. clone of a view may return an owning type, which
///   squared_distance then takes as its first argument
///
/// Contiguous memory replaces all of these:
///
/// - `data(T&)`, `data(const T&)`, `size(const T&)`
/// - `using backend = ...`:
///   where the memory is; the default is dropbp::Cpu. Memory of another backend still needs
///   squared_norm, squared_distance and clone for GradientSensitivity
///
/// For example:
/// @code
/// struct Field {
///   struct dropbp_tensor_traits {
///     static void accumulate(Field& y, const Field& x) { y.add(x); }
///   };
/// };
/// @endcode
template <class T>
struct tensor_traits : detail::default_tensor_traits<T> {};

namespace detail {

template <class T>
concept has_contiguous_memory = requires(T& t, const T& c) {
  tensor_traits<T>::data(t);
  tensor_traits<T>::data(c);
  { tensor_traits<T>::size(c) } -> std::convertible_to<std::size_t>;
};

template <class T>
concept has_own_accumulate = requires(T& y, const T& x) { tensor_traits<T>::accumulate(y, x); };

template <class T>
concept has_own_norms = requires(const T& x) {
  { tensor_traits<T>::squared_norm(x) } -> std::convertible_to<double>;
};

template <class T>
concept has_deferred_norm = requires(const T& x) {
  { tensor_traits<T>::deferred_squared_norm(x) } -> std::same_as<DeferredNumber>;
};

template <class T>
using clone_of = decltype(tensor_traits<T>::clone(std::declval<const T&>()));

template <class T>
concept has_own_distances = has_own_norms<T> && requires(const T& x) {
  {
    tensor_traits<T>::squared_distance(tensor_traits<T>::clone(x), x)
  } -> std::convertible_to<double>;
} && (has_own_norms<clone_of<T>> || has_contiguous_memory<clone_of<T>>);

template <class T>
struct backend_of {
  using type = Cpu;
};
template <class T>
  requires requires { typename tensor_traits<T>::backend; }
struct backend_of<T> {
  using type = typename tensor_traits<T>::backend;
};

// Whether elements can be copied on the host. Those of another backend need a clone.
template <class T>
concept has_host_memory =
    has_contiguous_memory<T> && std::same_as<typename backend_of<T>::type, Cpu>;

template <class T>
concept spells_contiguous_memory = requires(T& t, const T& c) {
  t.data();
  { c.size() } -> std::convertible_to<std::size_t>;
} && !requires(const T& c) { c.outerStride(); };

template <class T>
concept has_pointers = requires(T& t, const T& c) {
  requires is_pointer<decltype(tensor_traits<T>::data(t))>;
  requires is_pointer<decltype(tensor_traits<T>::data(c))>;
};

// Detects types whose data() returns a container (uBLAS), an iterator or a pointer to something
// that is not a number, and traits of host memory that return the same.
template <class T>
concept mistakes_data = !std::is_const_v<T> && !has_own_accumulate<T> && !has_own_norms<T> &&
                        (has_contiguous_memory<T> ? has_host_memory<T> && !has_pointers<T>
                                                  : spells_contiguous_memory<T>);

// Called in static_asserts before those that require data() and size().
template <class T>
constexpr bool require_data_pointer() {
  static_assert(!mistakes_data<T>,
                "dropbp: data() of this tensor type must return a pointer to its elements, which "
                "are numbers, for a constant tensor too. Where its own data() returns something "
                "else (uBLAS: the storage), give the type tensor_traits whose data(T&) and "
                "data(const T&) return the pointer, and size(const T&) (see tensor.hpp).");
  return true;
}

template <has_contiguous_memory T>
using scalar_of = std::remove_cvref_t<decltype(*tensor_traits<T>::data(std::declval<const T&>()))>;

template <has_contiguous_memory T>
using kernels_of = backend_kernels<typename backend_of<T>::type, scalar_of<T>>;

// A view of constant elements cannot be modified.
template <class T>
concept has_writable_memory = has_contiguous_memory<T> && requires(T& t) {
  requires !std::is_const_v<std::remove_pointer_t<decltype(tensor_traits<T>::data(t))>>;
};

template <class T>
concept has_own_scale = requires(T& y) { tensor_traits<T>::scale(y, 1.0); };

template <class T>
concept has_kernels = !requires { typename kernels_of<T>::are_missing; };

template <class T>
concept has_scale_kernel = has_writable_memory<T> && has_kernels<T> && requires(T& y) {
  kernels_of<T>::scale(tensor_traits<T>::data(y), 1.0, std::size_t{1});
};

// Whether a norm can be computed; a scalar type may have no kernels.
template <class T>
concept has_norm =
    has_own_norms<T> || (has_contiguous_memory<T> && has_kernels<T> && requires(const T& x) {
      kernels_of<T>::squared_norm(tensor_traits<T>::data(x), std::size_t{1});
    });

template <has_contiguous_memory T>
std::size_t size_of(const T& x) {
  return static_cast<std::size_t>(tensor_traits<T>::size(x));
}

inline void require_same_size(std::size_t y, std::size_t x) {
  if (y != x)
    throw_invalid("both tensors of a sum or difference must have the same number of elements",
                  "one has " + text(y) + " and the other " + text(x),
                  "let the branch return a tensor of the shape of its input");
}

}  // namespace detail

/// A tensor with y += x, which training with dropped branches needs.
template <class T>
concept Tensor = detail::has_own_accumulate<T> || detail::has_writable_memory<T>;

/// A tensor with y *= factor, which GradientScaling needs.
template <class T>
concept ScalableTensor = detail::has_own_scale<T> || detail::has_scale_kernel<T>;

/// A tensor with a norm, which GradientNormSensitivity needs.
template <class T>
concept NormedTensor = detail::has_own_norms<T> || detail::has_contiguous_memory<T>;

/// A tensor that can be copied and compared with a later one, which GradientSensitivity needs.
template <class T>
concept ComparableTensor = detail::has_own_distances<T> || detail::has_host_memory<T>;

/// y += x, element by element. Throws std::invalid_argument if contiguous tensors differ in size.
template <class T>
void accumulate(T& y, const T& x) {
  static_assert(detail::require_data_pointer<T>());
  static_assert(Tensor<T>,
                "dropbp: this tensor type does not know y += x: give it data() and size() of "
                "memory that may be written, or tensor_traits with accumulate (see tensor.hpp).");
  if constexpr (detail::has_own_accumulate<T>) {
    tensor_traits<T>::accumulate(y, x);
  } else if constexpr (detail::has_writable_memory<T>) {
    static_assert(
        requires {
          detail::kernels_of<T>::accumulate(tensor_traits<T>::data(y), tensor_traits<T>::data(x),
                                            1u);
        },
        "dropbp: y += x needs accumulate(y, x, n) in the backend_kernels of this tensor's backend "
        "and scalar (see backend/kernels.hpp).");
    detail::require_same_size(detail::size_of(y), detail::size_of(x));
    detail::kernels_of<T>::accumulate(tensor_traits<T>::data(y), tensor_traits<T>::data(x),
                                      detail::size_of(x));
  }
}

/// y *= factor, element by element.
template <class T>
void scale(T& y, double factor) {
  static_assert(detail::require_data_pointer<T>());
  static_assert(ScalableTensor<T>,
                "dropbp: this tensor type does not know y *= factor: give it data() and size() of "
                "memory whose kernels have scale, or tensor_traits with scale (see tensor.hpp).");
  if constexpr (detail::has_own_scale<T>)
    tensor_traits<T>::scale(y, factor);
  else if constexpr (detail::has_scale_kernel<T>)
    detail::kernels_of<T>::scale(tensor_traits<T>::data(y), factor, detail::size_of(y));
}

/// Sum of the squares of all elements, in double.
template <class T>
double squared_norm(const T& x) {
  static_assert(detail::require_data_pointer<T>());
  static_assert(NormedTensor<T>,
                "dropbp: this tensor type does not know its norm: give it data() and size(), or "
                "tensor_traits with double squared_norm(const T&) (see tensor.hpp).");
  if constexpr (detail::has_own_norms<T>) {
    return tensor_traits<T>::squared_norm(x);
  } else if constexpr (NormedTensor<T>) {
    static_assert(
        requires { detail::kernels_of<T>::squared_norm(tensor_traits<T>::data(x), 1u); },
        "dropbp: a norm needs squared_norm(x, n) in the backend_kernels of this tensor's backend "
        "and scalar (see backend/kernels.hpp).");
    return detail::kernels_of<T>::squared_norm(tensor_traits<T>::data(x), detail::size_of(x));
  } else {
    return 0.0;
  }
}

/// squared_norm(x); on a device that can, it stays there until the number is read.
template <class T>
DeferredNumber deferred_squared_norm(const T& x) {
  if constexpr (detail::has_deferred_norm<T>)
    return tensor_traits<T>::deferred_squared_norm(x);
  else
    return squared_norm(x);
}

namespace detail {

template <class T>
struct copy_of {
  using type = std::vector<scalar_of<T>>;
};
template <has_own_distances T>
struct copy_of<T> {
  using type = clone_of<T>;
};

// A copy of a tensor for a later comparison: a clone, or the elements of contiguous memory.
template <ComparableTensor T>
class TensorCopy {
 public:
  explicit TensorCopy(const T& x) : copy_(copy(x)) {}

  double squared_norm() const {
    if constexpr (has_own_distances<T>)
      return dropbp::squared_norm(copy_);
    else
      return kernels_of<T>::squared_norm(copy_.data(), copy_.size());
  }

  double squared_distance(const T& x) const {
    if constexpr (has_own_distances<T>) {
      return tensor_traits<T>::squared_distance(copy_, x);
    } else {
      static_assert(
          requires {
            kernels_of<T>::squared_distance(copy_.data(), tensor_traits<T>::data(x), 1u);
          },
          "dropbp: a distance needs squared_distance(x, y, n) in the backend_kernels of this "
          "tensor's backend and scalar (see backend/kernels.hpp).");
      require_same_size(copy_.size(), detail::size_of(x));
      return kernels_of<T>::squared_distance(copy_.data(), tensor_traits<T>::data(x), copy_.size());
    }
  }

 private:
  static typename copy_of<T>::type copy(const T& x) {
    if constexpr (has_own_distances<T>) {
      return tensor_traits<T>::clone(x);
    } else {
      const auto* first = tensor_traits<T>::data(x);
      return {first, first + detail::size_of(x)};
    }
  }

  typename copy_of<T>::type copy_;
};

}  // namespace detail
DROPBP_NAMESPACE_END
