// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Numbers are stored as they lie in memory, so that nothing is rounded.
#include "llama/app/training_state.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <system_error>
#include <type_traits>

#include "llama/app/errors.hpp"
#include "llama/formats/finite.hpp"
#include "llama/formats/strict_json.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;
using Shape = std::vector<std::ptrdiff_t>;

constexpr std::string_view format_version = "1";
constexpr std::string_view version_key = "dropbp.checkpoint", step_key = "dropbp.step",
                           identity_key = "dropbp.identity", handler_key = "dropbp.handler";

constexpr double StepRecord::* figures[] = {&StepRecord::loss,
                                            &StepRecord::forward_ms,
                                            &StepRecord::backward_ms,
                                            &StepRecord::optimizer_ms,
                                            &StepRecord::step_ms,
                                            &StepRecord::branches_backward_ms,
                                            &StepRecord::gradient_norm,
                                            &StepRecord::kept_flops_fraction,
                                            &StepRecord::updated_parameter_fraction};
constexpr std::size_t figure_count = std::size(figures);

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<T, double>)
    return DType::f64;
  else if constexpr (std::is_same_v<T, std::uint64_t>)
    return DType::u64;
  else
    return DType::u8;
}

Shape shape_of(std::initializer_list<std::size_t> sizes) {
  Shape shape;
  for (const std::size_t size : sizes) shape.push_back(static_cast<std::ptrdiff_t>(size));
  return shape;
}

/// visit(slice, index of its parameter, offset of the slice in the parameter) for every slice of a
/// trained parameter.
void for_each_trained(auto& trainer, auto&& visit) {
  const auto parameters = trainer.optimizer().parameters();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!parameters[i]->trained) continue;
    std::size_t first = 0;
    parameters[i]->for_each_slice([&](const auto& slice) {
      visit(slice, i, first);
      first += slice.size();
    });
  }
}

template <class T, class Backend>
Shape shape_of(const ops::ParameterSlice<T, Backend>& slice) {
  return {slice.rows, slice.columns};
}
std::string first_moment_name(const std::string& name) { return "dropbp.first_moment." + name; }
std::string second_moment_name(const std::string& name) { return "dropbp.second_moment." + name; }

}  // namespace

// ---- writing. The classes have names of their own: lambdas of templates capture them.

class TrainingStateWriter {
 public:
  /// `numbers` must stay valid until write(). Throws std::runtime_error if one is not finite,
  /// because every step of a resumed run would be too.
  template <class T>
  void add(std::string name, Shape shape, const T* numbers, std::size_t count) {
    if constexpr (std::is_floating_point_v<T>) {
      const std::span<const T> values(numbers, count);
      if (const std::size_t at = first_not_finite(values); at < count)
        throw std::runtime_error(
            fmt::format("numbers in a checkpoint must be finite, but {}; no checkpoint is written "
                        "and the older ones are kept: start a new run with a lower --learning-rate",
                        not_finite_text(name, shape, values, at)));
    }
    tensors_.push_back({std::move(name), dtype_of<T>(), std::move(shape),
                        std::as_bytes(std::span(numbers, count))});
  }
  template <class T>
  void keep(std::string name, Shape shape, std::vector<T> numbers) {
    const auto kept = std::make_shared<const std::vector<T>>(std::move(numbers));
    add(std::move(name), std::move(shape), kept->data(), kept->size());
    kept_.push_back(kept);
  }
  void write(AtomicFile& file, const std::map<std::string, std::string>& metadata) const {
    write_safetensors(file, tensors_, metadata);
  }

 private:
  std::vector<RawTensor> tensors_;
  std::vector<std::shared_ptr<const void>> kept_;
};

