// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// One safetensors file a checkpoint. Numbers are stored as they lie in memory, so that nothing is
// rounded on the way.
#include "llama/app/training_checkpoint.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <system_error>
#include <type_traits>

#include "llama/app/errors.hpp"
#include "llama/formats/atomic_file.hpp"
#include "llama/formats/crc32c.hpp"
#include "llama/formats/strict_json.hpp"
#include "llama/model/finite.hpp"

namespace llama {
namespace {

namespace fs = std::filesystem;
using Shape = std::vector<std::ptrdiff_t>;

constexpr std::string_view format_version = "1";
constexpr std::string_view version_key = "dropbp.checkpoint", step_key = "dropbp.step",
                           identity_key = "dropbp.identity", handler_key = "dropbp.handler";
constexpr std::string_view name_start = "step-", name_end = ".safetensors";
constexpr std::size_t name_digits = 8;  // at least

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

/// visit(slice, index of its parameter, its first element within the parameter) for every part that
/// trains.
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

// ---- writing

class Writer {
 public:
  /// The numbers must stay where they are until the file is written. Throws std::runtime_error
  /// where one is not finite: it would be so in every step of a resumed run.
  template <class T>
  void add(std::string name, Shape shape, const T* numbers, std::size_t count) {
    if constexpr (std::is_floating_point_v<T>) {
      const std::span<const T> values(numbers, count);
      if (const std::size_t at = first_not_finite(values); at < count)
        throw std::runtime_error(
            fmt::format("what a checkpoint holds must be finite, but {}; none is written and the "
                        "older ones stay: start a new run with a lower --learning-rate",
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

// A pair with read_running.
void write_running(Writer& writer, const dropbp::RunningSensitivity::State& state) {
  const std::size_t branches = state.own.size();
  writer.keep("dropbp.running.own", shape_of({branches}), state.own);
  writer.keep("dropbp.running.own_weights", shape_of({branches}), state.own_weights);
  writer.keep("dropbp.running.ratios", shape_of({branches}), state.ratios);
  writer.keep("dropbp.running.ratio_weights", shape_of({branches}), state.ratio_weights);
  std::vector<std::uint64_t> steps = state.last;
  steps.push_back(state.step);
  writer.keep("dropbp.running.steps", shape_of({branches + 1}), std::move(steps));
}

// A pair with read_records.
void write_records(Writer& writer, const std::vector<StepRecord>& records, std::size_t branches) {
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

// `count` numbers of a trainer's memory: as they are, or fetched.
template <class Backend>
void write_numbers(Writer& writer, std::string name, Shape shape, const float* numbers,
                   std::size_t count) {
  if constexpr (dropbp::DeviceBackend<Backend>) {
    std::vector<float> fetched(count);
    dropbp::device_runtime<Backend>::copy_to_host(fetched.data(), numbers, count * sizeof(float));
    writer.keep(std::move(name), std::move(shape), std::move(fetched));
  } else {
    writer.add(std::move(name), std::move(shape), numbers, count);
  }
}

template <class T, class Backend>
void write_state(AtomicFile& file, BasicTrainer<T, Backend>& trainer, const RunIdentity& identity) {
  const RunState state = trainer.state();
  Writer writer;
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

// ---- reading

/// The tensors of a checkpoint, each to be asked for once.
class Reader {
 public:
  explicit Reader(const SafetensorsFile& file) : file_(file) {}

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

dropbp::RunningSensitivity::State read_running(Reader& reader, std::size_t branches) {
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

std::vector<StepRecord> read_records(Reader& reader, std::size_t steps, std::size_t branches) {
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

/// A whole number without sign or zeros in front of at least `digits` digits.
std::optional<std::uint64_t> number_from(std::string_view text, std::size_t digits = 1) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() ||
      fmt::format("{:0{}}", value, digits) != text)
    return std::nullopt;
  return value;
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

/// The file if it is whole, finite and what its name says; std::runtime_error otherwise.
SafetensorsFile open_intact(const fs::path& path, std::uint64_t step) {
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

void require_same(const SafetensorsFile& file, const RunIdentity& identity) {
  if (const std::string& version = require_entry(file, version_key); version != format_version)
    throw std::runtime_error(
        fmt::format("'{}' must be a checkpoint of version {}, but it is of version '{}'; resume "
                    "with the program that wrote it",
                    file.path().string(), format_version, version));
  nlohmann::json saved = parse_strict_json(require_entry(file, identity_key),
                                           fmt::format("the flags in '{}'", file.path().string()));
  std::vector<std::string> differences;
  for (const auto& [flag, value] : identity) {
    const auto entry = saved.find(flag);
    const std::string was =
        entry != saved.end() && entry->is_string() ? entry->get<std::string>() : "not there";
    if (was != value) differences.push_back(fmt::format("{} was {} and is {}", flag, was, value));
    if (entry != saved.end()) saved.erase(entry);
  }
  for (const auto& [flag, value] : saved.items())
    differences.push_back(fmt::format("{} was {} and is not there", flag,
                                      value.is_string() ? value.get<std::string>() : value.dump()));
  if (!differences.empty())
    throw UsageError(
        fmt::format("--resume goes on with the run that wrote '{}', but {}; give what it was, or "
                    "another folder",
                    file.path().string(), fmt::join(differences, ", ")));
}

template <class T, class Backend>
void read_state(const SafetensorsFile& file, BasicTrainer<T, Backend>& trainer) {
  Reader reader(file);
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

  // From here on only the disk can fail.
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

fs::path name_of(std::uint64_t step) {
  return fmt::format("{}{:0{}}{}", name_start, step, name_digits, name_end);
}

std::optional<std::uint64_t> step_of(std::string_view name, std::string_view end) {
  if (!name.starts_with(name_start) || !name.ends_with(end) ||
      name.size() < name_start.size() + end.size())
    return std::nullopt;
  return number_from(name.substr(name_start.size(), name.size() - name_start.size() - end.size()),
                     name_digits);
}

}  // namespace

RunIdentity identity_of(const Options& o, const LlamaConfig& c, const TokenData& data,
                        const ops::LoraConfig& adaptation, std::uint32_t base_checksum) {
  RunIdentity identity;
  const auto add = [&](const char* flag, const auto& value) {
    identity.emplace_back(flag, fmt::format("{}", value));
  };
  add("--layers", c.layers);
  add("--hidden", c.hidden);
  add("--intermediate", c.intermediate);
  add("--heads", c.heads);
  add("--kv-heads", c.kv_heads);
  add("--vocabulary", c.vocabulary);
  add("--tie-embeddings", c.tie_embeddings);
  add("rms_norm_eps (--model)", c.norm_epsilon);
  add("rope_theta (--model)", c.rope_theta);
  add("--mode", name_of(o.mode));
  add("--device", name_of(o.device));
  add("--precision", name_of(o.precision));
  add("--lora-rank", adaptation.rank);
  add("--lora-alpha", adaptation.alpha);
  add("--lora-dropout", adaptation.dropout);
  add("--lora-targets", adaptation.targets.empty()
                            ? std::string("all")
                            : fmt::format("{}", fmt::join(adaptation.targets, ",")));
  add("--validation-fraction", o.validation_fraction);
  add("--steps", o.steps);
  add("--batch", o.batch);
  add("--sequence", o.sequence);
  add("--micro-steps", o.micro_steps);
  add("--learning-rate", o.learning_rate);
  // Earlier checkpoints are of runs in which norms decayed too.
  const bool spares_norms = o.weight_decay > 0.0 && !adaptation.enabled();
  add("--weight-decay", fmt::format("{}{}", o.weight_decay, spares_norms ? " without norms" : ""));
  add("--warmup", o.warmup);
  add("--grad-clip", o.grad_clip);
  add("--seed", o.seed);
  add("--eval-batches", o.eval_batches);
  add("--drop-rate", o.drop_rate);
  add("--allocation", name_of(o.allocation));
  add("--sampling", name_of(o.sampling));
  add("--sensitivity", name_of(o.sensitivity));
  add("--sensitivity-samples", o.sensitivity_samples);
  add("--allocate-at", o.allocate_at);
  add("--reallocate-every", o.reallocate_every);
  add("--drop-warmup", o.drop_warmup);
  add("--gradient-scaling", name_of(o.gradient_scaling));
  // With a budget plans are drawn by what branches save, which recomputing changes; without one it
  // changes no bit.
  const bool recompute_decides = o.activation_budget_mib > 0.0 && o.recompute;
  add("--activation-budget",
      fmt::format("{}{}", o.activation_budget_mib, recompute_decides ? " with --recompute" : ""));

  std::uint32_t tokens = 0;
  for (const auto part : {data.train(), data.validation()})
    tokens = crc32c(tokens, part.data(), part.size_bytes());
  add("what --data or --tokens holds",
      fmt::format("{} + {} tokens of CRC-32C {:08x}", data.train().size(), data.validation().size(),
                  tokens));
  add("what does not train of --model", fmt::format("CRC-32C {:08x}", base_checksum));
  return identity;
}

TrainingCheckpoints::TrainingCheckpoints(fs::path folder, RunIdentity identity, FolderLock lock)
    : folder_(std::move(folder)), identity_(std::move(identity)) {
  std::error_code error;
  fs::create_directories(folder_, error);
  std::error_code ignored;
  if (!fs::is_directory(folder_, ignored))
    throw std::runtime_error(fmt::format(
        "'{}' must be a folder that can be created, but {}; choose another one with --checkpoint",
        folder_.string(), error ? error.message() : std::string("something else has that name")));
  if (lock == FolderLock::take) lock_.emplace(Output::folder, folder_);
  check_writable(folder_ / name_of(0));
  remove_leftovers();
}

void TrainingCheckpoints::remove_leftovers() const {
  if (OutputLock::held_here(Output::folder, folder_))
    remove_temporaries(folder_,
                       [](std::string_view name) { return step_of(name, name_end).has_value(); });
}

bool TrainingCheckpoints::empty() const { return list().empty(); }

std::vector<std::pair<std::uint64_t, fs::path>> TrainingCheckpoints::list() const {
  std::vector<std::pair<std::uint64_t, fs::path>> found;
  std::error_code error;
  fs::directory_iterator walk(folder_, error);
  for (; !error && walk != fs::directory_iterator(); walk.increment(error))
    if (const auto step = step_of(walk->path().filename().string(), name_end))
      found.emplace_back(*step, walk->path());
  if (error)
    throw std::runtime_error(
        fmt::format("'{}' must be a folder that can be listed, but {}; check its permissions",
                    folder_.string(), error.message()));
  std::ranges::sort(found);
  return found;
}

template <class T, class Backend>
bool TrainingCheckpoints::resume(BasicTrainer<T, Backend>& trainer,
                                 const std::function<void(std::string_view)>& note) {
  auto found = list();
  for (; !found.empty(); found.pop_back()) {
    const auto& [step, path] = found.back();
    std::optional<SafetensorsFile> file;
    try {
      file.emplace(open_intact(path, step));
    } catch (const std::runtime_error& error) {
      note(fmt::format("a checkpoint is passed over: {}", error.what()));
      continue;
    }
    require_same(*file, identity_);
    read_state(*file, trainer);
    last_good_ = step;
    return true;
  }
  return false;
}

template <class T, class Backend>
void TrainingCheckpoints::save(BasicTrainer<T, Backend>& trainer) {
  const std::uint64_t step = trainer.steps_done();
  if (last_good_ == step) return;
  AtomicFile file(folder_ / name_of(step));
  write_state(file, trainer, identity_);
  file.publish();
  prune(step);
  last_good_ = step;
}

// Damaged ones that are newer stay until they are overtaken. What cannot be removed now can be
// after the next save.
void TrainingCheckpoints::prune(std::uint64_t newest) const {
  std::error_code ignored;
  fs::directory_iterator walk(folder_, ignored);
  std::vector<fs::path> old;
  for (; !ignored && walk != fs::directory_iterator(); walk.increment(ignored)) {
    const std::string name = walk->path().filename().string();
    const auto step = step_of(name, name_end);
    if (step && *step < newest && step != last_good_) old.push_back(walk->path());
  }
  for (const fs::path& path : old) fs::remove(path, ignored);
  remove_leftovers();
}

template bool TrainingCheckpoints::resume(Trainer&, const std::function<void(std::string_view)>&);
template bool TrainingCheckpoints::resume(BasicTrainer<dropbp::BFloat16, dropbp::Cpu>&,
                                          const std::function<void(std::string_view)>&);
template void TrainingCheckpoints::save(Trainer&);
template void TrainingCheckpoints::save(BasicTrainer<dropbp::BFloat16, dropbp::Cpu>&);
#if defined(DROPBP_LLAMA_CUDA)
template bool TrainingCheckpoints::resume(BasicTrainer<float, dropbp::Cuda>&,
                                          const std::function<void(std::string_view)>&);
template bool TrainingCheckpoints::resume(BasicTrainer<dropbp::BFloat16, dropbp::Cuda>&,
                                          const std::function<void(std::string_view)>&);
template void TrainingCheckpoints::save(BasicTrainer<float, dropbp::Cuda>&);
template void TrainingCheckpoints::save(BasicTrainer<dropbp::BFloat16, dropbp::Cuda>&);
#endif

}  // namespace llama
