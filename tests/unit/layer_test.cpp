// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A single layer: what it saves, what it returns, and what it refuses.
#include "dropbp/layer.hpp"

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/recorder.hpp"

using dropbp::BranchDecision;
using dropbp::DropBPLayer;
using dropbp_test::FullRecorder;
using dropbp_test::Journal;
using dropbp_test::Recorder;
using Vector = std::vector<float>;

namespace {

// Returns the message of the std::logic_error that `call` throws, or an empty string.
template <class Call>
std::string order_error(Call call) {
  try {
    call();
  } catch (const std::invalid_argument&) {
    return {};
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("A kept layer computes x + f(x) and grad + J^T grad") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  const Vector x{1, 2, 3};
  CHECK(layer.forward(x) == Vector{4, 8, 12});
  CHECK(layer.holds_saved());
  CHECK(layer.backward(Vector{1, 0, 10}) == Vector{4, 0, 40});
  CHECK(journal.parameter_gradient == 31.0);
  CHECK_FALSE(layer.holds_saved());
  CHECK(layer.calls() == dropbp::BranchCalls{1, 1});
}

TEST_CASE(
    "A dropped layer computes the same forward pass, saves nothing and returns the gradient's "
    "buffer") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  layer.decide({.dropped = true, .stamp = 1});
  CHECK(layer.dropped());
  const Vector x{1, 2, 3};
  CHECK(layer.forward(x) == Vector{4, 8, 12});
  CHECK_FALSE(layer.holds_saved());
  CHECK(journal.saved_made == 0);
  CHECK(journal.forward_not_saving == 1);
  Vector grad{1, 0, 10};
  const float* const buffer = grad.data();
  const Vector back = layer.backward(std::move(grad));
  CHECK(back.data() == buffer);
  CHECK(back == Vector{1, 0, 10});
  CHECK(journal.backward == 0);
  CHECK(journal.parameter_gradient == 0.0);
  CHECK(layer.calls() == dropbp::BranchCalls{1, 0});
}

TEST_CASE("A kept layer adds to the gradient in its own buffer") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  static_cast<void>(layer.forward(Vector{1, 2}));
  Vector grad{1, 1};
  const float* const buffer = grad.data();
  CHECK(layer.backward(std::move(grad)).data() == buffer);
}

TEST_CASE("forward uses an rvalue in place where the operation has forward_residual") {
  Journal journal;
  DropBPLayer layer{FullRecorder<>(journal)};
  for (const bool dropped : {false, true}) {
    layer.decide({.dropped = dropped, .stamp = dropped ? 2u : 1u});
    Vector x{1, 2};
    const float* const buffer = x.data();
    const Vector y = layer.forward(std::move(x));
    CHECK(y.data() == buffer);
    CHECK(y == Vector{4, 8});
    CHECK(layer.holds_saved() != dropped);
  }
  CHECK(layer.op().forward_residual_calls == 2);
  CHECK(journal.saved_made == 1);
  // An lvalue does not change.
  const Vector x{1, 2};
  Vector z{1, 2};
  CHECK(layer.forward(x) == Vector{4, 8});
  CHECK(layer.forward(z) == Vector{4, 8});
  CHECK(z == x);
  CHECK(layer.op().forward_residual_calls == 2);
}

TEST_CASE("forward also takes an rvalue where the operation has no forward_residual") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  CHECK(layer.forward(Vector{1, 2}) == Vector{4, 8});
}

TEST_CASE("backward_residual is used if the operation has it") {
  Journal journal;
  DropBPLayer layer{FullRecorder<>(journal)};
  static_cast<void>(layer.forward(Vector{1, 2}));
  CHECK(layer.backward(Vector{1, 1}) == Vector{4, 4});
  CHECK(layer.op().backward_residual_calls == 1);
  CHECK(layer.op().backward_parameters_calls == 0);
}

TEST_CASE("forward_branch and backward_branch compute f(x) and J^T grad alone") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  const Vector x{1, 2};
  CHECK(layer.forward_branch(x) == Vector{3, 6});
  CHECK(layer.backward_branch(Vector{1, 10}) == Vector{3, 30});
  layer.decide({.dropped = true, .stamp = 1});
  CHECK(layer.forward_branch(x) == Vector{3, 6});
  CHECK_FALSE(layer.backward_branch(Vector{1, 10}).has_value());
  CHECK(layer.calls() == dropbp::BranchCalls{2, 1});
}

