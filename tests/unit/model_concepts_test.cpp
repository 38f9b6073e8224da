// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which types are an operation, a layer, a model or a policy, and which miss one requirement.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "dropbp/dropbp.hpp"
#include "support/catch.hpp"

using dropbp::DropBPLayer;
using dropbp::DroppableLayer;
using dropbp::GradientModel;
using dropbp::Model;
using dropbp::Operation;

namespace {

using Vector = std::vector<float>;

// ---- operations: signatures without bodies

struct Plain {
  struct Saved {};
  Vector forward(const Vector& x, Saved* saved);
  Vector backward(const Vector& grad_output, Saved& saved);
};
static_assert(Operation<Plain, Vector>);
static_assert(!Operation<Plain, std::list<float>>);
static_assert(!Operation<Plain, Vector, int>);

struct NoSaved {
  Vector forward(const Vector& x, void* saved);
  Vector backward(const Vector& grad_output, int& saved);
};
struct SavedWithoutDefault {
  struct Saved {
    explicit Saved(int);
  };
  Vector forward(const Vector& x, Saved* saved);
  Vector backward(const Vector& grad_output, Saved& saved);
};
struct SavedThatStays {
  struct Saved {
    Saved();
    Saved(Saved&&) = delete;
  };
  Vector forward(const Vector& x, Saved* saved);
  Vector backward(const Vector& grad_output, Saved& saved);
};
struct NoForward {
  struct Saved {};
  Vector backward(const Vector& grad_output, Saved& saved);
};
struct NoBackward {
  struct Saved {};
  Vector forward(const Vector& x, Saved* saved);
};
struct ForwardIntoX {
  struct Saved {};
  Vector forward(Vector& x, Saved* saved);
  Vector backward(const Vector& grad_output, Saved& saved);
};
struct BackwardWithPointer {
  struct Saved {};
  Vector forward(const Vector& x, Saved* saved);
  Vector backward(const Vector& grad_output, Saved* saved);
};
static_assert(!Operation<NoSaved, Vector> && !Operation<SavedWithoutDefault, Vector> &&
              !Operation<SavedThatStays, Vector>);
static_assert(!Operation<NoForward, Vector> && !Operation<NoBackward, Vector>);
static_assert(!Operation<ForwardIntoX, Vector> && !Operation<BackwardWithPointer, Vector>);

// Extra arguments: an lvalue, an rvalue, and a move-only one.
struct WithArguments {
  struct Saved {};
  using Token = std::unique_ptr<int>;
  Vector forward(const Vector& x, Saved* saved, int& counter, const Vector& mask, Token token);
  Vector backward(const Vector& grad_output, Saved& saved, int& counter, const Vector& mask,
                  Token token);
};
static_assert(Operation<WithArguments, Vector, int&, const Vector&, WithArguments::Token>);
static_assert(Operation<WithArguments, Vector, int&, Vector, WithArguments::Token&&>);
static_assert(!Operation<WithArguments, Vector, int, const Vector&, WithArguments::Token>);
static_assert(!Operation<WithArguments, Vector, int&, const Vector&, WithArguments::Token&>);
static_assert(!Operation<WithArguments, Vector>);

// ---- layers

static_assert(DroppableLayer<DropBPLayer<Plain>>);
static_assert(!DroppableLayer<const DropBPLayer<Plain>>);
static_assert(!DroppableLayer<Plain> && !DroppableLayer<int>);
static_assert(!std::is_convertible_v<Plain, DropBPLayer<Plain>>);

// A user's layer behind a virtual interface.
struct AnyLayer {
  virtual ~AnyLayer() = default;
  virtual void decide(const dropbp::BranchDecision& decision) = 0;
  virtual float cost() const = 0;
  virtual dropbp::BranchCalls calls() const = 0;
  virtual void set_calls(dropbp::BranchCalls calls) = 0;
};
static_assert(DroppableLayer<AnyLayer>);

template <int missing>
struct Lacking {
  void decide(const dropbp::BranchDecision&)
    requires(missing != 0);
  double cost() const
    requires(missing != 1);
  dropbp::BranchCalls calls() const
    requires(missing != 2);
  void set_calls(dropbp::BranchCalls)
    requires(missing != 3);
};
static_assert(DroppableLayer<Lacking<-1>>);
static_assert(!DroppableLayer<Lacking<0>> && !DroppableLayer<Lacking<1>> &&
              !DroppableLayer<Lacking<2>>);
static_assert(!DroppableLayer<Lacking<3>>);

// ---- models

struct LayersOnly {
  template <class Visit>
  void for_each_layer(Visit&& visit);
};
struct LayersAndGradients : LayersOnly {
  template <class Visit>
  void for_each_gradient(Visit&& visit);
};
struct GradientsOnly {
  template <class Visit>
  void for_each_gradient(Visit&& visit);
};
// No templates: its functions name the types that they visit.
struct Erased {
  void for_each_layer(const std::function<void(AnyLayer&)>& visit);
  void for_each_gradient(const std::function<void(const Vector*)>& visit);
};
struct VisitsIntegers {
  void for_each_layer(const std::function<void(int&)>& visit);
};
static_assert(Model<LayersOnly> && !GradientModel<LayersOnly>);
static_assert(Model<LayersAndGradients> && GradientModel<LayersAndGradients>);
static_assert(Model<Erased> && GradientModel<Erased>);
static_assert(!Model<GradientsOnly> && !GradientModel<GradientsOnly> && !Model<int> &&
              !Model<DropBPLayer<Plain>>);
static_assert(!Model<const LayersOnly> && !Model<VisitsIntegers>);

// A handler keeps a reference to its model, so it does not accept a temporary.
static_assert(std::is_constructible_v<dropbp::DropBPHandler<LayersOnly>, LayersOnly&>);
static_assert(!std::is_constructible_v<dropbp::DropBPHandler<LayersOnly>, LayersOnly>);

// ---- policies

static_assert(dropbp::Sampling<dropbp::BernoulliSampling> &&
              !dropbp::Sampling<dropbp::GreedyAllocation>);
static_assert(dropbp::Allocation<dropbp::GreedyAllocation> &&
              !dropbp::Allocation<dropbp::BernoulliSampling>);
static_assert(dropbp::Sensitivity<dropbp::GradientSensitivity> && !dropbp::Sensitivity<int>);

struct OwnAllocation {
  std::vector<double> allocate(const dropbp::AllocationInput& input) const;
};
struct FloatAllocation {
  std::vector<float> allocate(const dropbp::AllocationInput& input) const;
};
struct ChangingAllocation {
  std::vector<double> allocate(const dropbp::AllocationInput& input);
};
static_assert(dropbp::Allocation<OwnAllocation>);
static_assert(!dropbp::Allocation<FloatAllocation> && !dropbp::Allocation<ChangingAllocation>);

struct OwnSampling {
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput& input) const;
  void draw(const Prepared&, const dropbp::CounterRandom&, std::span<std::uint8_t> dropped) const;
};
struct SamplingWithoutDraw {
  struct Prepared {};
  Prepared prepare(const dropbp::SamplingInput& input) const;
};
struct SamplingWithoutPrepared {
  int prepare(const dropbp::SamplingInput& input) const;
  void draw(int, const dropbp::CounterRandom&, std::span<std::uint8_t> dropped) const;
};
static_assert(dropbp::Sampling<OwnSampling>);
static_assert(!dropbp::Sampling<SamplingWithoutDraw> && !dropbp::Sampling<SamplingWithoutPrepared>);