namespace {

// See read_running.
void write_running(TrainingStateWriter& writer, const dropbp::RunningSensitivity::State& state) {
  const std::size_t branches = state.own.size();
  writer.keep("dropbp.running.own", shape_of({branches}), state.own);
  writer.keep("dropbp.running.own_weights", shape_of({branches}), state.own_weights);
  writer.keep("dropbp.running.ratios", shape_of({branches}), state.ratios);
  writer.keep("dropbp.running.ratio_weights", shape_of({branches}), state.ratio_weights);
  std::vector<std::uint64_t> steps = state.last;
  steps.push_back(state.step);
  writer.keep("dropbp.running.steps", shape_of({branches + 1}), std::move(steps));
}

// See read_records.
void write_records(TrainingStateWriter& writer, const std::vector<StepRecord>& records,
                   std::size_t branches) {
  std::vector<double> numbers, validation;
  std::vector<std::uint64_t> counts;
  std::vector<std::uint8_t> dropped(records.size() * branches);
  for (std::size_t i = 0; i < records.size(); ++i) {
    for (const auto figure : figures) numbers.push_back(records[i].*figure);
    numbers.push_back(records[i].validation_loss.value_or(0.0));
    counts.insert(counts.end(), {records[i].activation_bytes, records[i].kept_activation_bytes,
                                 records[i].validation_loss ? 1u : 0u});
    for (const std::size_t branch : records[i].dropped) dropped.at(i * branches + branch) = 1;
  }
  writer.keep("dropbp.records.figures", shape_of({records.size(), figure_count + 1}),
              std::move(numbers));
  writer.keep("dropbp.records.counts", shape_of({records.size(), 3}), std::move(counts));
  writer.keep("dropbp.records.dropped", shape_of({records.size(), branches}), std::move(dropped));
}

// Adds `count` numbers in the trainer's memory, copied to the host if they are on a device.
template <class Backend>
void write_numbers(TrainingStateWriter& writer, std::string name, Shape shape, const float* numbers,
                   std::size_t count) {
  if constexpr (dropbp::DeviceBackend<Backend>) {
    std::vector<float> fetched(count);
    dropbp::device_runtime<Backend>::copy_to_host(fetched.data(), numbers, count * sizeof(float));
    writer.keep(std::move(name), std::move(shape), std::move(fetched));
  } else {
    writer.add(std::move(name), std::move(shape), numbers, count);
  }
}

}  // namespace

// ---- reading

/// Reads the tensors of a checkpoint and checks that it has no others.
class TrainingStateReader {
 public:
  explicit TrainingStateReader(const SafetensorsFile& file) : file_(file) {}

  template <class T>
  void expect(const std::string& name, const Shape& shape) {
    const TensorInfo* const tensor = file_.find(name);
    if (tensor == nullptr)
      fail(fmt::format("the checkpoint must have the tensor '{}' of shape {}", name,
                       shape_text(shape)),
           "it does not");
    if (tensor->shape != shape || tensor->dtype != dtype_of<T>())
      fail(
          fmt::format("the tensor '{}' must have the shape {} and be {}", name, shape_text(shape),
                      dtype_name(dtype_of<T>())),
          fmt::format("it has {} and is {}", shape_text(tensor->shape), dtype_name(tensor->dtype)));
    expected_.insert(name);
  }
  template <class T>
  std::vector<T> read(const std::string& name, const Shape& shape) {
    expect<T>(name, shape);
    std::vector<T> numbers(file_.find(name)->elements());
    file_.read_bytes(name, std::as_writable_bytes(std::span(numbers)));
    return numbers;
  }
  void expect_no_others() const {
    for (const TensorInfo& tensor : file_.tensors())
      if (!expected_.contains(tensor.name))
        fail(fmt::format("the checkpoint must have {} tensors and no others", expected_.size()),
             fmt::format("it also has '{}'", tensor.name));
  }
  [[noreturn]] void fail(const std::string& required, const std::string& given) const {
    throw std::runtime_error(fmt::format("'{}': {}, but {}; resume with the program that wrote it",
                                         file_.path().string(), required, given));
  }

 private:
  const SafetensorsFile& file_;
  std::set<std::string, std::less<>> expected_;
};