TEST_CASE(
    "The lowest kept branch computes only its parameters' gradients and returns grad unchanged") {
  const auto check = [](auto& layer, Journal& journal) {
    layer.decide({.input_gradient_needed = false, .stamp = 1});
    static_cast<void>(layer.forward(Vector{1, 2}));
    Vector grad{1, 10};
    const float* const buffer = grad.data();
    const Vector back = layer.backward(std::move(grad));
    CHECK(back == Vector{1, 10});
    CHECK(back.data() == buffer);
    CHECK(journal.parameter_gradient == 21.0);
    static_cast<void>(layer.forward_branch(Vector{1, 2}));
    CHECK_FALSE(layer.backward_branch(Vector{1, 10}).has_value());
    CHECK(journal.parameter_gradient == 42.0);
    CHECK(journal.backward == 2);
    CHECK(layer.calls() == dropbp::BranchCalls{2, 2});
  };
  Journal basic_journal, full_journal;
  DropBPLayer basic{Recorder<>(basic_journal)};
  check(basic, basic_journal);
  DropBPLayer full{FullRecorder<>(full_journal)};
  check(full, full_journal);
  CHECK(full.op().backward_parameters_calls == 2);
  CHECK(full.op().backward_residual_calls == 0);
}

TEST_CASE("Each backward pass needs its own forward pass") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  for (const bool dropped : {false, true}) {
    layer.decide({.dropped = dropped, .stamp = dropped ? 2u : 1u});
    const std::string words =
        "each backward needs a forward of the same layer before it, outside of an evaluation";
    layer.release();
    CHECK(contains(order_error([&] { layer.backward(Vector{1}); }), words));
    CHECK(contains(order_error([&] { layer.backward_branch(Vector{1}); }), words));
    static_cast<void>(layer.forward(Vector{1}));
    static_cast<void>(layer.backward(Vector{1}));
    CHECK(contains(order_error([&] { layer.backward(Vector{1}); }), words));
  }
  CHECK(journal.backward == 1);
  CHECK(layer.calls() == dropbp::BranchCalls{2, 1});
}

TEST_CASE(
    "A plan that changed between forward and backward is refused, and the right order works "
    "afterwards") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  const std::string words = "forward and backward must belong to the same micro-step";
  for (const bool before : {false, true})
    for (const bool after : {false, true}) {
      layer.decide({.dropped = before, .stamp = 1});
      static_cast<void>(layer.forward(Vector{1}));
      layer.decide({.dropped = after, .stamp = 2});
      CHECK(contains(order_error([&] { layer.backward(Vector{1}); }), words));
      CHECK(contains(order_error([&] { layer.backward_branch(Vector{1}); }), words));
      static_cast<void>(layer.forward(Vector{1}));
      CHECK_NOTHROW(layer.backward(Vector{1}));
    }
}

TEST_CASE("A decision that changed under the same stamp is refused") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  layer.decide({.dropped = true});
  static_cast<void>(layer.forward(Vector{1}));
  layer.decide({.dropped = false});
  CHECK(contains(order_error([&] { layer.backward(Vector{1}); }), "the plan changed between them"));
  static_cast<void>(layer.forward(Vector{1}));
  layer.decide({.dropped = true});
  CHECK(contains(order_error([&] { layer.backward(Vector{1}); }), "the plan changed between them"));
  CHECK(journal.backward == 0);
}

TEST_CASE("An evaluation saves nothing and allows no backward") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  layer.decide({.saves = false, .stamp = 1});
  CHECK(layer.forward(Vector{1}) == Vector{4});
  CHECK(journal.saved_made == 0);
  CHECK(contains(order_error([&] { layer.backward(Vector{1}); }), "evaluation"));
  // It also discards an earlier forward pass.
  layer.decide({.stamp = 2});
  static_cast<void>(layer.forward(Vector{1}));
  layer.decide({.saves = false, .stamp = 3});
  static_cast<void>(layer.forward(Vector{1}));
  CHECK_FALSE(layer.holds_saved());
  CHECK(journal.saved_alive == 0);
}

