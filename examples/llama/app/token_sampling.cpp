// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/token_sampling.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include <fmt/format.h>
#include <dropbp/base/philox.hpp>

#include "llama/formats/finite.hpp"
#include "llama/model/random_streams.hpp"

namespace llama {

std::int32_t sample_token(std::span<const float> logits, const TokenSampling& sampling,
                          std::uint64_t number) {
  if (const std::size_t at = first_not_finite(logits); at < logits.size() || logits.empty())
    throw std::runtime_error(
        fmt::format("the logits of a token must be finite, but {}; use weights of a training that "
                    "did not diverge",
                    logits.empty() ? "there are none" : fmt::format("that of id {} is not", at)));
  const auto largest = std::ranges::max_element(logits);  // the first of equal ones
  const auto best = static_cast<std::int32_t>(largest - logits.begin());
  if (sampling.temperature == 0.0) return best;
  std::vector<double> share(logits.size());
  double sum = 0.0;
  for (std::size_t i = 0; i < logits.size(); ++i)
    sum += share[i] = std::exp((static_cast<double>(logits[i]) - static_cast<double>(*largest)) /
                               sampling.temperature);
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto share_of = [&](std::int32_t id) { return share[static_cast<std::size_t>(id)]; };
  std::ranges::sort(ids, [&](std::int32_t a, std::int32_t b) {
    return share_of(a) != share_of(b) ? share_of(a) > share_of(b) : a < b;
  });
  double kept = 0.0;
  std::size_t count = 0;
  while (count < ids.size() && (count == 0 || kept < sampling.top_p * sum))
    kept += share_of(ids[count++]);
  const std::uint64_t bits = dropbp::CounterRandom(sampling.seed, token_stream, number)(0);
  double left = static_cast<double>(bits >> 11) * 0x1p-53 * kept;
  for (std::size_t i = 0; i + 1 < count; ++i)
    if ((left -= share_of(ids[i])) < 0.0) return ids[i];
  return ids[count - 1];
}

std::vector<std::int32_t> complete(
    std::span<const std::int32_t> prompt, const TokenSampling& sampling, const TextEnd& end,
    const std::function<std::span<const float>(std::span<const std::int32_t>)>& next,
    const std::function<bool(std::int32_t)>& on_token) {
  std::vector<std::int32_t> text;
  std::int32_t last = 0;
  std::span<const std::int32_t> ids = prompt;
  while (text.size() < end.most_tokens) {
    last = sample_token(next(ids), sampling, text.size());
    if (std::ranges::find(end.ends, last) != end.ends.end()) break;
    text.push_back(last);
    if (on_token && !on_token(last)) break;
    ids = std::span(&last, 1);
  }
  return text;
}

}  // namespace llama
