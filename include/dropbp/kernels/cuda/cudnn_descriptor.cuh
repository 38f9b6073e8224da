// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Descriptors of cuDNN's backend API, of which graphs and plans are made.
#if !defined(__CUDACC__)
#error "dropbp: cudnn_descriptor.cuh is for .cu files; other files include dropbp/dropbp.hpp"
#endif
#pragma once

#include <cudnn.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "dropbp/base/config.hpp"

// Before 9.16, cuDNN requires sequences padded to multiples of 128 tokens. Before 9.18, it is not
// deterministic on Blackwell.
#if CUDNN_VERSION < 91800
#error "dropbp: DROPBP_CUDNN needs cuDNN 9.18 or newer; install it, or compile without DROPBP_CUDNN"
#endif

DROPBP_NAMESPACE_BEGIN
namespace cuda {
namespace detail {

/// The oldest supported version, in the format of cudnnGetVersion.
inline constexpr std::size_t oldest_cudnn = 91800;

/// "cuDNN 9.19.0", the version that runs.
inline std::string cudnn_name() {
  const std::size_t version = cudnnGetVersion();
  return "cuDNN " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) +
         "." + std::to_string(version % 100);
}

/// Whether the status means that cuDNN has done nothing because it does not support the request,
/// rather than that work failed. The thousands of a status are its category.
constexpr bool is_refusal(cudnnStatus_t status) {
  const int category = static_cast<int>(status) / 1000 * 1000;
  return category == static_cast<int>(CUDNN_STATUS_NOT_SUPPORTED) ||
         category == static_cast<int>(CUDNN_STATUS_BAD_PARAM);
}

/// Thrown if cuDNN does not support a shape.
struct CudnnRefusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Thrown if cuDNN needs more memory than it may take.
struct CudnnMemoryRefusal : CudnnRefusal {
  std::size_t bytes;  ///< that it needs
  CudnnMemoryRefusal(const std::string& what, std::size_t needed)
      : CudnnRefusal(what), bytes(needed) {}
};

inline void require_taken(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char reason[512] = "";
  cudnnGetLastErrorString(reason, sizeof reason);
  throw CudnnRefusal(std::string(what) + ": " + cudnnGetErrorString(status) +
                     (reason[0] != '\0' ? std::string(", ") + reason : ""));
}

template <class V>
constexpr cudnnBackendAttributeType_t attribute_type() {
  if constexpr (std::is_same_v<V, std::int64_t>)
    return CUDNN_TYPE_INT64;
  else if constexpr (std::is_same_v<V, bool>)
    return CUDNN_TYPE_BOOLEAN;
  else if constexpr (std::is_same_v<V, char>)
    return CUDNN_TYPE_CHAR;
  else if constexpr (std::is_same_v<V, cudnnBackendDescriptor_t>)  // a void*
    return CUDNN_TYPE_BACKEND_DESCRIPTOR;
  else if constexpr (std::is_same_v<V, cudnnHandle_t>)
    return CUDNN_TYPE_HANDLE;
  else if constexpr (std::is_same_v<V, cudnnDataType_t>)
    return CUDNN_TYPE_DATA_TYPE;
  else if constexpr (std::is_same_v<V, cudnnPointwiseMode_t>)
    return CUDNN_TYPE_POINTWISE_MODE;
  else if constexpr (std::is_same_v<V, cudnnReduceTensorOp_t>)
    return CUDNN_TYPE_REDUCTION_OPERATOR_TYPE;
  else if constexpr (std::is_same_v<V, cudnnBackendHeurMode_t>)
    return CUDNN_TYPE_HEUR_MODE;
  else if constexpr (std::is_same_v<V, cudnnBackendKnobType_t>)
    return CUDNN_TYPE_KNOB_TYPE;
  else {
    static_assert(std::is_same_v<V, cudnnBackendNumericalNote_t>);
    return CUDNN_TYPE_NUMERICAL_NOTE;
  }
}

/// A descriptor of the backend API.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    require_taken(cudnnBackendCreateDescriptor(type, &descriptor_), "a descriptor must be made");
  }
  Descriptor(Descriptor&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, nullptr)) {}
  Descriptor& operator=(Descriptor other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Descriptor() {
    if (descriptor_) cudnnBackendDestroyDescriptor(descriptor_);
  }

  template <class V>
  void set(cudnnBackendAttributeName_t name, const V* values, std::size_t count) {
    require_taken(cudnnBackendSetAttribute(descriptor_, name, attribute_type<V>(),
                                           static_cast<std::int64_t>(count), values),
                  "an attribute must be set");
  }
  template <class V>
  void set(cudnnBackendAttributeName_t name, const V& value) {
    set(name, &value, 1);
  }
  void set_pointers(cudnnBackendAttributeName_t name, void* const* values, std::size_t count) {
    require_taken(cudnnBackendSetAttribute(descriptor_, name, CUDNN_TYPE_VOID_PTR,
                                           static_cast<std::int64_t>(count), values),
                  "pointers must be set");
  }
  /// The value of an attribute that has exactly one value.
  template <class V>
  V get_one(cudnnBackendAttributeName_t name) const {
    V value{};
    std::int64_t count = 0;
    require_taken(
        cudnnBackendGetAttribute(descriptor_, name, attribute_type<V>(), 1, &count, &value),
        "an attribute must be known");
    return value;
  }
  /// The values of an attribute, at most `most` of them.
  template <class V>
  std::vector<V> get(cudnnBackendAttributeName_t name, std::size_t most) const {
    std::vector<V> values(most);
    std::int64_t count = 0;
    require_taken(cudnnBackendGetAttribute(descriptor_, name, attribute_type<V>(),
                                           static_cast<std::int64_t>(most), &count, values.data()),
                  "an attribute must be known");
    values.resize(static_cast<std::size_t>(count) < most ? static_cast<std::size_t>(count) : most);
    return values;
  }
  /// The descriptors that an attribute has as values.
  std::vector<Descriptor> get_descriptors(cudnnBackendAttributeName_t name,
                                          cudnnBackendDescriptorType_t type) const {
    std::int64_t count = 0;
    constexpr auto kind = CUDNN_TYPE_BACKEND_DESCRIPTOR;
    require_taken(cudnnBackendGetAttribute(descriptor_, name, kind, 0, &count, nullptr),
                  "an attribute must be known");
    std::vector<Descriptor> made;
    std::vector<cudnnBackendDescriptor_t> raw;
    for (std::int64_t i = 0; i < count; ++i) raw.push_back(made.emplace_back(type).get());
    require_taken(cudnnBackendGetAttribute(descriptor_, name, kind, count, &count, raw.data()),
                  "an attribute must be known");
    made.erase(made.begin() + static_cast<std::ptrdiff_t>(count), made.end());
    return made;
  }
  /// The descriptor that an attribute has as its only value.
  Descriptor get_descriptor(cudnnBackendAttributeName_t name,
                            cudnnBackendDescriptorType_t type) const {
    Descriptor made(type);
    cudnnBackendDescriptor_t raw = made.get();
    std::int64_t count = 0;
    require_taken(
        cudnnBackendGetAttribute(descriptor_, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &raw),
        "an attribute must be known");
    return made;
  }
  void finish(const char* what) { require_taken(cudnnBackendFinalize(descriptor_), what); }
  cudnnBackendDescriptor_t get() const noexcept { return descriptor_; }

 private:
  cudnnBackendDescriptor_t descriptor_ = nullptr;
};

}  // namespace detail
}  // namespace cuda
DROPBP_NAMESPACE_END
