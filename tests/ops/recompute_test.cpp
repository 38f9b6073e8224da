// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Operations that recompute what they did not save: the bits do not change, only the input is
// saved, and a dropped branch saves nothing.
#include "dropbp/ops/recompute.hpp"

#include <memory>
#include <utility>

#include "dropbp/layer.hpp"
#include "dropbp/ops/attention_branch.hpp"
#include "dropbp/ops/linear.hpp"
#include "dropbp/ops/swiglu_branch.hpp"
#include "ops/ops_test.hpp"

using namespace dropbp::ops;
using namespace dropbp::test;

namespace {

constexpr SequenceShape shape{2, 35};
constexpr Index hidden = 48;

template <class Op, class T, class... Args>
constexpr bool residual =
    dropbp::detail::has_member<Op, dropbp::detail::ForwardResidual, Matrix<T>, Args...> &&
    dropbp::detail::has_member<Op, dropbp::detail::BackwardResidual, Matrix<T>, Args...>;

using Attention = Recompute<AttentionBranch<float>, float>;
static_assert(dropbp::Operation<Attention, Matrix<float>, const SequenceShape&>);
static_assert(residual<Attention, float, const SequenceShape&> && !residual<Attention, float>);
static_assert(dropbp::detail::has_member<Attention, dropbp::detail::BackwardParameters,
                                         Matrix<float>, const SequenceShape&>);
static_assert(Attention::backward_is_repeatable);
// Recompute has an optional member only if Op has it.
using Plain = Recompute<Linear<double>, double>;
static_assert(dropbp::Operation<Plain, Matrix<double>> &&
              !dropbp::Operation<Plain, Matrix<double>, const SequenceShape&>);
static_assert(!dropbp::detail::has_member<Plain, dropbp::detail::ForwardResidual, Matrix<double>> &&
              !dropbp::detail::has_member<Plain, dropbp::detail::BackwardResidual, Matrix<double>>);
static_assert(
    dropbp::detail::has_member<Plain, dropbp::detail::BackwardParameters, Matrix<double>>);
static_assert(!Plain::backward_is_repeatable &&
              !dropbp::detail::can_ask<double, dropbp::detail::Cost, Plain>);

template <class Branch>
struct Make;
template <class T>
struct Make<AttentionBranch<T>> {
  using Scalar = T;
  inline static const AttentionConfig config{hidden, 6, 2, 10, 1e-5};
  static AttentionBranch<T> make(BranchMemory memory) {
    AttentionBranch<T> branch(config, std::make_shared<const RopeTable<T>>(64, 10),
                              std::move(memory));
    randomise(branch.norm, 1, 0.5, 1.5), randomise(branch.qkv.weight, 2, -0.4, 0.4),
        randomise(branch.o.weight, 3);
    return branch;
  }
};
template <class T>
struct Make<SwiGLUBranch<T>> {
  using Scalar = T;
  inline static const SwiGLUConfig config{hidden, 101, 1e-5};
  static SwiGLUBranch<T> make(BranchMemory memory) {
    SwiGLUBranch<T> branch(config, std::move(memory));
    randomise(branch.norm, 1, 0.5, 1.5), randomise(branch.gate_up.weight, 2),
        randomise(branch.down.weight, 3, -0.4, 0.4);
    return branch;
  }
};

template <class Branch>
std::vector<double> gradients(Branch& branch) {
  std::vector<double> all;
  branch.for_each_parameter([&](auto& parameter) {
    if (parameter.has_gradient())
      for (const auto value : elements(parameter.gradient()))
        all.push_back(static_cast<double>(value));
    parameter.drop_gradient();
  });
  return all;
}

template <class Branch>
void check_branch() {
  using T = typename Make<Branch>::Scalar;
  const BranchMemory memory;
  Branch branch = Make<Branch>::make(memory);
  for (const bool enabled : {true, false}) {
    CAPTURE(enabled);
    const MemoryPool saved_pool(PoolFill::nan), workspace(PoolFill::nan);
    Recompute<Branch, T> again(Make<Branch>::make(enabled ? BranchMemory{workspace, workspace}
                                                          : BranchMemory{saved_pool, workspace}),
                               saved_pool, enabled);
    const Matrix<T> x = random_matrix<T>(shape.tokens(), hidden, 7),
                    dy = random_matrix<T>(shape.tokens(), hidden, 8);
    const auto elements_per_token = static_cast<std::size_t>(shape.tokens()) * sizeof(T);
    const std::size_t bytes = enabled ? elements_per_token * hidden
                                      : Branch::saved_bytes(Make<Branch>::config, shape.tokens());

    typename Branch::Saved saved;
    typename Recompute<Branch, T>::Saved saved_again;
    const Matrix<T> y = branch.forward(x, &saved, shape);
    {
      const Matrix<T> y_again = again.forward(x, &saved_again, shape);
      CHECK(same_bits(elements(y), elements(y_again)));
      const Matrix<T> evaluated = again.forward(x, nullptr, shape);
      CHECK(same_bits(elements(y), elements(evaluated)));
    }
    CHECK(saved_pool.bytes_in_use() == bytes);
    CHECK(workspace.bytes_in_use() == 0);
    Matrix<T> in_place = clone(x), in_place_again = clone(x);
    branch.forward_residual(in_place, &saved, shape),
        again.forward_residual(in_place_again, &saved_again, shape);
    CHECK(same_bits(elements(in_place), elements(in_place_again)));
    CHECK(saved_pool.bytes_in_use() == bytes);

    // All three backward passes, twice on the same saved state.
    for (int run = 0; run < 2; ++run) {
      const Matrix<T> dx = branch.backward(dy, saved, shape);
      const std::vector<double> expected = gradients(branch);
      {
        const Matrix<T> dx_again = again.backward(dy, saved_again, shape);
        CHECK(same_bits(elements(dx), elements(dx_again)));
      }
      CHECK(gradients(again) == expected);
      Matrix<T> grad = clone(dy), grad_again = clone(dy);
      branch.backward_residual(grad, saved, shape),
          again.backward_residual(grad_again, saved_again, shape);
      CHECK(same_bits(elements(grad), elements(grad_again)));
      gradients(branch);
      CHECK(gradients(again) == expected);
      again.backward_parameters(dy, saved_again, shape);
      CHECK(gradients(again) == expected);
      CHECK(saved_pool.bytes_in_use() == bytes);
      CHECK(saved_pool.peak_bytes() <= 2 * bytes);  // two forward passes wrote to one Saved
      CHECK(workspace.bytes_in_use() ==
            0);  // the recomputed state is released before the next branch
    }
  }
}

// y = 3 x. Counts its calls. Its backward pass consumes the saved state.
struct Counting {
  struct Saved {
    Matrix<float> x;
  };
  int forwards = 0, saving = 0, backwards = 0;