TEST_CASE("An operation that throws in forward leaves the layer unchanged") {
  Journal journal;
  DropBPLayer layer{FullRecorder<>(journal)};
  journal.forward_throws = true;
  CHECK_THROWS_AS(layer.forward(Vector{1}), std::runtime_error);
  CHECK_FALSE(layer.holds_saved());
  CHECK(layer.calls() == dropbp::BranchCalls{});
  CHECK_FALSE(order_error([&] { layer.backward(Vector{1}); }).empty());

  journal.forward_throws = false;
  static_cast<void>(layer.forward(Vector{7}));
  journal.forward_throws = true;
  const Vector x{1};
  CHECK_THROWS_AS(layer.forward(x), std::runtime_error);
  CHECK_THROWS_AS(layer.forward(Vector{1}), std::runtime_error);
  CHECK_THROWS_AS(layer.forward_branch(x), std::runtime_error);
  CHECK(layer.calls() == dropbp::BranchCalls{1, 0});
  CHECK(journal.saved_alive == 1);
  CHECK(layer.backward(Vector{1}) == Vector{4});  // of the forward pass that succeeded
  CHECK(journal.parameter_gradient == 7.0);
}

TEST_CASE(
    "An operation that throws in backward leaves the layer unchanged, and backward can be "
    "repeated") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  static_cast<void>(layer.forward(Vector{7}));
  journal.backward_throws = true;
  CHECK_THROWS_AS(layer.backward(Vector{1}), std::runtime_error);
  CHECK_THROWS_AS(layer.backward_branch(Vector{1}), std::runtime_error);
  CHECK(layer.holds_saved());
  CHECK(layer.calls() == dropbp::BranchCalls{1, 0});
  journal.backward_throws = false;
  CHECK(layer.backward(Vector{1}) == Vector{4});
  CHECK(journal.parameter_gradient == 7.0);
}

TEST_CASE(
    "A branch whose result has another shape than its input is refused, and the layer is "
    "unchanged") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  journal.wrong_shape = true;
  const Vector x{1};
  CHECK_THROWS_AS(layer.forward(x), std::invalid_argument);
  CHECK_FALSE(layer.holds_saved());
  CHECK(layer.calls() == dropbp::BranchCalls{});
}

TEST_CASE("A second forward pass replaces the saved activations, and one backward pass uses them") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  static_cast<void>(layer.forward(Vector{5}));
  static_cast<void>(layer.forward(Vector{7}));
  CHECK(journal.saved_alive == 1);
  static_cast<void>(layer.backward(Vector{1}));
  CHECK(journal.parameter_gradient == 7.0);
  CHECK(journal.saved_alive == 0);
  CHECK_FALSE(order_error([&] { layer.backward(Vector{1}); }).empty());
}

TEST_CASE("release discards what a layer saved") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  static_cast<void>(layer.forward(Vector{5}));
  layer.release();
  CHECK(journal.saved_alive == 0);
  CHECK_FALSE(order_error([&] { layer.backward(Vector{1}); }).empty());
}

TEST_CASE("A layer may move between forward and backward") {
  Journal journal;
  std::vector<DropBPLayer<Recorder<>>> layers;
  layers.emplace_back(Recorder<>(journal));
  static_cast<void>(layers[0].forward(Vector{7}));
  for (int i = 0; i < 10; ++i) layers.emplace_back(Recorder<>(journal));
  CHECK(layers[0].backward(Vector{1}) == Vector{4});
  CHECK(journal.parameter_gradient == 7.0);
  CHECK(journal.saved_alive == 0);
}

TEST_CASE("A moved-from layer throws in each pass until another layer is assigned to it") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  static_cast<void>(layer.forward(Vector{7}));
  DropBPLayer<Recorder<>> other = std::move(layer);
  const auto refuses = [&] {
    for (const std::string& error : {order_error([&] { layer.forward(Vector{1}); }),
                                     order_error([&] { layer.forward_branch(Vector{1}); }),
                                     order_error([&] { layer.backward(Vector{1}); }),
                                     order_error([&] { layer.backward_branch(Vector{1}); })})
      CHECK(contains(error, "this one was moved from: use the layer that it was moved to"));
  };
  refuses();
  CHECK(other.backward(Vector{1}) == Vector{4});
  layer = std::move(other);
  CHECK(layer.forward(Vector{1}) == Vector{4});
  other = std::move(layer);
  refuses();
  layer = DropBPLayer{Recorder<>(journal)};
  CHECK(layer.forward(Vector{1}) == Vector{4});
  CHECK(layer.backward(Vector{1}) == Vector{4});
}

