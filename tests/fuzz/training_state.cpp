// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A checkpoint of a small training with edits, whose checksums are then made right again: it is
// refused and changes nothing, or the training goes on from it.
#include "llama/app/training_state.hpp"

#include <algorithm>
#include <bit>
#include <dropbp/kernels/cpu/parallel.hpp>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fuzz.hpp"
#include "llama/app/errors.hpp"
#include "llama/formats/atomic_file.hpp"
#include "llama/formats/crc32c.hpp"

namespace {

using namespace llama;

constexpr std::uint64_t steps = 3;

/// The training, and its checkpoint as header and data.
struct Run {
  Run() : data(tokens(), 0.0), trainer(options(), options().shape, data, 0.5) {
    ops::set_thread_count(1);  // of so small a model
    for (std::uint64_t i = 0; i < steps; ++i) trainer.step();
    const fuzz::TemporaryFolder folder;
    const std::string path = folder.path() + "/a";
    AtomicFile file(path);
    write_training_state(file, trainer, identity);
    file.publish();
    std::ifstream stream(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(stream),
                            std::istreambuf_iterator<char>()};
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    header = bytes.substr(8, static_cast<std::size_t>(length));
    numbers = bytes.substr(8 + static_cast<std::size_t>(length));
  }

  static std::vector<std::int32_t> tokens() {
    std::vector<std::int32_t> ids;
    for (std::int32_t i = 0; i < 200; ++i) ids.push_back(i * i % 13);
    return ids;
  }
  static Options options() {
    Options o;
    o.shape = {
        .vocabulary = 16, .hidden = 4, .intermediate = 6, .layers = 1, .heads = 2, .kv_heads = 1};
    o.steps = 10;
    o.batch = 1;
    o.sequence = 4;
    o.warmup = 1;
    o.allocate_at = 0.1;
    o.reallocate_every = 1;
    return o;
  }

  RunIdentity identity{{"--steps", "10"}, {"--seed", "1"}};
  TokenData data;
  Trainer trainer;
  std::string header, numbers;
};

std::string edited(fuzz::Input& input, const std::string& header, std::string& numbers) {
  std::string text = header;
  while (!input.empty()) {
    const std::size_t kind = input.below(8), far = input.take<std::uint16_t>();
    std::string& part = (kind & 4u) != 0 ? numbers : text;
    const std::size_t at = part.empty() ? 0 : far % part.size();
    const std::string_view with = input.until('\n');
    if (kind % 4 == 0) part.insert(at, with);
    if (kind % 4 == 1) part.replace(at, std::min(with.size(), part.size() - at), with);
    if (kind % 4 == 2) part.erase(at, with.empty() ? 1 : static_cast<unsigned char>(with[0]));
    if (kind % 4 == 3) {  // a string of the header becomes another one
      const std::size_t begin = part.find('"', at), end = part.find('"', begin + 1);
      if (end != part.npos) part.replace(begin + 1, end - begin - 1, with);
    }
  }
  return text;
}

/// The file, with right checksums where the header can be read.
std::string assembled(const std::string& header, const std::string& numbers) {
  std::string text = header;
  nlohmann::json root = nlohmann::json::parse(header, nullptr, false);
  if (root.is_object() && root["__metadata__"].is_object()) {
    auto& metadata = root["__metadata__"];
    for (const auto& [name, entry] : root.items()) {
      if (!entry.is_object() || !entry.contains("data_offsets")) continue;
      const auto& offsets = entry["data_offsets"];
      if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
          !offsets[1].is_number_unsigned())
        continue;
      const auto begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
      if (begin > end || end > numbers.size()) continue;
      char digits[9];
      std::snprintf(digits, sizeof digits, "%08x",
                    crc32c(0, numbers.data() + begin, static_cast<std::size_t>(end - begin)));
      metadata["dropbp.crc32c." + name] = digits;
    }
    metadata["dropbp.crc32c"] = "00000000";
    text = root.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    const std::string mark = "\"dropbp.crc32c\":\"";
    const std::uint64_t length = text.size();
    char digits[9];
    std::snprintf(digits, sizeof digits, "%08x",
                  crc32c(crc32c(0, &length, sizeof length), text.data(), text.size()));
    text.replace(text.find(mark) + mark.size(), 8, digits);
  }
  const std::uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text + numbers;
}

std::vector<std::uint64_t> bits_of(Trainer& trainer) {
  std::vector<std::uint64_t> bits{trainer.steps_done()};
  for (const char c : to_text(trainer.state().handler))
    bits.push_back(static_cast<unsigned char>(c));
  trainer.model().for_each_tensor([&](const auto& tensor) {
    for (std::size_t i = 0; i < tensor.size(); ++i)
      bits.push_back(std::bit_cast<std::uint32_t>(tensor.value[i]));
  });
  for (std::size_t i = 0; i < trainer.optimizer().parameters().size(); ++i)
    bits.push_back(trainer.optimizer().state(i).steps);
  return bits;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Run run;
  static const std::vector<std::uint64_t> first = bits_of(run.trainer);
  static const fuzz::MemoryFile memory, original(assembled(run.header, run.numbers));
  fuzz::Input input(data, size);
  std::string numbers = run.numbers;
  const std::string header = edited(input, run.header, numbers);
  memory.write(assembled(header, numbers));

  std::optional<SafetensorsFile> file;
  const bool right = fuzz::accepts<std::runtime_error, UsageError>([&] {
    file.emplace(open_training_state(memory.path(), steps));
    require_same_run(*file, run.identity, [](std::string_view) {});
  });
  fuzz::require(right || size > 0, "the checkpoint as it was written is refused");
  if (!right) return 0;
  if (!fuzz::accepts<std::runtime_error>([&] { read_training_state(*file, run.trainer); })) {
    fuzz::require(bits_of(run.trainer) == first, "a refused checkpoint changes the training");
    return 0;
  }
  fuzz::accepts<std::runtime_error>([&] { run.trainer.step(); });
  read_training_state(open_training_state(original.path(), steps), run.trainer);
  fuzz::require(bits_of(run.trainer) == first, "the checkpoint does not bring the training back");
  return 0;
}
