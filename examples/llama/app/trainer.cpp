// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "llama/app/errors.hpp"
#include "llama/app/learning_rate.hpp"
#include "llama/app/rank_rows.hpp"
#include "llama/formats/finite.hpp"
#include "llama/model/adapter.hpp"

namespace llama {
namespace {

// Taken from the command line or from the adapter's config.
ops::LoraConfig lora_of(const Options& options, const LlamaConfig& config) {
  if (options.mode == ModeChoice::full) return {};
  const std::vector<std::string> linears = linear_names(config);
  ops::LoraConfig lora;
  if (options.adapter) {
    lora = load_adapter_config(*options.adapter, linears);
  } else {
    lora = {.rank = options.lora_rank,
            .alpha = options.lora_alpha,
            .targets = options.lora_targets,
            .rank_stabilized = options.rslora,
            .magnitudes = options.dora,
            .modules_to_save = options.modules_to_save};
    apply(options.lora_patterns, lora, linears);
  }
  lora.targets = canonical_targets(lora.targets, linears_of(config.traits), !options.adapter);
  lora.dropout = options.lora_dropout.value_or(lora.dropout);
  const bool eight_bits = options.base_precision == BasePrecisionChoice::fp8;
  lora.quantize = options.mode == ModeChoice::qlora || eight_bits;
  lora.format = eight_bits ? ops::QuantizedFormat::fp8 : ops::QuantizedFormat::nf4;
  return lora;
}

dropbp::DropOptions drop_options(const Options& options, double drop_rate, const auto& model,
                                 std::size_t branches) {
  dropbp::DropOptions result{.drop_rate = drop_rate,
                             .seed = options.seed,
                             .trainable_below = model.trainable_below(),
                             .warmup_steps = options.drop_warmup};
  if (options.gradient_scaling == ScalingChoice::inverse_keep_rate)
    result.gradient_scaling = dropbp::GradientScaling::inverse_keep_rate;
  for (std::size_t i = 0; i < branches; ++i) result.groups.push_back(i % 2);  // attention and MLP
  return result;
}

// Most matrices that a kept branch saves; alignment may leave a gap of less than 64 bytes for each.
constexpr std::size_t most_saved_matrices = 16;

std::size_t saved_by_all(const auto& model, std::size_t branches, std::ptrdiff_t tokens) {
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < branches; ++i) bytes += model.saved_bytes(i, tokens);
  return bytes;
}

void reserve_arena(auto& model, std::size_t bytes, std::size_t branches) {
  model.saved_memory().reserve(bytes, most_saved_matrices * branches);
}

// Rounded up, so that the printed value is a sufficient budget.
double mebibytes(std::size_t bytes) {
  return std::ceil(static_cast<double>(bytes) / 0x1p20 * 100.0 + 1e-9) / 100.0;
}

// Throws unless some plan fits the budget, and a measurement of sensitivities fits too.
void require_budget(const Options& options, double drop_rate, const auto& model,
                    std::size_t branches) {
  if (options.activation_budget_mib == 0.0 || drop_rate != options.drop_rate)
    return;  // the baseline has none
  const double budget = options.activation_budget_mib * 0x1p20;
  const std::ptrdiff_t tokens = options.batch * options.sequence;
  const std::size_t all = saved_by_all(model, branches, tokens),
                    sample = saved_by_all(model, branches, options.sequence);
  const std::size_t heaviest = std::max(model.saved_bytes(0, tokens), model.saved_bytes(1, tokens));
  if (drop_rate == 0.0 && static_cast<double>(all) > budget)
    throw UsageError(
        fmt::format("--activation-budget must hold the {:.2f} MiB that all branches save, because "
                    "--drop-rate 0 drops none, but it is {:g} MiB; raise it, or raise --drop-rate",
                    mebibytes(all), options.activation_budget_mib));
  if (drop_rate > 0.0 && static_cast<double>(heaviest) >= budget)
    throw UsageError(
        fmt::format("--activation-budget must be more than the {:.2f} MiB that the largest branch "
                    "saves, but it is {:g} MiB; raise it, or lower --batch or --sequence",
                    mebibytes(heaviest), options.activation_budget_mib));
  const bool measures = drop_rate > 0.0 &&
                        ChosenAllocation{options.allocation}.needs_sensitivities() &&
                        options.sensitivity != SensitivityChoice::running;
  if (measures && static_cast<double>(sample) > budget)
    throw UsageError(
        fmt::format("--activation-budget must hold the {:.2f} MiB that all branches save for one "
                    "sequence while sensitivities are measured, but it is {:g} MiB; raise it, or "
                    "use --sensitivity running",
                    mebibytes(sample), options.activation_budget_mib));
}

ChosenSampling chosen_sampling(const Options& options, double drop_rate, const auto& model,
                               std::size_t branches) {
  require_budget(options, drop_rate, model, branches);
  switch (options.sampling) {
    case SamplingChoice::bernoulli:
      return {dropbp::BernoulliSampling{}};
    case SamplingChoice::at_least_target:
      return {dropbp::AtLeastTargetSampling{}};
    case SamplingChoice::fixed_budget:
      break;
  }
  dropbp::FixedBudgetSampling sampling;
  sampling.weigh = dropbp::BranchWeight::cost;
  if (options.activation_budget_mib > 0.0 && drop_rate > 0.0) {
    sampling.weigh = dropbp::BranchWeight::bytes;
    sampling.cap = options.activation_budget_mib * 0x1p20;
    for (std::size_t i = 0; i < branches; ++i)
      sampling.bytes.push_back(
          static_cast<double>(model.saved_bytes(i, options.batch * options.sequence)));
  }
  return {std::move(sampling)};
}

// Limit of the global gradient norm. Below it no square of an element overflows a float; AdamW's
// second moments and the devices' sums of squares are floats.
constexpr double largest_gradient_norm = 1.8e19;

template <class T, class Backend>
std::vector<float> gradient_on_host(const ops::ParameterSlice<T, Backend>& slice) {
  std::vector<float> gradient(slice.size());
  const ops::MatrixView<T, Backend> from(slice.gradient, slice.rows, slice.columns);
  ops::download(ops::MatrixView<float>(gradient.data(), slice.rows, slice.columns), from);
  return gradient;
}

// Throws if the gradients are not finite or too large. The norms are computed anyway, so the check
// is free.
template <class T, class Backend>
void require_usable_gradients(std::span<ops::Parameter<T, Backend>* const> parameters,
                              std::span<const double> squared_norms, std::uint64_t step) {
  if (ops::global_norm(squared_norms) < largest_gradient_norm) return;
  // Searches in the order of the backward pass, because NaN and infinity spread to all layers
  // below.
  double total = 0.0, most = -1.0;
  std::string largest;
  for (std::size_t i = parameters.size(); i-- > 0;) {
    if (!parameters[i]->trained || !parameters[i]->has_gradient()) continue;
    parameters[i]->for_each_slice([&](const ops::ParameterSlice<T, Backend>& slice) {
      const std::vector<float> gradient = gradient_on_host(slice);
      const std::span<const float> values(gradient);
      if (const std::size_t at = first_not_finite(values); at < values.size())
        throw std::runtime_error(fmt::format(
            "gradients must stay finite, but in step {} that of {}, the first in the backward "
            "pass; no weight was changed by this step: lower --learning-rate, or look for extreme "
            "weights in --model",
            step, not_finite_text(slice.name, {slice.rows, slice.columns}, values, at)));
      const double squared =
          dropbp::backend_kernels<dropbp::Cpu, float>::squared_norm(values.data(), values.size());
      total += squared;
      if (squared > most) most = squared, largest = slice.name;
    });
  }
  throw std::runtime_error(
      fmt::format("the norm of all gradients must stay below {:g}, or their squares exceed a "
                  "float, but it is {:g} in step {}, most of it of '{}'; no weight was changed by "
                  "this step: lower --learning-rate, or look for extreme weights in --model",
                  largest_gradient_norm, std::sqrt(total), step, largest));
}

void require_finite_loss(double loss, std::uint64_t step) {
  if (!std::isfinite(loss))
    throw std::runtime_error(
        fmt::format("the loss must stay finite, but it is {} in step {}: lower --learning-rate or "
                    "set --grad-clip",
                    loss, step));
}

// Sums of one step, for its record.
class StepAccount {
 public:
  explicit StepAccount(std::size_t branches) : kept_(branches) {}

