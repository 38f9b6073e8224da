// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/best_weights.hpp"

#include <charconv>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "llama/app/errors.hpp"
#include "llama/formats/atomic_file.hpp"
#include "llama/formats/safetensors.hpp"

namespace llama {
namespace {

constexpr std::string_view name_start = "best-", name_end = ".safetensors";

/// visit(const Slice&) for each tensor that trains.
void for_each_trained(auto& trainer, const auto& visit) {
  trainer.model().for_each_tensor([&](const auto& slice) {
    if (slice.trained) visit(slice);
  });
}

std::optional<std::uint64_t> steps_of(std::string_view name) {
  if (!name.starts_with(name_start) || !name.ends_with(name_end)) return std::nullopt;
  name.remove_prefix(name_start.size()), name.remove_suffix(name_end.size());
  std::uint64_t steps = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), steps);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return steps;
}

}  // namespace

std::optional<BestLoss> best_of(std::span<const StepRecord> records) {
  std::optional<BestLoss> best;
  for (const StepRecord& record : records) {
    if (!record.validation_loss) continue;
    if (best && best->loss <= *record.validation_loss)
      ++best->since;
    else
      best = {.steps = record.step + 1, .loss = *record.validation_loss};
  }
  return best;
}

BestWeights::BestWeights(std::filesystem::path folder, std::span<const StepRecord> records)
    : folder_(std::move(folder)) {
  remove_temporaries(folder_, [](std::string_view name) { return steps_of(name).has_value(); });
  const auto best = best_of(records);
  if (!best) return;
  of_checkpoint_ = best->steps;
  if (!std::filesystem::exists(path_of(best->steps)))
    throw UsageError(fmt::format(
        "--best needs the weights of the best validation loss so far, {:.4f} after step {}, but "
        "'{}' is not there, as for a run that was begun without --best; leave it out",
        best->loss, best->steps, path_of(best->steps).string()));
}

std::filesystem::path BestWeights::path_of(std::uint64_t steps) const {
  return folder_ / fmt::format("{}{:08}{}", name_start, steps, name_end);
}

std::vector<std::uint64_t> BestWeights::files() const {
  std::vector<std::uint64_t> found;
  std::error_code error;
  std::filesystem::directory_iterator walk(folder_, error);
  for (; !error && walk != std::filesystem::directory_iterator(); walk.increment(error))
    if (const auto steps = steps_of(walk->path().filename().string())) found.push_back(*steps);
  return found;
}

template <class T, class Backend>
void BestWeights::save(BasicTrainer<T, Backend>& trainer) {
  const auto best = best_of(trainer.records());
  if (!best || best->steps != trainer.steps_done()) return;
  std::vector<TensorToWrite> tensors;
  for_each_trained(trainer, [&](const ops::ParameterSlice<T, Backend>& slice) {
    TensorToWrite& one = tensors.emplace_back();
    one.name = slice.name, one.shape = {slice.rows, slice.columns};
    if constexpr (std::is_same_v<T, float> && !dropbp::DeviceBackend<Backend>)
      one.values = {slice.value, slice.size()};
    else
      one.make = [slice](std::span<float> values) {
        ops::download(ops::MatrixView<float>(values.data(), slice.rows, slice.columns),
                      ops::MatrixView<T, Backend>(slice.value, slice.rows, slice.columns));
      };
  });
  write_safetensors(path_of(best->steps), tensors, DType::f32,
                    {{"dropbp.best", std::to_string(best->steps)}});
  std::error_code ignored;
  if (newest_ && newest_ != best->steps) std::filesystem::remove(path_of(*newest_), ignored);
  newest_ = best->steps;
}

void BestWeights::prune(std::span<const StepRecord> records) {
  const auto before = std::exchange(of_checkpoint_, std::nullopt);
  if (const auto best = best_of(records)) of_checkpoint_ = best->steps;
  newest_.reset();
  std::error_code ignored;
  for (const std::uint64_t steps : files())
    if (steps != before && steps != of_checkpoint_)
      std::filesystem::remove(path_of(steps), ignored);
}

template <class T, class Backend>
void BestWeights::load(BasicTrainer<T, Backend>& trainer) const {
  const auto best = best_of(trainer.records());
  if (!best || best->steps == trainer.steps_done()) return;  // the model has them
  const SafetensorsFile file(path_of(best->steps));
  file.verify();
  std::size_t count = 0;
  for_each_trained(trainer, [&](const ops::ParameterSlice<T, Backend>& slice) {
    const TensorInfo* const tensor = file.find(slice.name);
    const std::vector<std::ptrdiff_t> shape{slice.rows, slice.columns};
    if (tensor == nullptr || tensor->shape != shape)
      throw std::runtime_error(fmt::format(
          "'{}' must have '{}' of the shape {}, but it does not; the weights after the last step "
          "are in the newest checkpoint: resume without --best",
          file.path().string(), slice.name, shape_text(shape)));
    ++count;
  });
  if (count != file.tensors().size())
    throw std::runtime_error(fmt::format(
        "'{}' must have the {} tensors that train, but it has {}; resume without --best",
        file.path().string(), count, file.tensors().size()));
  std::vector<float> values;
  for_each_trained(trainer, [&](const ops::ParameterSlice<T, Backend>& slice) {
    values.resize(slice.size());
    file.read(slice.name, std::span<float>(values));
    ops::upload(ops::MatrixView<T, Backend>(slice.value, slice.rows, slice.columns),
                ops::MatrixView<const float>(values.data(), slice.rows, slice.columns));
  });
}

#define DROPBP_LLAMA_INSTANTIATE(T, Backend)                  \
  template void BestWeights::save(BasicTrainer<T, Backend>&); \
  template void BestWeights::load(BasicTrainer<T, Backend>&) const;
DROPBP_LLAMA_FOR_TRAINED(DROPBP_LLAMA_INSTANTIATE)
#undef DROPBP_LLAMA_INSTANTIATE

}  // namespace llama
