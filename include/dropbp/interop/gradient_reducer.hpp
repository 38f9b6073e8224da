// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Averages gradients over the ranks of a job, and leaves out branches that a step has dropped.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "dropbp/backend/scalar.hpp"
#include "dropbp/base/error.hpp"
#include "dropbp/base/hash.hpp"
#include "dropbp/base/real_bits.hpp"
#include "dropbp/interop/agreement.hpp"
#include "dropbp/interop/communicator.hpp"
#include "dropbp/parameter_ranges.hpp"
#include "dropbp/plan.hpp"

DROPBP_NAMESPACE_BEGIN

/// Which plans the ranks have.
enum class PlansOfRanks : std::uint8_t {
  same,  ///< one seed: what a step drops is not communicated
  own    ///< a seed for each rank: a branch is communicated unless all ranks dropped it
};

/// What becomes of the sum over the ranks.
enum class Combine : std::uint8_t {
  mean,  ///< divided by the number of ranks that kept the branch: each rank has the mean loss of
         ///< its own samples
  sum    ///< each rank's loss is its share of the mean over all samples. With PlansOfRanks::own
         ///< multiplied by ranks / (ranks that kept the branch)
};

/// Settings of a GradientReducer, the same on all ranks.
struct ReducerOptions {
  Combine combine = Combine::mean;          ///< see there
  PlansOfRanks plans = PlansOfRanks::same;  ///< see there
  std::size_t bucket_bytes = std::size_t{1}
                             << 20;  ///< smaller tensors share a message of this size
  /// A hash of whatever else must be the same on all ranks: seed, learning rate, data.
  std::uint64_t settings = 0;
  /// A loss that is not finite on any rank is a disagreement that ends the job. False: it is up to
  /// the caller, who finds it in StepSums.
  bool stops_on_non_finite_loss = true;
};

/// What has come of a step, the same on all ranks.
struct StepSums {
  double loss = 0.0;  ///< mean or sum over the ranks, as ReducerOptions::combine says
  std::uint64_t non_finite_losses = 0;  ///< number of ranks whose loss is not finite
};

/// What a GradientReducer has communicated so far, as this rank hands it to the communicator.
struct ReducerTraffic {
  std::uint64_t steps = 0;           ///< that have ended
  std::uint64_t messages = 0;        ///< all-reduces of gradients
  std::uint64_t gradient_bytes = 0;  ///< in these
  std::uint64_t control_bytes = 0;   ///< losses and fingerprints, in one all-reduce a step
};

/// Sums the gradients of a step over the ranks while the backward pass goes on below. A step:
///   reducer.observe(plan);          // in every micro-step but the last
///   reducer.begin(plan, loss);      // in the last one, between its forward and backward pass
///   reducer.passed(branch);         // in the backward pass, below each branch, kept or dropped
///   reducer.finish();               // before the gradients are used
/// A branch's gradients are communicated if a micro-step kept it. One all-reduce a step carries the
/// loss and a fingerprint: step, plans, rates, layout and settings of all ranks must be equal, or
/// each of them throws RanksDisagree before gradients are communicated.
///
/// T: float, double, or BFloat16 and Half, which are summed as floats.
/// Buckets and means need memory of the host; for a device set bucket_bytes = 0, Combine::sum and
/// PlansOfRanks::same.
template <Communicator C, class T = float>
class GradientReducer {
 public:
  /// In place of a branch: what has its gradient before the backward pass reaches the branches.
  static constexpr std::size_t above = ~std::size_t{0} - 2;
  /// In place of a branch: what has its gradient when the backward pass is through.
  static constexpr std::size_t below = ParameterRanges::always;

  /// `communicator` must outlive the reducer. `plan_size`: branches of the plans.
  GradientReducer(C& communicator, std::size_t plan_size, const ReducerOptions& options = {})
      : communicator_(&communicator), options_(options), units_(plan_size + 2), kept_(plan_size) {}

