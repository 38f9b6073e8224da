// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// GGUF, version 3: metadata and tensors in one file, as ggml's programs read them. Source:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "llama/formats/dtype.hpp"

namespace llama {

using GgufValue = std::variant<std::uint32_t, float, bool, std::string, std::vector<std::string>,
                               std::vector<std::int32_t>, std::vector<float>>;
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

struct GgufTensor {
  std::string name;
  std::vector<std::ptrdiff_t> shape;  ///< row-major: the last dimension is that of neighbours
  DType dtype = DType::f32;           ///< F32, F16 or BF16, rounded to nearest even
  std::function<void(std::span<float>)> make;  ///< its values, when its turn comes
};

/// Writes a whole file or leaves the old one. Throws std::runtime_error, also for a value that is
/// not finite or too large for its dtype; std::invalid_argument for another dtype.
void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                std::span<const GgufTensor> tensors);

}  // namespace llama
