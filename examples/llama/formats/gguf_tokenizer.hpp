// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// A tokenizer.json as the metadata from which llama.cpp makes the same ids.
#pragma once

#include <cstddef>

#include "llama/formats/gguf.hpp"
#include "llama/formats/model_folder.hpp"

namespace llama {

/// The keys `tokenizer.*` for a model with that vocabulary; ids without a token become unused ones.
/// Without a tokenizer.json among the companions ids are bytes. Throws std::runtime_error for a
/// pre-tokenizer that llama.cpp has no name for, and where there is no tokenizer and ids are no
/// bytes.
[[nodiscard]] GgufMetadata gguf_tokenizer(const Companions& companions, std::ptrdiff_t vocabulary);

}  // namespace llama