namespace {

dropbp::RunningSensitivity::State read_running(TrainingStateReader& reader, std::size_t branches) {
  dropbp::RunningSensitivity::State state;
  state.own = reader.read<double>("dropbp.running.own", shape_of({branches}));
  state.own_weights = reader.read<double>("dropbp.running.own_weights", shape_of({branches}));
  state.ratios = reader.read<double>("dropbp.running.ratios", shape_of({branches}));
  state.ratio_weights = reader.read<double>("dropbp.running.ratio_weights", shape_of({branches}));
  state.last = reader.read<std::uint64_t>("dropbp.running.steps", shape_of({branches + 1}));
  state.step = state.last.back();
  state.last.pop_back();
  return state;
}

std::vector<StepRecord> read_records(TrainingStateReader& reader, std::size_t steps,
                                     std::size_t branches) {
  const auto numbers =
      reader.read<double>("dropbp.records.figures", shape_of({steps, figure_count + 1}));
  const auto counts = reader.read<std::uint64_t>("dropbp.records.counts", shape_of({steps, 3}));
  const auto dropped =
      reader.read<std::uint8_t>("dropbp.records.dropped", shape_of({steps, branches}));
  std::vector<StepRecord> records(steps);
  for (std::size_t i = 0; i < steps; ++i) {
    StepRecord& record = records[i];
    const double* const row = numbers.data() + i * (figure_count + 1);
    record.step = i;
    for (std::size_t k = 0; k < figure_count; ++k) record.*figures[k] = row[k];
    record.activation_bytes = counts[3 * i];
    record.kept_activation_bytes = counts[3 * i + 1];
    if (counts[3 * i + 2] != 0) record.validation_loss = row[figure_count];
    for (std::size_t branch = 0; branch < branches; ++branch)
      if (dropped[i * branches + branch] != 0) record.dropped.push_back(branch);
  }
  return records;
}

const std::string& require_entry(const SafetensorsFile& file, std::string_view key) {
  const auto entry = file.metadata().find(std::string(key));
  if (entry == file.metadata().end())
    throw std::runtime_error(
        fmt::format("'{}' must be a checkpoint of a training, but its '__metadata__' has no '{}'; "
                    "remove it or give another folder",
                    file.path().string(), key));
  return entry->second;
}

template <class T>
void require_finite(const SafetensorsFile& file, const TensorInfo& tensor) {
  std::vector<T> values(tensor.elements());
  file.read_bytes(tensor.name, std::as_writable_bytes(std::span(values)));
  const std::span<const T> numbers(values);
  if (const std::size_t at = first_not_finite(numbers); at < numbers.size())
    throw std::runtime_error(fmt::format("the numbers in '{}' must be finite, but {}; remove it",
                                         file.path().string(),
                                         not_finite_text(tensor.name, tensor.shape, numbers, at)));
}

}  // namespace

std::optional<std::uint64_t> number_from(std::string_view text, std::size_t digits) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() ||
      fmt::format("{:0{}}", value, digits) != text)
    return std::nullopt;
  return value;
}

template <class T, class Backend>
void write_training_state(AtomicFile& file, BasicTrainer<T, Backend>& trainer,
                          const RunIdentity& identity) {
  const RunState state = trainer.state();
  TrainingStateWriter writer;
  for_each_trained(
      trainer, [&](const ops::ParameterSlice<T, Backend>& slice, std::size_t i, std::size_t first) {
        const ops::AdamWState<T, Backend>& moments = trainer.optimizer().state(i);
        if constexpr (std::is_same_v<T, float>) {
          write_numbers<Backend>(writer, slice.name, shape_of(slice), slice.value, slice.size());
        } else if (moments.master.size() > 0) {
          write_numbers<Backend>(writer, slice.name, shape_of(slice), moments.master.data() + first,
                                 slice.size());
        } else {
          std::vector<float> values(slice.size());
          ops::download(ops::MatrixView<float>(values.data(), slice.rows, slice.columns),
                        ops::MatrixView<T, Backend>(slice.value, slice.rows, slice.columns));
          writer.keep(slice.name, shape_of(slice), std::move(values));
        }
        if (moments.steps == 0) return;
        write_numbers<Backend>(writer, first_moment_name(slice.name), shape_of(slice),
                               moments.first_moment.data() + first, slice.size());
        write_numbers<Backend>(writer, second_moment_name(slice.name), shape_of(slice),
                               moments.second_moment.data() + first, slice.size());
      });
  std::vector<std::uint64_t> updates;
  for (std::size_t i = 0; i < trainer.optimizer().parameters().size(); ++i)
    updates.push_back(trainer.optimizer().state(i).steps);
  const std::size_t parameters = updates.size();
  writer.keep("dropbp.optimizer.steps", shape_of({parameters}), std::move(updates));
  write_running(writer, state.running);
  write_records(writer, state.records, state.handler.drop_rates.size());
  writer.keep("dropbp.run", shape_of({4}),
              std::vector<double>{state.training_seconds, state.measurement_seconds,
                                  state.last_validation_loss.value_or(0.0),
                                  state.last_validation_loss ? 1.0 : 0.0});

  nlohmann::ordered_json flags = nlohmann::ordered_json::object();
  for (const auto& [flag, value] : identity) flags[flag] = value;
  writer.write(file, {{std::string(version_key), std::string(format_version)},
                      {std::string(step_key), std::to_string(state.records.size())},
                      {std::string(identity_key), flags.dump()},
                      {std::string(handler_key), to_text(state.handler)}});
}

