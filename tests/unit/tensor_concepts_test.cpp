// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which types are tensors and which are not, down to the weakest type that is one.
#include <array>
#include <complex>
#include <cstddef>
#include <list>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "dropbp/layer.hpp"
#include "dropbp/tensor.hpp"
#include "support/catch.hpp"

using dropbp::ComparableTensor;
using dropbp::NormedTensor;
using dropbp::Tensor;

// ---- tensors without any specialisation

static_assert(Tensor<std::vector<float>> && NormedTensor<std::vector<float>> &&
              ComparableTensor<std::vector<float>>);
static_assert(Tensor<std::vector<double>> && Tensor<std::vector<long double>>);
static_assert(Tensor<std::array<float, 3>> && Tensor<std::span<float>> &&
              Tensor<std::span<double, 4>>);
static_assert(NormedTensor<std::span<double>> && ComparableTensor<std::span<double>>);

// A view of constants has a norm, but += is impossible.
static_assert(!Tensor<std::span<const float>> && NormedTensor<std::span<const float>>);
static_assert(ComparableTensor<std::span<const float>>);
static_assert(!Tensor<const std::vector<float>>);

static_assert(!Tensor<float> && !Tensor<float*> && !Tensor<float[4]> && !Tensor<void> &&
              !Tensor<std::nullptr_t>);
static_assert(!Tensor<std::list<float>> && !Tensor<std::vector<bool>> &&
              !Tensor<std::vector<float*>>);
static_assert(!Tensor<std::vector<std::complex<float>>> &&
              !Tensor<std::vector<std::vector<float>>>);
static_assert(!Tensor<std::unique_ptr<std::vector<float>>> && !NormedTensor<std::string_view*>);

