// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Sensitivity policies: each turns the gradients of two passes, with one branch kept and dropped,
// into one number. The passes are run in sensitivity/.
#pragma once

#include <concepts>
#include <cstddef>
#include <utility>
#include <vector>

#include "dropbp/base/error.hpp"
#include "dropbp/model.hpp"
#include "dropbp/tensor.hpp"

DROPBP_NAMESPACE_BEGIN

namespace detail {

[[noreturn]] inline void throw_gradients_changed() {
  throw_order("for_each_gradient must visit the same gradient tensors in the same order every time",
              "it visited other ones than in the pass before",
              "visit a null pointer where a parameter has no gradient");
}

}  // namespace detail

/// The published default: S_i = sum over trained tensors t of (||g_t|| - ||g_t^(i)||)^2, where
/// g^(i) is the gradient with only branch i dropped. An absent gradient counts as zero. Needs
/// NormedTensor gradients. Memory: one double per parameter tensor.
struct GradientNormSensitivity {
  using Reference = std::vector<double>;  ///< ||g_t|| of each trained tensor

  /// See Sensitivity.
  template <class Model>
  Reference reference(Model& model) const {
    Reference norms;
    detail::for_each_gradient_of(model,
                                 [&](const auto* gradient) { norms.push_back(norm(gradient)); });
    return norms;
  }

  /// See Sensitivity. Throws std::logic_error if the model visits other tensors than in
  /// reference().
  template <class Model>
  double difference(const Reference& reference, Model& model) const {
    double sum = 0.0;
    std::size_t t = 0;
    detail::for_each_gradient_of(model, [&](const auto* gradient) {
      if (t == reference.size()) detail::throw_gradients_changed();
      const double change = reference[t++] - norm(gradient);
      sum += change * change;
    });
    if (t != reference.size()) detail::throw_gradients_changed();
    return sum;
  }

 private:
  template <class T>
  static double norm(const T* gradient) {
    static_assert(detail::require_data_pointer<T>());
    static_assert(NormedTensor<T>,
                  "dropbp: GradientNormSensitivity needs the norm of every gradient: give the "
                  "gradients' type data() and size(), or tensor_traits with squared_norm.");
    return gradient == nullptr ? 0.0 : detail::square_root(dropbp::squared_norm(*gradient));
  }
};

/// S_i = sum over trained tensors t of ||g_t - g_t^(i)||^2, with g^(i) as above. Needs
/// ComparableTensor gradients. Memory: one copy of all gradients.
struct GradientSensitivity {
  /// A copy of every gradient.
  class Reference {
   public:
    /// Copies one gradient; null if it is absent.
    template <class T>
    void push_back(const T* gradient) {
      // Entries are type-erased, because the gradients of one model may have several types.
      entries_.push_back({nullptr, nullptr, &tag<T>});
      if (gradient == nullptr) return;
      entries_.back().copy = new detail::TensorCopy<T>(*gradient);
      entries_.back().destroy = [](void* copy) {
        delete static_cast<detail::TensorCopy<T>*>(copy);
      };
    }

    std::size_t size() const noexcept { return entries_.size(); }  ///< number of tensors

    /// ||g_t - gradient||^2
    template <class T>
    double squared_distance(std::size_t t, const T* gradient) const {
      const Entry& entry = entries_[t];
      if (entry.type != &tag<T>) detail::throw_gradients_changed();
      const auto* copy = static_cast<const detail::TensorCopy<T>*>(entry.copy);
      if (copy == nullptr) return gradient == nullptr ? 0.0 : dropbp::squared_norm(*gradient);
      return gradient == nullptr ? copy->squared_norm() : copy->squared_distance(*gradient);
    }

    Reference() = default;  ///< holds no tensor
    /// Leaves `other` empty.
    Reference(Reference&& other) noexcept : entries_(std::move(other.entries_)) {
      other.entries_.clear();
    }
    /// Swaps the contents.
    Reference& operator=(Reference&& other) noexcept {
      entries_.swap(other.entries_);
      return *this;
    }
    ~Reference() {
      for (Entry& entry : entries_)
        if (entry.copy != nullptr) entry.destroy(entry.copy);
    }

   private:
    struct Entry {
      void* copy;
      void (*destroy)(void*);
      const char* type;
    };
    template <class T>
    static inline const char tag{};
    std::vector<Entry> entries_;
  };

  /// See Sensitivity.
  template <class Model>
  Reference reference(Model& model) const {
    Reference copies;
    detail::for_each_gradient_of(model, [&](const auto* gradient) {
      require_comparable(gradient);
      copies.push_back(gradient);
    });
    return copies;
  }

  /// See Sensitivity. Throws std::logic_error if the model visits other tensors than in
  /// reference().
  template <class Model>
  double difference(const Reference& reference, Model& model) const {
    double sum = 0.0;
    std::size_t t = 0;
    detail::for_each_gradient_of(model, [&](const auto* gradient) {
      if (t == reference.size()) detail::throw_gradients_changed();
      sum += reference.squared_distance(t++, gradient);
    });
    if (t != reference.size()) detail::throw_gradients_changed();
    return sum;
  }

 private:
  template <class T>
  static void require_comparable(const T*) {
    static_assert(detail::require_data_pointer<T>());
    static_assert(ComparableTensor<T>,
                  "dropbp: GradientSensitivity keeps and compares every gradient: give the "
                  "gradients' type data() and size() of host memory, or tensor_traits with "
                  "squared_norm, squared_distance and clone.");
  }
};

namespace detail {

struct NoGradients {
  template <class Visit>
  void for_each_gradient(Visit&&) {}
};

template <class S>
concept has_reference = requires(const S& policy, NoGradients& model) {
  { policy.reference(model) } -> std::same_as<typename S::Reference>;
};

template <class S>
concept has_difference =
    requires(const S& policy, const typename S::Reference& reference, NoGradients& model) {
      { policy.difference(reference, model) } -> std::same_as<double>;
    };

}  // namespace detail

/// A sensitivity policy compares the gradients of two backward passes:
///
/// - `Reference reference(Model&) const`:
///   what to remember of the pass that drops nothing
/// - `double difference(const Reference&, Model&) const`:
///   the sensitivity of a branch, after a pass that drops only this branch
template <class S>
concept Sensitivity = detail::has_reference<S> && detail::has_difference<S>;

DROPBP_NAMESPACE_END