  // Adds the plan of a micro-step.
  void count_plan(const auto& handler, const auto& model, std::size_t kept_bytes) {
    for (std::size_t i = 0; i < kept_.size(); ++i) {
      if (handler.plan().dropped(i)) continue;
      kept_flops_ += model.backward_flops(i, handler.plan().input_gradient_needed(i));
      kept_[i] = true;
    }
    record_.kept_activation_bytes = std::max(record_.kept_activation_bytes, kept_bytes);
  }

  // Call it once, at the end. `all_flops`: the FLOPs of the step if nothing were dropped.
  StepRecord record(double all_flops, const auto& parameters) {
    std::size_t updated = 0, all = 0;
    for (const auto* parameter : parameters) {
      if (!parameter->trained) continue;
      all += parameter->size();
      if (parameter->has_gradient()) updated += parameter->size();
    }
    for (std::size_t i = 0; i < kept_.size(); ++i)
      if (!kept_[i]) record_.dropped.push_back(i);
    record_.kept_flops_fraction = kept_flops_ / all_flops;
    record_.updated_parameter_fraction = static_cast<double>(updated) / static_cast<double>(all);
    return std::move(record_);
  }

 private:
  StepRecord record_;
  double kept_flops_ = 0.0;
  std::vector<bool> kept_;  // in any micro-step
};

double sum_of(const std::vector<dropbp::DeferredNumber>& numbers) {
  double sum = 0.0;
  for (const dropbp::DeferredNumber& number : numbers) sum += number.value();
  return sum;
}

std::vector<double> values_of(const std::vector<dropbp::DeferredNumber>& numbers) {
  std::vector<double> values;
  values.reserve(numbers.size());
  for (const dropbp::DeferredNumber& number : numbers) values.push_back(number.value());
  return values;
}

}  // namespace