SafetensorsFile open_training_state(const fs::path& path, std::uint64_t step) {
  SafetensorsFile file(path);
  file.verify();
  (void)require_entry(file, version_key);
  if (number_from(require_entry(file, step_key)) != step)
    throw std::runtime_error(
        fmt::format("'{}' must be of the step in its name, but it is of step {}; rename it back",
                    path.string(), require_entry(file, step_key)));
  for (const TensorInfo& tensor : file.tensors()) {
    if (tensor.dtype == DType::f32) require_finite<float>(file, tensor);
    if (tensor.dtype == DType::f64) require_finite<double>(file, tensor);
  }
  return file;
}

namespace {

/// Whether a run that was done is to go on with more steps.
bool extends(const SafetensorsFile& file, std::string_view flag, std::string_view was,
             std::string_view is) {
  const auto before = number_from(was), now = number_from(is);
  return flag == "--steps" && before && now && *now > *before &&
         number_from(require_entry(file, step_key)) == before;
}

}  // namespace

RunIdentity identity_in(const SafetensorsFile& file) {
  if (const std::string& version = require_entry(file, version_key); version != format_version)
    throw std::runtime_error(
        fmt::format("'{}' must be a checkpoint of version {}, but it is of version '{}'; resume "
                    "with the program that wrote it",
                    file.path().string(), format_version, version));
  const nlohmann::json saved = parse_strict_json(
      require_entry(file, identity_key), fmt::format("the flags in '{}'", file.path().string()));
  RunIdentity identity;
  for (const auto& [flag, value] : saved.items())
    identity.emplace_back(flag, value.is_string() ? value.get<std::string>() : value.dump());
  return identity;
}

void require_same_run(const SafetensorsFile& file, const RunIdentity& identity,
                      const std::function<void(std::string_view)>& note) {
  RunIdentity saved = identity_in(file);
  std::vector<std::string> differences;
  for (const auto& [flag, value] : identity) {
    const auto entry = std::ranges::find(saved, flag, &RunIdentity::value_type::first);
    const std::string was = entry != saved.end() ? entry->second : "not there";
    if (extends(file, flag, was, value))
      note(
          fmt::format("the run of {} steps goes on to {}; from here on the learning rate and "
                      "--allocate-at follow the new number",
                      was, value));
    else if (was != value)
      differences.push_back(fmt::format("{} was {} and is {}", flag, was, value));
    if (entry != saved.end()) saved.erase(entry);
  }
  for (const auto& [flag, value] : saved)
    differences.push_back(fmt::format("{} was {} and is not there", flag, value));
  if (!differences.empty())
    throw UsageError(fmt::format(
        "--resume continues the run that wrote '{}', but {}; give the old value, or another folder",
        file.path().string(), fmt::join(differences, ", ")));
}