struct OwnSensitivity {
  struct Reference {};
  Reference reference(auto& model) const;
  double difference(const Reference&, auto& model) const;
};
struct FloatSensitivity {
  struct Reference {};
  Reference reference(auto& model) const;
  float difference(const Reference&, auto& model) const;
};
static_assert(dropbp::Sensitivity<OwnSensitivity> && !dropbp::Sensitivity<FloatSensitivity>);

// ---- models that are used

template <int Factor>
struct Times {
  struct Saved {};
  Vector forward(const Vector& x, Saved*) const { return times(x); }
  Vector backward(const Vector& grad_output, Saved&) const { return times(grad_output); }
  static Vector times(Vector x) {
    for (float& one : x) one *= Factor;
    return x;
  }
};

// Each branch has a type of its own; a tuple holds them.
struct TupleModel {
  std::tuple<DropBPLayer<Times<1>>, DropBPLayer<Times<2>>, DropBPLayer<Times<3>>> layers{
      Times<1>{}, Times<2>{}, Times<3>{}};
  void for_each_layer(auto&& visit) {
    std::apply([&](auto&... layer) { (visit(layer), ...); }, layers);
  }
};

// Branches behind the trainer's own interface.
struct AnyBranch : AnyLayer {
  virtual Vector forward(const Vector& x) = 0;
  virtual Vector backward(Vector grad_output) = 0;
};
template <class Op>
struct BranchOf : AnyBranch {
  DropBPLayer<Op> layer{Op{}};
  void decide(const dropbp::BranchDecision& decision) override { layer.decide(decision); }
  float cost() const override { return static_cast<float>(layer.cost()); }
  dropbp::BranchCalls calls() const override { return layer.calls(); }
  void set_calls(dropbp::BranchCalls calls) override { layer.set_calls(calls); }
  Vector forward(const Vector& x) override { return layer.forward(x); }
  Vector backward(Vector grad_output) override { return layer.backward(std::move(grad_output)); }
};
struct ErasedModel {
  std::vector<std::unique_ptr<AnyBranch>> branches;
  void for_each_layer(const std::function<void(AnyLayer&)>& visit) {
    for (auto& branch : branches) visit(*branch);
  }
};

}  // namespace

TEST_CASE("A model may keep branches of different types in a tuple") {
  TupleModel model;
  dropbp::DropBPHandler handler{model};
  CHECK(handler.size() == 3);
  handler.begin_step(dropbp::DropPlan(std::vector<std::uint8_t>{0, 1, 0}));
  auto& [first, second, third] = model.layers;
  CHECK(third.forward(second.forward(first.forward(Vector{1}))) == Vector{24});
  CHECK(first.backward(second.backward(third.backward(Vector{1}))) == Vector{8});
  CHECK(handler.report().consistent());
}

TEST_CASE("A model may hide its branches behind an interface") {
  ErasedModel model;
  model.branches.push_back(std::make_unique<BranchOf<Times<2>>>());
  model.branches.push_back(std::make_unique<BranchOf<Times<3>>>());
  dropbp::DropBPHandler handler{model};
  handler.begin_step(dropbp::DropPlan(std::vector<std::uint8_t>{1, 0}));
  CHECK(model.branches[1]->forward(model.branches[0]->forward(Vector{1})) == Vector{12});
  CHECK(model.branches[0]->backward(model.branches[1]->backward(Vector{1})) == Vector{4});
  CHECK(handler.report().consistent());
}
