// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A tensor of a C library: a struct that you cannot change, over memory from malloc. A
// specialisation says where its elements are.
#include <cstdlib>
#include <new>

#include "train.hpp"

extern "C" {
struct ct_tensor {
  float* values;
  long count;
};
}

static ct_tensor ct_create(long count) {
  void* memory = std::calloc(static_cast<std::size_t>(count), sizeof(float));
  if (memory == nullptr) throw std::bad_alloc();
  return {static_cast<float*>(memory), count};
}
static void ct_destroy(ct_tensor t) { std::free(t.values); }

// [dropbp
template <>
struct dropbp::tensor_traits<ct_tensor> {
  static float* data(const ct_tensor& t) { return t.values; }
  static std::size_t size(const ct_tensor& t) { return static_cast<std::size_t>(t.count); }
};
// dropbp]

struct Library {
  using Tensor = ct_tensor;

  static Tensor make(const std::vector<float>& values) {
    struct Owner {  // frees all of them when the program ends
      std::vector<ct_tensor> tensors;
      ~Owner() {
        for (const ct_tensor t : tensors) ct_destroy(t);
      }
    };
    static Owner owner;
    const ct_tensor t = owner.tensors.emplace_back(ct_create(static_cast<long>(values.size())));
    for (std::size_t i = 0; i < values.size(); ++i) t.values[i] = values[i];
    return t;
  }
  static std::vector<float> read(const Tensor& t) { return {t.values, t.values + t.count}; }
  static Tensor combine(Binary f, const Tensor& a, const Tensor& b) {
    const ct_tensor result = make(read(a));
    for (long i = 0; i < a.count; ++i) result.values[i] = f(a.values[i], b.values[i]);
    return result;
  }
};

int main() { return train<Library>("foreign memory"); }