TEST_CASE("The stream ratio is the norm of the gradient above a branch divided by that below") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  CHECK(layer.stream_ratio() == 1.0);
  static_cast<void>(layer.forward(Vector{1, 2}));
  static_cast<void>(layer.backward(Vector{3, 4}));
  CHECK(layer.stream_ratio() == 1.0);  // not requested
  layer.decide({.observes_stream = true, .stamp = 1});
  static_cast<void>(layer.forward(Vector{1, 2}));
  CHECK(layer.backward(Vector{3, 4}) == Vector{12, 16});
  CHECK(layer.stream_ratio() == 0.25);
  static_cast<void>(layer.forward(Vector{1, 2}));
  static_cast<void>(layer.backward(Vector{0, 0}));  // zero norms give no ratio
  CHECK(layer.stream_ratio() == 1.0);
}

TEST_CASE("The cost is the given one, else the operation's, else 1") {
  Journal journal;
  CHECK(DropBPLayer{Recorder<>(journal)}.cost() == 1.0);
  CHECK(DropBPLayer{FullRecorder<>(journal)}.cost() == 42.0);
  DropBPLayer layer{FullRecorder<>(journal), 7.0};
  CHECK(layer.cost() == 7.0);
  layer.set_cost(8.0);
  CHECK(layer.cost() == 8.0);
}

namespace {

struct ThreeGradients {
  struct Saved {};
  Vector first{3, 4}, third{-2};
  static Vector forward(const Vector& x, Saved*) { return x; }
  static Vector backward(const Vector& grad, Saved&) { return grad; }
  void for_each_gradient(auto&& visit) {
    visit(first);
    visit(static_cast<const Vector*>(nullptr));
    visit(&third);
  }
};

}  // namespace

TEST_CASE(
    "A branch's squared gradient norm is the sum over its parameters, an absent one being 0") {
  CHECK(DropBPLayer{ThreeGradients{}}.squared_gradient_norm() == 29.0);
}

namespace {

// f(x) = mask * x. Records the value categories of its extra arguments.
struct MaskedOp {
  struct Saved {};
  std::vector<std::string>* seen;

  struct MoveOnly {
    std::unique_ptr<float> factor;
  };

  Vector forward(const Vector& x, Saved*, const Vector& mask, int& counter) {
    ++counter;
    seen->push_back("lvalues");
    return product(x, mask);
  }
  Vector forward(const Vector& x, Saved*, Vector&& mask) {
    seen->push_back("rvalue");
    const Vector taken = std::move(mask);
    return product(x, taken);
  }
  Vector forward(const Vector& x, Saved*, MoveOnly token) {
    seen->push_back("move-only");
    return product(x, Vector(x.size(), *token.factor));
  }
  Vector backward(const Vector& grad, Saved&, const Vector& mask, int& counter) {
    ++counter;
    return product(grad, mask);
  }
  Vector backward(const Vector& grad, Saved&, Vector&& mask) {
    const Vector taken = std::move(mask);
    return product(grad, taken);
  }
  Vector backward(const Vector& grad, Saved&, MoveOnly token) {
    return product(grad, Vector(grad.size(), *token.factor));
  }

 private:
  static Vector product(const Vector& x, const Vector& mask) {
    Vector y = x;
    for (std::size_t i = 0; i < y.size(); ++i) y[i] *= mask[i];
    return y;
  }
};

}  // namespace

TEST_CASE("Extra arguments reach forward and backward as lvalues, rvalues and move-only values") {
  std::vector<std::string> seen;
  DropBPLayer layer{MaskedOp{&seen}};
  const Vector x{1, 2}, grad{1, 1};
  const Vector mask{0, 5};
  int counter = 0;
  CHECK(layer.forward(x, mask, counter) == Vector{1, 12});
  CHECK(layer.backward(grad, mask, counter) == Vector{1, 6});
  CHECK(layer.forward_branch(x, mask, counter) == Vector{0, 10});
  CHECK(layer.backward_branch(grad, mask, counter) == Vector{0, 5});
  CHECK(layer.forward(Vector{1, 2}, mask, counter) == Vector{1, 12});
  CHECK(layer.backward(Vector{1, 1}, mask, counter) == Vector{1, 6});
  CHECK(counter == 6);
  CHECK(mask == Vector{0, 5});

  CHECK(layer.forward(x, Vector{0, 5}) == Vector{1, 12});
  CHECK(layer.backward(grad, Vector{0, 5}) == Vector{1, 6});
  CHECK(layer.forward_branch(x, Vector{0, 5}) == Vector{0, 10});
  CHECK(layer.backward_branch(grad, Vector{0, 5}) == Vector{0, 5});

  const auto token = [] { return MaskedOp::MoveOnly{std::make_unique<float>(2.0f)}; };
  CHECK(layer.forward(x, token()) == Vector{3, 6});
  CHECK(layer.backward(grad, token()) == Vector{3, 3});
  CHECK(layer.forward_branch(x, token()) == Vector{2, 4});
  CHECK(layer.backward_branch(grad, token()) == Vector{2, 2});
  CHECK(seen == std::vector<std::string>{"lvalues", "lvalues", "lvalues", "rvalue", "rvalue",
                                         "move-only", "move-only"});
  layer.decide({.input_gradient_needed = false, .stamp = 1});
  static_cast<void>(layer.forward(x, token()));
  CHECK(layer.backward(grad, token()) == grad);
}