namespace {

// Rows with gaps between them: data() and size() do not describe them.
struct Strided {
  float* data();
  const float* data() const;
  std::size_t size() const;
  std::size_t outerStride() const;
};
static_assert(!Tensor<Strided> && !NormedTensor<Strided>);

// ---- archetypes: signatures without bodies

// The weakest tensor: y += x and no other member.
struct Weakest {
  Weakest() = delete;
  Weakest(const Weakest&) = delete;
  Weakest(Weakest&&) noexcept;
  Weakest& operator=(const Weakest&) = delete;
  Weakest& operator=(Weakest&&) = delete;
  void operator&() const = delete;
  struct dropbp_tensor_traits {
    static void accumulate(Weakest& y, const Weakest& x);
  };
};
static_assert(Tensor<Weakest> && !NormedTensor<Weakest> && !ComparableTensor<Weakest>);

// Misses one requirement.
struct AccumulatesWrongType {
  struct dropbp_tensor_traits {
    static void accumulate(AccumulatesWrongType& y, int x);
  };
};
struct AccumulatesIntoConst {
  struct dropbp_tensor_traits {
    static void accumulate(const AccumulatesIntoConst& y);
  };
};
static_assert(!Tensor<AccumulatesWrongType> && !Tensor<AccumulatesIntoConst>);

struct Normed {
  struct dropbp_tensor_traits {
    static float squared_norm(const Normed& x);
  };
};
static_assert(NormedTensor<Normed> && !ComparableTensor<Normed> && !Tensor<Normed>);

struct NoNumberNorm {
  struct dropbp_tensor_traits {
    static void squared_norm(const NoNumberNorm& x);
  };
};
static_assert(!NormedTensor<NoNumberNorm>);

struct Comparable {
  struct dropbp_tensor_traits {
    static double squared_norm(const Comparable& x);
    static double squared_distance(const Comparable& x, const Comparable& y);
    static Comparable clone(const Comparable& x);
  };
};
static_assert(ComparableTensor<Comparable>);

struct NotCloned {
  struct dropbp_tensor_traits {
    static double squared_norm(const NotCloned& x);
    static double squared_distance(const NotCloned& x, const NotCloned& y);
    static int clone(const NotCloned& x);
  };
};
static_assert(NormedTensor<NotCloned> && !ComparableTensor<NotCloned>);

// Contiguous memory implies every other property.
struct Contiguous {
  struct dropbp_tensor_traits {
    static double* data(Contiguous& x);
    static const double* data(const Contiguous& x);
    static int size(const Contiguous& x);
  };
};
static_assert(Tensor<Contiguous> && NormedTensor<Contiguous> && ComparableTensor<Contiguous>);

// In device memory there is no copy, because the host cannot read it.
struct InDeviceMemory {
  struct dropbp_tensor_traits {
    using backend = dropbp::Cuda;
    static double* data(InDeviceMemory& x);
    static const double* data(const InDeviceMemory& x);
    static int size(const InDeviceMemory& x);
  };
};
static_assert(Tensor<InDeviceMemory> && NormedTensor<InDeviceMemory> &&
              !ComparableTensor<InDeviceMemory>);

struct WithoutSize {
  struct dropbp_tensor_traits {
    static double* data(WithoutSize& x);
    static const double* data(const WithoutSize& x);
  };
};
static_assert(!Tensor<WithoutSize> && !NormedTensor<WithoutSize>);

// A user's accumulate takes precedence over memory. A nested struct takes precedence over data()
// and size().
struct Both {
  float value = 1;
  float* data() { return &value; }
  const float* data() const { return &value; }
  std::size_t size() const { return 1; }
  struct dropbp_tensor_traits {
    static void accumulate(Both& y, const Both&) { y.value = 99; }
  };
};
static_assert(Tensor<Both> && !NormedTensor<Both>);

// The weakest operation on the weakest tensor.
struct WeakestOperation {
  struct Saved {
    Saved();
    Saved(const Saved&) = delete;
    Saved(Saved&&) noexcept;
    Saved& operator=(const Saved&) = delete;
    Saved& operator=(Saved&&) noexcept;
  };
  WeakestOperation() = delete;
  WeakestOperation(const WeakestOperation&) = delete;
  WeakestOperation(WeakestOperation&&) noexcept;
  WeakestOperation& operator=(const WeakestOperation&) = delete;
  Weakest forward(const Weakest& x, Saved* saved);
  Weakest backward(const Weakest& grad_output, Saved& saved);
};
static_assert(dropbp::Operation<WeakestOperation, Weakest>);

// Never called: the test is that it compiles.
template <class Layer>
[[maybe_unused]] void use(Layer& layer, Weakest x) {
  Weakest y = layer.forward(std::as_const(x));
  Weakest z = layer.forward(std::move(y));
  Weakest g = layer.backward(std::move(z));
  Weakest f = layer.forward_branch(g);
  auto h = layer.backward_branch(f);
  static_assert(std::same_as<decltype(*h), Weakest&>);
}
static_assert(requires(dropbp::DropBPLayer<WeakestOperation>& layer, Weakest& x) {
  use(layer, std::move(x));
});

// ---- move-only, lazy and foreign tensors

// Move-only.
struct MoveOnly {
  std::unique_ptr<float> value;
  struct dropbp_tensor_traits {
    static void accumulate(MoveOnly& y, const MoveOnly& x) { *y.value += *x.value; }
  };
};
static_assert(Tensor<MoveOnly>);

struct MoveOnlyTriple {
  struct Saved {
    std::unique_ptr<float> x;
  };
  std::unique_ptr<float> gradient = std::make_unique<float>(0.0f);
  MoveOnly forward(const MoveOnly& x, Saved* saved) {
    if (saved != nullptr) saved->x = std::make_unique<float>(*x.value);
    return {std::make_unique<float>(3 * *x.value)};
  }
  MoveOnly backward(const MoveOnly& grad, Saved& saved) {
    *gradient += *grad.value * *saved.x;
    return {std::make_unique<float>(3 * *grad.value)};
  }
};

// Computes its sums when its value is read.
struct Lazy {
  std::shared_ptr<std::vector<float>> terms = std::make_shared<std::vector<float>>();
  float value() const {
    float sum = 0;
    for (const float term : *terms) sum += term;
    return sum;
  }
  struct dropbp_tensor_traits {
    static void accumulate(Lazy& y, const Lazy& x) {
      y.terms->insert(y.terms->end(), x.terms->begin(), x.terms->end());
    }
  };
};
static_assert(Tensor<Lazy> && !NormedTensor<Lazy>);

struct LazyTriple {
  struct Saved {};
  Lazy forward(const Lazy& x, Saved*) { return three_times(x); }
  Lazy backward(const Lazy& grad, Saved&) { return three_times(grad); }
  static Lazy three_times(const Lazy& x) {
    Lazy y;
    for (const float term : *x.terms) y.terms->push_back(3 * term);
    return y;
  }
};

// A foreign type without any member of dropbp.
struct ForeignArray {
  double* first = nullptr;
  long count = 0;
};

}  // namespace

