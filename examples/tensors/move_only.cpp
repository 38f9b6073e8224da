// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A tensor class that cannot be copied and has other names for data() and size(): a nested struct
// maps them.
#include <memory>

#include "train.hpp"

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t count) : elements_(std::make_unique<float[]>(count)), count_(count) {}

  float* elements() { return elements_.get(); }
  const float* elements() const { return elements_.get(); }
  std::size_t count() const { return count_; }

  // [dropbp
  struct dropbp_tensor_traits {
    static auto data(auto& buffer) { return buffer.elements(); }
    static std::size_t size(const Buffer& buffer) { return buffer.count(); }
  };
  // dropbp]

 private:
  std::unique_ptr<float[]> elements_;
  std::size_t count_ = 0;
};

struct Library {
  using Tensor = Buffer;

  static Tensor make(const std::vector<float>& values) {
    Buffer t(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) t.elements()[i] = values[i];
    return t;
  }
  static std::vector<float> read(const Tensor& t) {
    return {t.elements(), t.elements() + t.count()};
  }
  static Tensor combine(Binary f, const Tensor& a, const Tensor& b) {
    Buffer result(a.count());
    for (std::size_t i = 0; i < a.count(); ++i)
      result.elements()[i] = f(a.elements()[i], b.elements()[i]);
    return result;
  }
};

int main() { return train<Library>("move-only"); }
