// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A lazy tensor: a handle to work that runs when the value is read. It has no data(). One function
// is enough to train. Norms would force the work to run, so this example leaves them out, and with
// them sensitivities.
#include <functional>
#include <memory>

#include "train.hpp"

class Lazy {
 public:
  Lazy() = default;
  explicit Lazy(std::function<std::vector<float>()> work)
      : node_(std::make_shared<Node>(Node{std::move(work), {}})) {}

  const std::vector<float>& read() const {
    if (node_->work) node_->values = node_->work(), node_->work = nullptr;
    return node_->values;
  }

  static Lazy combine(Binary f, const Lazy& a, const Lazy& b) {
    return Lazy([f, a, b] {
      std::vector<float> result(a.read().size());
      for (std::size_t i = 0; i < result.size(); ++i) result[i] = f(a.read()[i], b.read()[i]);
      return result;
    });
  }

  // [dropbp
  struct dropbp_tensor_traits {
    static void accumulate(Lazy& y, const Lazy& x) { y = combine(sum, y, x); }  // y += x, later
  };
  // dropbp]

 private:
  struct Node {
    std::function<std::vector<float>()> work;
    std::vector<float> values;
  };
  std::shared_ptr<Node> node_;
};

struct Library {
  using Tensor = Lazy;

  static Tensor make(const std::vector<float>& values) {
    return Lazy([values] { return values; });
  }
  static std::vector<float> read(const Tensor& t) { return t.read(); }
  static Tensor combine(Binary f, const Tensor& a, const Tensor& b) {
    return Lazy::combine(f, a, b);
  }
};

int main() { return train<Library>("lazy"); }