  Matrix<float> forward(const Matrix<float>& x, Saved* saved) {
    ++forwards;
    if (saved != nullptr) ++saving, saved->x = clone(x);
    Matrix<float> y = clone(x);
    for (float& value : elements(y)) value *= 3;
    return y;
  }
  Matrix<float> backward(const Matrix<float>& grad_output, Saved& saved) {
    ++backwards;
    CHECK(saved.x.rows() == grad_output.rows());
    saved.x = Matrix<float>();
    return forward(grad_output, nullptr);
  }
  double cost() const { return 5; }
};

static_assert(!dropbp::detail::has_member<Recompute<Counting, float>,
                                          dropbp::detail::BackwardParameters, Matrix<float>>);

}  // namespace

TEST_CASE("recomputed branches have the bits of plain ones and save only their input") {
  check_branch<AttentionBranch<float>>();
  check_branch<AttentionBranch<double>>();
  check_branch<SwiGLUBranch<float>>();
  check_branch<SwiGLUBranch<double>>();
}

TEST_CASE("a dropped branch neither saves nor recomputes") {
  MemoryPool pool;
  dropbp::DropBPLayer layer{Recompute<Counting, float>(Counting{}, pool)};
  CHECK(layer.cost() == 5);
  const Matrix<float> x = random_matrix<float>(3, 4, 1), grad = random_matrix<float>(3, 4, 2);
  for (const bool dropped : {false, true}) {
    Counting& counts = layer.op();
    counts = Counting{};
    layer.decide({.dropped = dropped});
    const Matrix<float> y = layer.forward(x);
    CHECK(y.data()[5] == x.data()[5] + 3 * x.data()[5]);
    CHECK(counts.forwards == 1);
    CHECK(counts.saving == 0);
    CHECK(pool.bytes_in_use() == (dropped ? 0 : 48));
    const Matrix<float> below = layer.backward(clone(grad));
    CHECK(below.data()[5] == (dropped ? grad.data()[5] : grad.data()[5] + 3 * grad.data()[5]));
    CHECK(counts.saving == (dropped ? 0 : 1));
    CHECK(counts.backwards == (dropped ? 0 : 1));
    CHECK(pool.bytes_in_use() == 0);
  }
}

TEST_CASE("an operation may consume its recomputed state") {
  MemoryPool pool;
  Recompute<Counting, float> again(Counting{}, pool);
  const Matrix<float> x = random_matrix<float>(3, 4, 1);
  Recompute<Counting, float>::Saved saved;
  again.forward(x, &saved);
  for (int i = 1; i <= 3; ++i) {
    again.backward(x, saved);
    CHECK(again.saving == i);
  }
  const MemoryPool rest;
  Recompute<Linear<float>, float> linear(Linear<float>("w", 2, 4, rest, rest), pool);
  randomise(linear.weight, 3);
  Recompute<Linear<float>, float>::Saved input;
  linear.forward(x, &input);
  linear.backward_parameters(random_matrix<float>(3, 2, 4), input);
  CHECK(linear.weight.has_gradient());
  CHECK(rest.bytes_in_use() == 0);
}
