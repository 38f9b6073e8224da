// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/preview.hpp"

#include <algorithm>
#include <type_traits>

#include <fmt/format.h>

#include "llama/app/errors.hpp"
#include "llama/app/token_sampling.hpp"
#include "llama/model/cached_forward.hpp"

namespace llama {

Preview::Preview(const Options& options, const std::optional<std::filesystem::path>& tokenizer)
    : codec_(tokenizer),
      prompt_(codec_.beginning(options.sample_prompt.empty() ? "\n" : options.sample_prompt)),
      ends_(options.model ? codec_.ends(*options.model) : std::vector<std::int32_t>()),
      seed_(options.seed) {
  const auto sequence = static_cast<std::size_t>(options.sequence);
  if (prompt_.size() >= sequence)
    throw UsageError(fmt::format(
        "--sample-prompt must be shorter than --sequence {}, but it has {} tokens; shorten it",
        sequence, prompt_.size()));
  most_tokens_ =
      std::min(static_cast<std::size_t>(options.sample_tokens), sequence - prompt_.size());
}

template <class T, class Backend>
std::string Preview::text(LlamaModel<T, Backend>& model) const {
  std::vector<std::int32_t> written;
  const auto write = [&](auto&& forward) {
    written = complete(prompt_, {.seed = seed_}, {.most_tokens = most_tokens_, .ends = ends_},
                       [&](std::span<const std::int32_t> ids) { return forward.next(ids); });
  };
  if constexpr (std::is_same_v<Backend, dropbp::Cpu>)
    write(CachedForward<T>(model, static_cast<Index>(prompt_.size() + most_tokens_)));
  else
    write(WholeForward<T, Backend>(model));
  return printable(codec_.text_of(prompt_) + codec_.text_of(written));
}

#define DROPBP_LLAMA_INSTANTIATE(T, Backend) \
  template std::string Preview::text(LlamaModel<T, Backend>&) const;
DROPBP_LLAMA_FOR_TRAINED(DROPBP_LLAMA_INSTANTIATE)
#undef DROPBP_LLAMA_INSTANTIATE

}  // namespace llama