TEST_CASE(
    "A gradient scale multiplies a kept branch's share of its parameters' gradients and of the "
    "input gradient") {
  for (const bool input_gradient_needed : {true, false}) {
    Journal journal;
    DropBPLayer layer{Recorder<>(journal)};
    layer.decide(
        {.input_gradient_needed = input_gradient_needed, .gradient_scale = 4.0, .stamp = 1});
    static_cast<void>(layer.forward(Vector{1, 2, 3}));
    Vector grad{1, 0, 10};
    const float* const buffer = grad.data();
    const Vector back = layer.backward(std::move(grad));
    CHECK(back.data() == buffer);
    CHECK(back == (input_gradient_needed ? Vector{13, 0, 130} : Vector{1, 0, 10}));
    CHECK(journal.parameter_gradient == 4.0 * 31.0);
  }
  // The layer does not let the operation add in place, because the residual path must stay
  // unscaled.
  Journal journal;
  DropBPLayer layer{FullRecorder<>(journal)};
  layer.decide({.gradient_scale = 4.0, .stamp = 1});
  static_cast<void>(layer.forward(Vector{1, 2, 3}));
  CHECK(layer.backward(Vector{1, 0, 10}) == Vector{13, 0, 130});

  DropBPLayer branch{Recorder<>(journal)};
  branch.decide({.gradient_scale = 4.0, .stamp = 1});
  static_cast<void>(branch.forward_branch(Vector{1, 2, 3}));
  Vector kept{1, 0, 10};
  CHECK(contains(order_error([&] { branch.backward_branch(kept); }), "std::move(gradient)"));
  CHECK(kept == Vector{1, 0, 10});
  CHECK(branch.backward_branch(std::move(kept)) == Vector{12, 0, 120});

  // For a dropped branch the scale has no effect.
  layer.decide({.dropped = true, .gradient_scale = 4.0, .stamp = 2});
  static_cast<void>(layer.forward(Vector{1, 2, 3}));
  CHECK(layer.backward(Vector{1, 0, 10}) == Vector{1, 0, 10});
}

namespace {

struct OnlyAdds {
  float value = 0.0f;
  struct dropbp_tensor_traits {
    static void accumulate(OnlyAdds& y, const OnlyAdds& x) { y.value += x.value; }
  };
};

struct Identity {
  struct Saved {};
  OnlyAdds forward(const OnlyAdds& x, Saved*) { return x; }
  OnlyAdds backward(const OnlyAdds& grad_output, Saved&) { return grad_output; }
};

}  // namespace

TEST_CASE(
    "A gradient scale other than 1 is refused before the forward pass if the tensor cannot be "
    "scaled") {
  DropBPLayer layer{Identity{}};
  layer.decide({.gradient_scale = 2.0, .stamp = 1});
  CHECK(
      contains(order_error([&] { layer.forward(OnlyAdds{1.0f}); }), "scale(T& y, double factor)"));
  CHECK(layer.calls().forward == 0);
  layer.decide({.stamp = 2});
  CHECK(layer.forward(OnlyAdds{1.0f}).value == 2.0f);
  CHECK(layer.backward(OnlyAdds{1.0f}).value == 2.0f);
}

TEST_CASE("A retained forward pass serves several backward passes until release") {
  Journal journal;
  DropBPLayer layer{Recorder<>(journal)};
  layer.decide({.retains_saved = true, .stamp = 1});
  static_cast<void>(layer.forward(Vector{1, 2, 3}));
  for (int i = 0; i < 3; ++i) CHECK(layer.backward(Vector{1, 0, 10}) == Vector{4, 0, 40});
  CHECK(journal.parameter_gradient == 3 * 31.0);
  CHECK(layer.holds_saved());
  layer.release();
  CHECK(contains(order_error([&] { layer.backward(Vector{1, 0, 10}); }), "call forward first"));
}