template <class T, class Backend>
BasicTrainer<T, Backend>::BasicTrainer(const Options& options, const LlamaConfig& config,
                                       const TrainingData& data, double drop_rate, Ranks* ranks)
    : options_(options),
      ranks_(ranks != nullptr && ranks->are_several() ? ranks : nullptr),
      model_(config, options.sequence,
             {.lora = lora_of(options, config),
              .recompute = options.recompute,
              .any_order = options.nondeterministic_attention}),
      handler_(
          model_,
          drop_options(options, drop_rate, model_, 2 * static_cast<std::size_t>(config.layers)),
          ChosenAllocation{options.allocation},
          chosen_sampling(options, drop_rate, model_, 2 * static_cast<std::size_t>(config.layers))),
      optimizer_(model_.parameters(), {.learning_rate = options.learning_rate,
                                       .beta1 = 0.9,
                                       .beta2 = 0.95,
                                       .eps = 1e-8,
                                       .weight_decay = options.weight_decay}),
      source_(data.training(options.batch_options())),
      validation_(data.validation(options.batch_options())),
      running_(handler_.size()) {
  if (ranks_ != nullptr) {
    const RankNumber number{ranks_->rank(), ranks_->size()};
    source_ = std::make_unique<RankBatches>(std::move(source_), number);
    if (validation_ != nullptr)
      validation_ = std::make_unique<RankEvaluation>(std::move(validation_), number);
  }
  // As in Hugging Face's trainer, weight decay applies to all matrices, embedding and output layer
  // included.
  for (ops::Parameter<T, Backend>* parameter : model_.parameters()) {
    const std::string_view name = parameter->parts().front().name;
    parameter->decays = !name.ends_with("norm.weight") && !name.ends_with(".bias");
  }
  branch_of_parameter_.assign(model_.parameters().size(), handler_.size());
  std::size_t branch = 0;
  model_.for_each_layer([&](auto& layer) {
    layer.op().for_each_parameter([&](const ops::Parameter<T, Backend>& parameter) {
      for (std::size_t i = 0; i < branch_of_parameter_.size(); ++i)
        if (model_.parameters()[i] == &parameter) branch_of_parameter_[i] = branch;
    });
    ++branch;
  });
  if constexpr (!dropbp::DeviceBackend<Backend>) {
    if (ranks_ != nullptr)
      shared_ = std::make_unique<RankGradients<T>>(*ranks_, model_.parameters(),
                                                   branch_of_parameter_, handler_.size());
  } else if (ranks_ != nullptr) {
    throw UsageError(
        "mpirun needs --device cpu, because gradients are exchanged in the memory of the host, but "
        "--device cuda was given; start one process for the device");
  }
  if (options.model)
    load_weights(*options.model, model_);
  else
    model_.initialize(options.seed);
  if (options.adapter)
    load_adapter(*options.adapter, model_);
  else
    model_.initialize_adapters(options.seed);
  handler_.observe_stream(options.sensitivity == SensitivityChoice::running);
  records_.reserve(options.steps);
}