template <>
struct dropbp::tensor_traits<ForeignArray> {
  static double* data(const ForeignArray& x) { return x.first; }
  static std::size_t size(const ForeignArray& x) { return static_cast<std::size_t>(x.count); }
};
static_assert(Tensor<ForeignArray> && NormedTensor<ForeignArray> && ComparableTensor<ForeignArray>);

namespace {

// f(x) = 3 x, with its own result buffer.
struct ForeignTriple {
  struct Saved {};
  double buffer[2] = {};
  ForeignArray forward(const ForeignArray& x, Saved*) { return three_times(x); }
  ForeignArray backward(const ForeignArray& grad, Saved&) { return three_times(grad); }
  ForeignArray three_times(const ForeignArray& x) {
    for (long i = 0; i < x.count; ++i) buffer[i] = 3 * x.first[i];
    return {buffer, x.count};
  }
};

}  // namespace

TEST_CASE("A layer passes a move-only tensor through, and a dropped one returns the same buffer") {
  // On the heap: for a local object g++ 12 warns, wrongly, about an uninitialised read in the
  // destructor.
  const auto owner = std::make_unique<dropbp::DropBPLayer<MoveOnlyTriple>>(MoveOnlyTriple{});
  auto& layer = *owner;
  for (const bool dropped : {false, true}) {
    layer.decide({.dropped = dropped, .stamp = dropped ? 2u : 1u});
    const MoveOnly x{std::make_unique<float>(2.0f)};
    const MoveOnly y = layer.forward(x);
    CHECK(*y.value == 8.0f);
    MoveOnly grad{std::make_unique<float>(1.0f)};
    const float* const buffer = grad.value.get();
    const MoveOnly back = layer.backward(std::move(grad));
    CHECK(back.value.get() == buffer);
    CHECK(*back.value == (dropped ? 1.0f : 4.0f));
  }
  CHECK(*layer.op().gradient == 2.0f);
  CHECK(*layer.forward(MoveOnly{std::make_unique<float>(2.0f)}).value == 8.0f);
}

TEST_CASE("A lazy tensor without data is a tensor") {
  dropbp::DropBPLayer layer{LazyTriple{}};
  Lazy x;
  x.terms->push_back(2);
  CHECK(layer.forward(x).value() == 8.0f);
  CHECK(x.value() == 2.0f);
  const auto* const handle = x.terms.get();
  const Lazy back = layer.backward(std::move(x));
  CHECK(back.value() == 8.0f);
  CHECK(back.terms.get() == handle);
}

TEST_CASE("A view of foreign memory goes through a layer by specialising tensor_traits") {
  dropbp::DropBPLayer layer{ForeignTriple{}};
  double memory[2] = {1, 2}, grad[2] = {1, 10};
  const ForeignArray y = layer.forward(ForeignArray{memory, 2});
  CHECK(y.first[1] == 8.0);
  CHECK(memory[1] == 2.0);
  CHECK(layer.backward(ForeignArray{grad, 2}).first == grad);
  CHECK(grad[1] == 40.0);
  layer.decide({.dropped = true, .stamp = 1});
  static_cast<void>(layer.forward(ForeignArray{memory, 2}));
  CHECK(layer.backward(ForeignArray{grad, 2}).first == grad);
  CHECK(grad[1] == 40.0);
}

TEST_CASE("A nested accumulate is used, even beside data and size") {
  Both y;
  dropbp::accumulate(y, Both{});
  CHECK(y.value == 99.0f);
}