  /// For a model in a flat array: `gradients` has a place for every parameter, and the branches of
  /// `ranges` are those of the plans.
  GradientReducer(C& communicator, const ParameterRanges& ranges, T* gradients,
                  const ReducerOptions& options = {})
      : GradientReducer(communicator, ranges.size(), options) {
    ranges.for_each_range([&](std::size_t branch, std::size_t offset, std::size_t count) {
      add(branch, {gradients + offset, count});
    });
  }

  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  /// A trained tensor's gradient, whose memory must stay where it is. The same order on all ranks.
  /// Throws std::invalid_argument for a branch that does not exist, and std::logic_error within a
  /// step.
  void add(std::size_t branch, std::span<T> gradient) {
    require_phase(Phase::idle, "tensors must be added before a step begins", "a step has begun");
    const std::size_t unit = unit_of(branch);
    layout_ = detail::mix(detail::mix(layout_, unit), gradient.size());
    units_[unit].push_back(gradient);
  }

  /// A micro-step that is not the last one of its step has this plan.
  void observe(const DropPlan& plan) {
    require_phase(Phase::idle, "a step must have ended before the next one begins",
                  "finish() was not called");
    detail::require_plan_of(plan, kept_.size());
    if (micro_steps_++ == 0) {
      for (std::uint8_t& kept : kept_) kept = 0;
      plans_ = rates_ = 0;
      step_ = plan.step();
    }
    std::uint64_t word = 1;
    for (std::size_t i = 0; i < kept_.size(); ++i) {
      kept_[i] |= static_cast<std::uint8_t>(plan.kept(i));
      word = (word << 1) | static_cast<std::uint64_t>(plan.kept(i));
      if (i % 63 == 62) plans_ = detail::mix(plans_, word), word = 1;
    }
    plans_ = detail::mix(plans_, word);
    rates_ = detail::mix(rates_, plan.rates_hash());
  }

  /// The last micro-step of the step has this plan, and its forward pass has run. `loss`: this
  /// rank's, of all micro-steps. `sums` are summed over the ranks in the same message, and have
  /// their sums when finish() has returned.
  void begin(const DropPlan& plan, double loss, std::span<double> sums = {}) {
    observe(plan);
    phase_ = Phase::reducing;
    sums_ = sums;
    loss_ = loss;
    checked_ = false;
    unit_ = 0;
    ready_ = 0;
    used_ = 0;
    control_.clear();
    for (const detail::AgreedField& field : fields()) detail::append_field(control_, field.value);
    const bool finite = detail::is_finite(loss);
    control_.push_back(finite ? loss : 0.0);
    control_.push_back(finite ? 0.0 : 1.0);
    for (const double value : sums) control_.push_back(value);
    if (options_.plans == PlansOfRanks::own)
      for (const std::uint8_t kept : kept_) control_.push_back(kept);
    traffic_.control_bytes += control_.size() * sizeof(double);
    control_request_ = communicator_->all_reduce(detail::view(control_));
  }

  /// The gradients of this branch and of all above it are complete. Does nothing in a micro-step
  /// that is not the last. Calls may be left out: what is ready is then communicated later.
  void passed(std::size_t branch) {
    if (phase_ != Phase::reducing) return;
    const std::size_t unit = unit_of(branch);
    if (unit + 1 > ready_) ready_ = unit + 1;
    if (!checked_ && !communicator_->test(control_request_)) return;
    compare();
    launch_ready();
    for (std::size_t i = 0; i < used_; ++i)
      if (!buckets_[i].elements_open) communicator_->test(buckets_[i].request);
  }

  /// Communicates the rest, and waits. Afterwards the gradients of what the step trains are the
  /// same on all ranks; those of other branches are as they were. Throws std::logic_error without
  /// begin.
  StepSums finish() {
    require_phase(Phase::reducing, "begin(plan, loss) must come before finish()",
                  "no step has begun");
    ready_ = units_.size();
    compare();
    launch_ready();
    close();
    for (std::size_t i = 0; i < used_; ++i) complete(buckets_[i]);
    phase_ = Phase::idle;
    micro_steps_ = 0;
    ++traffic_.steps;
    StepSums result;
    const double* const at = control_.data() + field_count * detail::sums_of_field;
    result.loss = options_.combine == Combine::mean ? at[0] / communicator_->size() : at[0];
    result.non_finite_losses = static_cast<std::uint64_t>(at[1]);
    for (std::size_t i = 0; i < sums_.size(); ++i) sums_[i] = at[2 + i];
    return result;
  }