template <class T, class Backend>
void read_training_state(const SafetensorsFile& file, BasicTrainer<T, Backend>& trainer) {
  TrainingStateReader reader(file);
  RunState state;
  const auto steps = number_from(require_entry(file, step_key));
  const std::size_t branches = trainer.drop_rates().size();
  auto& optimizer = trainer.optimizer();
  const auto updates = reader.read<std::uint64_t>("dropbp.optimizer.steps",
                                                  shape_of({optimizer.parameters().size()}));
  for_each_trained(trainer,
                   [&](const ops::ParameterSlice<T, Backend>& slice, std::size_t i, std::size_t) {
                     reader.expect<float>(slice.name, shape_of(slice));
                     if (updates[i] == 0) return;
                     reader.expect<float>(first_moment_name(slice.name), shape_of(slice));
                     reader.expect<float>(second_moment_name(slice.name), shape_of(slice));
                   });
  state.running = read_running(reader, branches);
  state.records = read_records(reader, static_cast<std::size_t>(*steps), branches);
  const auto run = reader.read<double>("dropbp.run", shape_of({4}));
  state.training_seconds = run[0];
  state.measurement_seconds = run[1];
  if (run[3] != 0.0) state.last_validation_loss = run[2];
  reader.expect_no_others();
  try {
    state.handler = dropbp::handler_state_from_text(require_entry(file, handler_key));
    trainer.restore(std::move(state));
  } catch (const std::invalid_argument& error) {
    reader.fail("the state of the run must fit this program", error.what());
  }

  // From here on only reading from the disk can fail.
  for (std::size_t i = 0; i < updates.size(); ++i) {
    const ops::Parameter<T, Backend>& parameter = *optimizer.parameters()[i];
    ops::AdamWState<T, Backend>& moments = optimizer.state(i);
    moments = {};
    if (updates[i] == 0) continue;
    moments.steps = updates[i];
    moments.first_moment = ops::Matrix<float, Backend>(parameter.rows(), parameter.columns());
    moments.second_moment = ops::Matrix<float, Backend>(parameter.rows(), parameter.columns());
    if (!std::is_same_v<T, float>)
      moments.master = ops::Matrix<float, Backend>(parameter.rows(), parameter.columns());
  }
  std::vector<float> staged;
  for_each_trained(
      trainer, [&](const ops::ParameterSlice<T, Backend>& slice, std::size_t i, std::size_t first) {
        const auto read = [&](const std::string& name, float* to) {
          if constexpr (dropbp::DeviceBackend<Backend>) {
            staged.resize(slice.size());
            file.read_bytes(name, std::as_writable_bytes(std::span(staged)));
            dropbp::device_runtime<Backend>::copy_to_device(to, staged.data(),
                                                            slice.size() * sizeof(float));
          } else {
            file.read_bytes(name, std::as_writable_bytes(std::span(to, slice.size())));
          }
        };
        ops::AdamWState<T, Backend>& moments = optimizer.state(i);
        if constexpr (std::is_same_v<T, float>) {
          read(slice.name, slice.value);
        } else {
          staged.resize(slice.size());
          file.read_bytes(slice.name, std::as_writable_bytes(std::span(staged)));
          ops::upload(ops::MatrixView<T, Backend>(slice.value, slice.rows, slice.columns),
                      ops::MatrixView<const float>(staged.data(), slice.rows, slice.columns));
          if (updates[i] > 0)
            dropbp::device_runtime<Backend>::copy_to_device(
                moments.master.data() + first, staged.data(), slice.size() * sizeof(float));
        }
        if (updates[i] == 0) return;
        read(first_moment_name(slice.name), moments.first_moment.data() + first);
        read(second_moment_name(slice.name), moments.second_moment.data() + first);
      });
}

#define DROPBP_LLAMA_INSTANTIATE(T, Backend)                                                      \
  template void write_training_state(AtomicFile&, BasicTrainer<T, Backend>&, const RunIdentity&); \
  template void read_training_state(const SafetensorsFile&, BasicTrainer<T, Backend>&);
DROPBP_LLAMA_FOR_TRAINED(DROPBP_LLAMA_INSTANTIATE)
#undef DROPBP_LLAMA_INSTANTIATE

}  // namespace llama