template <class T, class Backend>
const StepRecord& BasicTrainer<T, Backend>::step() {
  const std::uint64_t number = steps_done();
  if (ranks_ != nullptr) ranks_->set_deadline(number, options_.step_deadline);
  if (allocation_due(number)) allocate();

  PassMarks<Backend> marks;
  StepAccount account(handler_.size());
  model_.saved_memory().reset_peak();
  model_.clear_gradients();
  std::vector<dropbp::DeferredNumber> losses;
  for (std::uint32_t micro = 0; std::cmp_less(micro, options_.micro_steps); ++micro) {
    source_->fill(number, micro, batch_);
    draw_plan(number, micro);
    const std::size_t kept_bytes = kept_activation_bytes();
    reserve_activations(kept_bytes);
    losses.push_back(micro_step(number, micro, losses, marks));
    account.count_plan(handler_, model_, kept_bytes);
  }
  double loss_of_ranks = 0.0;
  if (shared_ != nullptr) loss_of_ranks = shared_->finish();  // the gradients are then of all ranks
  const auto norms = ops::deferred_squared_gradient_norms<T>(optimizer_.parameters());
  // The first number that is read waits, and brings all numbers of the step.
  const double loss = shared_ != nullptr ? loss_of_ranks : sum_of(losses);
  settle();  // the step before is over
  require_finite_loss(loss, number);
  const std::vector<double> squared_norms = values_of(norms);
  require_usable_gradients<T, Backend>(optimizer_.parameters(), squared_norms, number);
  if (options_.sensitivity == SensitivityChoice::running) observe_gradients(squared_norms);
  const double norm = ops::global_norm(squared_norms);
  optimizer_.step(clip_factor(norm), learning_rate_scale(options_, number));
  marks.mark({&PassTimes::optimizer});

  StepRecord record =
      account.record(handler_.schedule().total_cost() * static_cast<double>(options_.micro_steps),
                     optimizer_.parameters());
  record.step = number;
  record.loss = loss;
  record.gradient_norm = norm;
  record.activation_bytes = model_.saved_memory().peak_bytes();
  tokens_seen_ += source_->tokens(number);
  records_.push_back(std::move(record));
  unsettled_ = std::move(marks);
  return records_.back();
}

// Adds its times to the last record.
template <class T, class Backend>
void BasicTrainer<T, Backend>::settle() const {
  if (!unsettled_) return;
  const PassTimes times = unsettled_->times();
  StepRecord& record = records_.back();
  record.forward_ms = 1e3 * times.forward;
  record.backward_ms = 1e3 * times.backward;
  record.branches_backward_ms = 1e3 * times.branches_backward;
  record.optimizer_ms = 1e3 * times.optimizer;
  record.step_ms = 1e3 * unsettled_->seconds();
  training_seconds_ += 1e-3 * record.step_ms;
  unsettled_.reset();
}

template <class T, class Backend>
void BasicTrainer<T, Backend>::draw_plan(std::uint64_t step, std::uint32_t micro_step) {
  if (micro_step == 0)
    handler_.begin_step(step);
  else
    handler_.begin_micro_step(micro_step);
}

template <class T, class Backend>
dropbp::DeferredNumber BasicTrainer<T, Backend>::micro_step(
    std::uint64_t step, std::uint32_t micro_step,
    const std::vector<dropbp::DeferredNumber>& losses_before, PassMarks<Backend>& marks) {
  // Ranks draw their own masks of dropout.
  const auto rank = static_cast<std::uint64_t>(ranks_ != nullptr ? ranks_->rank() : 0);
  model_.set_micro_step(
      {.seed = options_.seed + (rank << 32), .step = step, .micro_step = micro_step});
  marks.mark({&PassTimes::other});
  if (shared_ == nullptr) return loss_and_gradients(marks, nullptr);
  const PassObserver observer = shared_->observer(
      handler_.plan(), std::cmp_equal(micro_step + 1, options_.micro_steps), sum_of(losses_before));
  return loss_and_gradients(marks, &observer);
}