  /// Whether any rank kept the branch in the last step, so that its parameters have a gradient.
  /// With PlansOfRanks::own it may be another rank than this one.
  bool has_gradient(std::size_t branch) const {
    const std::size_t unit = unit_of(branch);
    if (traffic_.steps == 0)
      detail::throw_order("a step must have ended before its gradients are asked for", "none has",
                          "call it between finish() and the next step");
    return unit == 0 || unit + 1 == units_.size() || keepers(unit) > 0.0;
  }

  const ReducerTraffic& traffic() const noexcept { return traffic_; }  ///< of all steps

 private:
  // What is summed: T itself, or float.
  using Wire = std::conditional_t<std::is_same_v<T, double>, double, float>;
  static constexpr std::size_t field_count = 5;

  enum class Phase : std::uint8_t { idle, reducing };

  struct Part {
    std::span<T> gradient;
    double factor;  // on its sum over the ranks
  };

  // A message: a tensor in place, or several that are copied into `memory`.
  struct Bucket {
    std::vector<Wire> memory;  // empty: the only part is in place
    std::vector<Part> parts;
    bool elements_open = false;
    typename C::Request request{};
  };

  static Wire wire(T element) {
    if constexpr (std::is_same_v<T, Wire>)
      return element;
    else
      return to_float(element);
  }
  static T value(Wire element) {
    if constexpr (std::is_same_v<T, Wire>)
      return element;
    else
      return from_float<T>(element);
  }

  // The units in the order in which the backward pass completes them: above, the branches from the
  // highest down, below.
  std::size_t unit_of(std::size_t branch) const {
    if (branch == above) return 0;
    if (branch == below) return units_.size() - 1;
    if (branch >= kept_.size())
      detail::throw_invalid(
          "gradients must be of a branch numbered below " + detail::text(kept_.size()),
          "it is " + detail::text(branch),
          "number the branches from 0 in the order of the forward pass, or pass "
          "GradientReducer::above or below");
    return kept_.size() - branch;
  }

  void require_phase(Phase phase, const char* required, const char* given) const {
    if (phase_ != phase)
      detail::throw_order(required, given, "call observe, begin, passed and finish in this order");
  }

  std::array<detail::AgreedField, field_count> fields() const {
    const char* const same_seed =
        "give all ranks the same seed, options and checkpoint, and draw the plan from them alone";
    const bool same = options_.plans == PlansOfRanks::same;
    return {{{"the same step", step_, "begin the same step on all ranks, also after a resume"},
             {"the same settings", options_.settings, "start all ranks with the same settings"},
             {"the same layout of parameters", layout_,
              "add the same tensors in the same order on all ranks"},
             {"the same drop rates", same ? rates_ : 0,
              "sum the sensitivities over the ranks (sum_over_ranks) before rates are allocated"},
             {"the same plan", same ? plans_ : 0, same_seed}}};
  }

  // Completes the all-reduce of the fingerprint, and compares.
  void compare() {
    if (checked_) return;
    communicator_->wait(control_request_);
    const int ranks = communicator_->size();
    const auto all = fields();
    for (std::size_t i = 0; i < all.size(); ++i)
      if (!detail::agrees({control_.data() + i * detail::sums_of_field, detail::sums_of_field},
                          ranks))
        disagree(all[i]);
    if (options_.stops_on_non_finite_loss &&
        control_[field_count * detail::sums_of_field + 1] != 0.0)
      disagree(
          {"a finite loss", std::bit_cast<std::uint64_t>(loss_),
           "look for the batch of the rank whose loss is not finite, or lower the learning rate",
           true});
    checked_ = true;
  }

  // The step is given up.
  [[noreturn]] void disagree(const detail::AgreedField& field) {
    phase_ = Phase::idle;
    micro_steps_ = 0;
    detail::throw_disagreement(*communicator_, step_, field);
  }

