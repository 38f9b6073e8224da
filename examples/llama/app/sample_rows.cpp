// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

#include "llama/app/sample_rows.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <dropbp/base/philox.hpp>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "llama/app/packing.hpp"
#include "llama/model/random_streams.hpp"

namespace llama {
namespace {

constexpr std::int32_t no_label = -100;  // ops::CrossEntropy's ignore_index

std::size_t labels_of(const Sample& sample) {
  return static_cast<std::size_t>(std::count_if(sample.learned.begin() + 1, sample.learned.end(),
                                                [](std::uint8_t learned) { return learned != 0; }));
}

}  // namespace

SampleRows::SampleRows(std::span<const Sample> samples, std::ptrdiff_t sequence, bool pack_them)
    : samples_(samples), sequence_(static_cast<std::size_t>(sequence)), packed_(pack_them) {
  std::vector<std::size_t> sizes;
  for (const Sample& sample : samples) {
    if (sample.ids.size() < 2 || sample.ids.size() > sequence_ + 1)
      throw std::invalid_argument(
          fmt::format("a sample must have from 2 to {} tokens, one more than its row, but one has "
                      "{}; cut it or leave it out before",
                      sequence_ + 1, sample.ids.size()));
    sizes.push_back(sample.ids.size() - 1);
  }
  if (pack_them) {
    for (std::vector<std::size_t>& row : pack(sizes, sequence_)) rows_.push_back({std::move(row)});
  } else {
    for (std::size_t i = 0; i < samples.size(); ++i) rows_.push_back({{i}});
  }
  for (Row& row : rows_)
    for (const std::size_t i : row.samples)
      row.positions += sizes[i], row.labels += labels_of(samples[i]);
}

void SampleRows::fill(std::span<const std::size_t> rows, Batch& batch) const {
  std::size_t longest = 0;
  for (const std::size_t row : rows) longest = std::max(longest, positions(row));
  const std::size_t grain = std::max<std::size_t>(1, (sequence_ + 7) / 8);
  const std::size_t sequence = std::min((longest + grain - 1) / grain * grain, sequence_);
  batch.shape = {static_cast<std::ptrdiff_t>(rows.size()), static_cast<std::ptrdiff_t>(sequence)};
  batch.inputs.assign(rows.size() * sequence, 0);
  batch.labels.assign(rows.size() * sequence, no_label);
  batch.sample_begin.clear();
  const auto position = [&](std::size_t at) { return static_cast<std::int32_t>(at % sequence); };
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::size_t at = r * sequence;
    for (const std::size_t number : rows_.at(rows[r]).samples) {
      const Sample& sample = samples_[number];
      if (packed_) batch.sample_begin.resize(at + sample.ids.size() - 1, position(at));
      for (std::size_t i = 0; i + 1 < sample.ids.size(); ++i, ++at) {
        batch.inputs[at] = sample.ids[i];
        if (sample.learned[i + 1] != 0) batch.labels[at] = sample.ids[i + 1];
      }
    }
    // What fills up the row sees itself alone, which costs the least.
    for (; packed_ && at < (r + 1) * sequence; ++at) batch.sample_begin.push_back(position(at));
  }
}

RowBatches::RowBatches(SampleRows rows, const BatchOptions& options)
    : rows_(std::move(rows)), options_(options) {
  if (rows_.size() == 0)
    throw std::runtime_error(
        "at least one sample must be trained on, but none is there; give more data or a smaller "
        "--validation-fraction");
}

std::size_t RowBatches::row(std::uint64_t number) const {
  const std::uint64_t epoch = number / rows_.size();
  Order& order = orders_[epoch % 2];
  if (order.epoch != epoch) {
    order.epoch = epoch;
    order.rows.resize(rows_.size());
    std::iota(order.rows.begin(), order.rows.end(), std::uint32_t{0});
    const dropbp::CounterRandom random(options_.seed, shuffle_stream, epoch, 0);
    for (std::size_t i = order.rows.size(); i > 1; --i)
      std::swap(order.rows[i - 1], order.rows[static_cast<std::size_t>(random(i) % i)]);
  }
  return order.rows[static_cast<std::size_t>(number % rows_.size())];
}

template <typename Visit>
void RowBatches::for_each_row(std::uint64_t step, Visit visit) const {
  const auto a_step = static_cast<std::uint64_t>(options_.batch * options_.micro_steps);
  for (std::uint64_t i = 0; i < a_step; ++i) visit(row(step * a_step + i));
}

void RowBatches::fill(std::uint64_t step, std::uint32_t micro_step, Batch& batch) const {
  const auto size = static_cast<std::size_t>(options_.batch);
  std::size_t labels = 0, number = 0;
  std::vector<std::size_t> rows;
  for_each_row(step, [&](std::size_t row) {
    labels += rows_.labels(row);
    if (number++ / size == micro_step) rows.push_back(row);
  });
  rows_.fill(rows, batch);
  batch.divisor = static_cast<double>(labels);
}

std::uint64_t RowBatches::tokens(std::uint64_t step) const {
  std::uint64_t tokens = 0;
  for_each_row(step, [&](std::size_t row) { tokens += rows_.positions(row); });
  return tokens;
}

RowEvaluation::RowEvaluation(SampleRows rows, const BatchOptions& options)
    : rows_(std::move(rows)), batch_(static_cast<std::size_t>(options.batch)) {
  const std::size_t wanted =
      std::min(rows_.size(), batch_ * static_cast<std::size_t>(options.eval_batches));
  for (std::size_t i = 0; i < wanted; ++i) {
    chosen_.push_back(i * (rows_.size() / wanted) + i * (rows_.size() % wanted) / wanted);
    labels_ += static_cast<double>(rows_.labels(chosen_.back()));
  }
}

std::size_t RowEvaluation::batches() const noexcept {
  return (chosen_.size() + batch_ - 1) / batch_;
}

void RowEvaluation::fill(std::size_t index, Batch& batch) const {
  const std::size_t begin = index * batch_;
  if (begin >= chosen_.size())
    throw std::invalid_argument(
        fmt::format("evaluation has {} batches, but number {} was asked for; stop at batches()",
                    batches(), index));
  rows_.fill(std::span(chosen_).subspan(begin, std::min(batch_, chosen_.size() - begin)), batch);
  batch.divisor = labels_;
}

}  // namespace llama