// The sum over the ranks, the same bits on all.
template <class T, class Backend>
double BasicTrainer<T, Backend>::over_ranks(double sum) const {
  if (ranks_ != nullptr) dropbp::sum_over_ranks(*ranks_, std::span<double>(&sum, 1));
  return sum;
}

template <class T, class Backend>
dropbp::DeferredNumber BasicTrainer<T, Backend>::loss_and_gradients(PassMarks<Backend>& marks,
                                                                    const PassObserver* observer) {
  if (handler_.backward_needed() || model_.trainable_above())
    return model_.deferred_loss_and_gradients(batch_, &marks, observer);
  // All that is trained is in branches, and all of these are dropped: there is no gradient.
  const dropbp::DeferredNumber loss = model_.deferred_loss(batch_);
  marks.mark({&PassTimes::forward});
  if (observer != nullptr) observer->loss_known(loss.value());
  return loss;
}

template <class T, class Backend>
double BasicTrainer<T, Backend>::clip_factor(double gradient_norm) const {
  return options_.grad_clip > 0.0 ? ops::clip_factor(gradient_norm, options_.grad_clip) : 1.0;
}

template <class T, class Backend>
std::size_t BasicTrainer<T, Backend>::kept_activation_bytes() const {
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < handler_.size(); ++i)
    if (!handler_.plan().dropped(i)) bytes += model_.saved_bytes(i, batch_.shape.tokens());
  return bytes;
}

// Reserves memory for this plan or, if the sampling bounds all plans, for any plan, so that the
// arena never grows.
template <class T, class Backend>
void BasicTrainer<T, Backend>::reserve_activations(std::size_t kept_bytes) {
  const bool bounded = handler_.schedule().sampling().fixed_budget() != nullptr;
  reserve_arena(model_, bounded || handler_.drop_rate() == 0.0 ? activation_bound() : kept_bytes,
                handler_.size());
}

template <class T, class Backend>
std::size_t BasicTrainer<T, Backend>::activation_bound() const {
  const auto& schedule = handler_.schedule();
  std::size_t bytes = 0;
  for (const std::uint32_t group :
       {0u, 1u})  // attention and MLP: of a group all branches save alike
    bytes +=
        schedule.max_kept(group) * model_.saved_bytes(group, options_.batch * options_.sequence);
  const dropbp::FixedBudgetSampling* const sampling = schedule.sampling().fixed_budget();
  if (sampling == nullptr || sampling->weigh != dropbp::BranchWeight::bytes) return bytes;
  return std::min(bytes, static_cast<std::size_t>(std::ceil(schedule.max_kept_weight())));
}

template <class T, class Backend>
bool BasicTrainer<T, Backend>::allocation_due(std::uint64_t step) const {
  const auto first =
      static_cast<std::uint64_t>(options_.allocate_at * static_cast<double>(options_.steps));
  if (step <= first) return step == first;
  std::uint64_t period = options_.reallocate_every;
  if (period == 0 && options_.sensitivity == SensitivityChoice::running)
    period = std::max<std::uint64_t>(1, options_.steps / 10);
  return period > 0 && (step - first) % period == 0;
}

// Clipping needs the norms anyway, so the estimate is free.
template <class T, class Backend>
void BasicTrainer<T, Backend>::observe_gradients(std::span<const double> squared_norms) {
  std::vector<double> of_branches(handler_.size() + 1);
  for (std::size_t i = 0; i < squared_norms.size(); ++i)
    of_branches[branch_of_parameter_[i]] += squared_norms[i];
  of_branches.pop_back();
  handler_.observe_gradients(running_, of_branches);
  if (ranks_ != nullptr) average(*ranks_, running_);
}