  // Ranks that kept the unit.
  double keepers(std::size_t unit) const {
    if (unit == 0 || unit + 1 == units_.size()) return communicator_->size();
    const std::size_t branch = kept_.size() - unit;
    if (options_.plans == PlansOfRanks::same) return kept_[branch] ? communicator_->size() : 0.0;
    return control_[control_.size() - kept_.size() + branch];
  }

  void launch_ready() {
    for (; unit_ < ready_; ++unit_) {
      const double kept_by = keepers(unit_);
      if (!(kept_by > 0.0)) continue;
      const double ranks = communicator_->size();
      const double factor = options_.combine == Combine::mean ? 1.0 / kept_by : ranks / kept_by;
      const bool branch = unit_ != 0 && unit_ + 1 != units_.size();
      const bool own = !branch || kept_[kept_.size() - unit_] != 0;
      for (const std::span<T> gradient : units_[unit_]) send({gradient, factor}, own);
    }
  }

  // `own`: this rank has the gradient; otherwise it adds zeros.
  void send(const Part& part, bool own) {
    if (part.gradient.empty()) return;
    const std::size_t bytes = part.gradient.size() * sizeof(Wire);
    if constexpr (std::is_same_v<T, Wire>) {
      if (bytes >= options_.bucket_bytes) {
        if (!own)
          for (T& element : part.gradient) element = T(0);
        const bool reopens = used_ > 0 && buckets_[used_ - 1].elements_open;
        if (reopens) close();
        Bucket& bucket = next_bucket();
        bucket.parts.push_back(part);
        bucket.request = reduce(part.gradient);
        return;
      }
    }
    if (used_ == 0 || !buckets_[used_ - 1].elements_open) next_bucket().elements_open = true;
    Bucket& bucket = buckets_[used_ - 1];
    bucket.parts.push_back(part);
    for (const T& element : part.gradient) bucket.memory.push_back(own ? wire(element) : Wire(0));
    if (bucket.memory.size() * sizeof(Wire) >= options_.bucket_bytes) close();
  }

  Bucket& next_bucket() {
    if (used_ == buckets_.size()) buckets_.emplace_back();
    Bucket& bucket = buckets_[used_++];
    bucket.memory.clear();
    bucket.parts.clear();
    bucket.elements_open = false;
    return bucket;
  }

  // Begins the message of the last bucket, if it is still open.
  void close() {
    if (used_ == 0 || !buckets_[used_ - 1].elements_open) return;
    Bucket& bucket = buckets_[used_ - 1];
    bucket.elements_open = false;
    bucket.request = reduce(detail::view(bucket.memory));
  }

  typename C::Request reduce(std::span<Wire> values) {
    ++traffic_.messages;
    traffic_.gradient_bytes += values.size_bytes();
    return communicator_->all_reduce(values);
  }

  void complete(Bucket& bucket) {
    communicator_->wait(bucket.request);
    const Wire* from = bucket.memory.data();
    for (const Part& part : bucket.parts) {
      const auto factor = static_cast<Wire>(part.factor);
      if (bucket.memory.empty()) {
        if (part.factor != 1.0)
          for (T& element : part.gradient) element = value(wire(element) * factor);
        continue;
      }
      for (T& element : part.gradient) element = value(*from++ * factor);
    }
  }

  C* communicator_;
  ReducerOptions options_;
  std::vector<std::vector<std::span<T>>> units_;  // by unit
  std::vector<std::uint8_t> kept_;                // by branch: in a micro-step of the step
  std::vector<double> control_;                   // fields, loss, its finiteness, sums_, kept_
  std::vector<Bucket> buckets_;                   // the first used_ are of the current step
  typename C::Request control_request_{};
  std::span<double> sums_;
  ReducerTraffic traffic_;
  std::uint64_t step_ = 0, plans_ = 0, rates_ = 0, layout_ = 0;
  double loss_ = 0.0;
  std::size_t micro_steps_ = 0;
  std::size_t unit_ = 0;   // the next to be sent
  std::size_t ready_ = 0;  // units whose gradients are complete
  std::size_t used_ = 0;
  Phase phase_ = Phase::idle;
  bool checked_ = false;
};

DROPBP_NAMESPACE_END