template <class T, class Backend>
void BasicTrainer<T, Backend>::allocate() {
  if (!ChosenAllocation{options_.allocation}.needs_sensitivities() || handler_.drop_rate() == 0.0)
    return;
  if (options_.sensitivity == SensitivityChoice::running) {
    handler_.allocate(running_.sensitivities());
    return;
  }
  double seconds = 0.0;
  Stopwatch watch;
  // One sequence is enough, as in the published recipe.
  source_->fill(steps_done(), 0, batch_);
  reserve_arena(model_, saved_by_all(model_, handler_.size(), options_.sequence), handler_.size());
  // Use the dropout masks of this step, so that they do not depend on a validation or a resume
  // before it.
  model_.set_micro_step({.seed = options_.seed, .step = steps_done()});
  std::vector<double> sum(handler_.size());
  for (std::ptrdiff_t number = 0; number < options_.sensitivity_samples; ++number) {
    const Batch sample = row_of(batch_, number);
    BranchwisePass<T, Backend> pass(model_, sample);
    const std::vector<double> one =
        options_.sensitivity == SensitivityChoice::gradient
            ? handler_.measure_sensitivities_branchwise(pass, dropbp::GradientSensitivity{})
            : handler_.measure_sensitivities_branchwise(pass, dropbp::GradientNormSensitivity{});
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += one[i];
  }
  if (ranks_ != nullptr) dropbp::sum_over_ranks(*ranks_, sum);
  handler_.allocate(sum);
  model_.workspace().trim();  // frees blocks sized for a single sequence
  watch.add_to(seconds);
  measurement_seconds_ += seconds;
}

template <class T, class Backend>
double BasicTrainer<T, Backend>::validate() {
  if (ranks_ != nullptr) ranks_->set_deadline(steps_done(), options_.step_deadline);
  handler_.begin_evaluation();
  model_.set_micro_step({.training = false});
  double loss = 0.0;
  for (std::size_t i = 0; i < validation_->batches(); ++i) {
    validation_->fill(i, batch_);
    if (batch_.shape.batch > 0) loss += model_.loss(batch_);
  }
  loss = over_ranks(loss);
  if (!std::isfinite(loss))
    throw std::runtime_error(
        fmt::format("the validation loss must stay finite, but it is {} after step {} of {}: lower "
                    "--learning-rate, or look for extreme weights in --model",
                    loss, steps_done(), options_.steps));
  last_validation_loss_ = loss;
  if (!records_.empty()) records_.back().validation_loss = last_validation_loss_;
  return *last_validation_loss_;
}

template <class T, class Backend>
RunState BasicTrainer<T, Backend>::state() const {
  settle();
  return {.handler = handler_.state(),
          .running = running_.state(),
          .records = records_,
          .last_validation_loss = last_validation_loss_,
          .training_seconds = training_seconds_,
          .measurement_seconds = measurement_seconds_};
}

template <class T, class Backend>
void BasicTrainer<T, Backend>::restore(RunState state) {
  if (state.handler.next_step != state.records.size())
    throw std::invalid_argument(fmt::format(
        "a state must have a record of each step, but it has {} of {}; use an intact one",
        state.records.size(), state.handler.next_step));
  dropbp::RunningSensitivity running = running_;
  running.restore(state.running);
  handler_.restore(state.handler);
  running_ = std::move(running);
  records_ = std::move(state.records);
  unsettled_.reset();
  last_validation_loss_ = state.last_validation_loss;
  training_seconds_ = state.training_seconds;
  measurement_seconds_ = state.measurement_seconds;
  tokens_seen_ = 0;
  for (std::uint64_t step = 0; step < records_.size(); ++step)
    tokens_seen_ += source_->tokens(step);
}

template <class T, class Backend>
Summary BasicTrainer<T, Backend>::summary() const {
  settle();
  const dropbp::Report report = handler_.report();
  Summary summary;
  summary.tokens_per_second =
      training_seconds_ > 0.0 ? static_cast<double>(tokens_seen_) / training_seconds_ : 0.0;
  summary.final_loss = records_.empty() ? std::nan("") : records_.back().loss;
  summary.validation_loss = last_validation_loss_;
  summary.mean_drop_rate = report.mean_drop_rate();
  summary.backward_flops_fraction = report.backward_cost_fraction();
  for (const StepRecord& record : records_)
    summary.peak_activation_bytes =
        std::max(summary.peak_activation_bytes, record.activation_bytes);
  return summary;
}

#define DROPBP_LLAMA_INSTANTIATE(T, Backend) template class BasicTrainer<T, Backend>;
DROPBP_LLAMA_FOR_TRAINED(DROPBP_LLAMA_INSTANTIATE)
#undef DROPBP_LLAMA_INSTANTIATE

}  // namespace llama
