// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The runs that are done, a line of JSON each, and what they say about the methods.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "convergence/training.hpp"

namespace bench {

/// Which run.
struct RunKey {
  std::string identity;  ///< Regime::identity
  std::string method;
  double drop_rate = 0.0;  ///< 0 if the method drops nothing
  double learning_rate = 0.0, length = 1.0;
  std::uint64_t seed = 1;
  auto operator<=>(const RunKey&) const = default;
};

inline RunKey key_of(const Regime& regime, std::string identity, const Method& method,
                     double learning_rate, double length, int seed) {
  return {std::move(identity), method.name, method.drops ? regime.drop_rate : 0.0,
          learning_rate,       length,      static_cast<std::uint64_t>(seed)};
}

inline Json to_json(const RunKey& key, const Outcome& outcome) {
  return {{"regime", key.identity},
          {"method", key.method},
          {"drop_rate", key.drop_rate},
          {"learning_rate", key.learning_rate},
          {"length", key.length},
          {"seed", key.seed},
          {"validation_loss", outcome.validation_loss},
          {"steps", outcome.steps},
          {"backward", outcome.backward},
          {"updated", outcome.updated},
          {"measurements", outcome.measurements},
          {"peak_activations", outcome.peak_activations},
          {"mean_activations", outcome.mean_activations},
          {"kept", outcome.kept}};
}

/// The file of the runs that are done. A program that is killed loses only the run that it is in.
class DoneRuns {
 public:
  explicit DoneRuns(std::filesystem::path path) : path_(std::move(path)) {
    std::ifstream in(path_);
    std::string line, complete;
    while (std::getline(in, line) && !in.eof()) {  // a last line without an end was cut short
      const Json one = Json::parse(line);
      const auto number = [&](const char* key) { return one.at(key).get<double>(); };
      const RunKey key{one.at("regime").get<std::string>(),
                       one.at("method").get<std::string>(),
                       number("drop_rate"),
                       number("learning_rate"),
                       number("length"),
                       one.at("seed").get<std::uint64_t>()};
      runs_[key] = {.validation_loss = number("validation_loss"),
                    .steps = one.at("steps").get<std::uint64_t>(),
                    .backward = number("backward"),
                    .updated = number("updated"),
                    .measurements = number("measurements"),
                    .peak_activations = number("peak_activations"),
                    .mean_activations = number("mean_activations"),
                    .kept = one.at("kept").get<std::vector<double>>()};
      complete += line + "\n";
    }
    if (std::filesystem::exists(path_)) llama::write_file_atomically(path_, complete);
  }

  std::optional<Outcome> find(const RunKey& key) const {
    const std::lock_guard lock(mutex_);
    const auto found = runs_.find(key);
    return found == runs_.end() ? std::nullopt : std::optional(found->second);
  }
  void add(const RunKey& key, const Outcome& outcome) {
    const std::lock_guard lock(mutex_);
    runs_[key] = outcome;
    std::ofstream out(path_, std::ios::app);
    out << to_json(key, outcome).dump() + "\n" << std::flush;
    if (!out) throw std::runtime_error("cannot write '" + path_.string() + "'");
  }
  /// The learning rates of a method's runs, with the mean of their losses on one seed.
  std::map<double, double> losses_by_learning_rate(const RunKey& like) const {
    const std::lock_guard lock(mutex_);
    std::map<double, double> losses;
    for (const auto& [key, outcome] : runs_) {
      RunKey other = key;
      other.learning_rate = like.learning_rate;
      if (other == like) losses[key.learning_rate] = outcome.validation_loss;
    }
    return losses;
  }

 private:
  std::filesystem::path path_;
  std::map<RunKey, Outcome> runs_;
  mutable std::mutex mutex_;
};

struct Figure {
  double mean = 0.0, deviation = 0.0;
};
inline Figure figure_of(const std::vector<double>& values) {
  Figure figure;
  const auto count = static_cast<double>(values.size());
  for (const double value : values) figure.mean += value / count;
  for (const double value : values)
    figure.deviation += (value - figure.mean) * (value - figure.mean);
  if (values.size() > 1) figure.deviation = std::sqrt(figure.deviation / (count - 1.0));
  return figure;
}

/// Time and validation loss of one run.
struct Point {
  double time = 0.0, loss = 0.0;
};

/// The loss that a method reaches in a given time: complete runs of several lengths, with straight
/// lines between them.
class Curve {
 public:
  explicit Curve(std::vector<Point> points) : points_(std::move(points)) {
    std::sort(points_.begin(), points_.end(),
              [](const Point& a, const Point& b) { return a.time < b.time; });
  }

  /// None beyond the shortest and the longest run.
  std::optional<double> loss_at(double time) const {
    for (std::size_t i = 1; i < points_.size(); ++i) {
      const Point &a = points_[i - 1], &b = points_[i];
      if (time >= a.time && time <= b.time)
        return a.loss + (b.loss - a.loss) * (time - a.time) / (b.time - a.time);
    }
    return std::nullopt;
  }

  /// The least time in which the loss is reached. `beyond`: -1 if even the shortest run reaches it,
  /// 1 if none does; the time is then that of the shortest or longest run.
  std::pair<double, int> time_to(double loss) const {
    if (points_.front().loss <= loss) return {points_.front().time, -1};
    for (std::size_t i = 1; i < points_.size(); ++i) {
      const Point &a = points_[i - 1], &b = points_[i];
      if (b.loss <= loss)
        return {a.time + (b.time - a.time) * (a.loss - loss) / (a.loss - b.loss), 0};
    }
    return {points_.back().time, 1};
  }

 private:
  std::vector<Point> points_;
};

/// What a method's runs at its best learning rate say, over the seeds.
struct Row {
  const Method* method = nullptr;
  double learning_rate = 0.0;
  std::size_t seeds = 0;
  Figure loss, time;                    ///< of the longest run; time: share of the ordinary run's
  Figure kept, peak, mean_activations;  ///< shares
  Figure learned;                       ///< speed * time, by seed
  Figure speed;               ///< time of ordinary training to the same loss / time of the method
  Figure speed_of_half;       ///< the same of the method against half the batch
  std::vector<double> gains;  ///< loss of ordinary training in the same time - loss, by seed
  std::string speed_mark, speed_of_half_mark;  ///< "<" or ">" where a loss is beyond the curve
  std::vector<std::pair<Figure, Figure>> by_length;  ///< time and loss
};

inline const char* mark_of(int beyond) { return beyond < 0 ? "<" : beyond > 0 ? ">" : ""; }

/// Reads the runs of one regime.
class Analysis {
 public:
  Analysis(const Regime& regime, const std::string& identity, const DoneRuns& runs,
           std::map<double, StepParts> parts, int seeds)
      : regime_(regime),
        identity_(identity),
        runs_(runs),
        parts_(std::move(parts)),
        seeds_(seeds) {}

  /// The rate with the least loss on the first seed, at the method's first length. `edge`: it is
  /// the least or largest that was tried.
  struct Best {
    double learning_rate = 0.0;
    bool edge = true;
  };
  std::optional<Best> best(const Method& method) const {
    const auto losses = runs_.losses_by_learning_rate(
        key_of(regime_, identity_, method, 0.0, method.lengths.front(), 1));
    if (losses.empty()) return std::nullopt;
    const auto least =
        std::min_element(losses.begin(), losses.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    return Best{least->first, least == losses.begin() || std::next(least) == losses.end()};
  }

  /// Of the seeds that are done; none without any.
  std::optional<Row> row(const Method& method) const {
    const auto chosen = best(method);
    if (!chosen) return std::nullopt;
    Row row;
    row.method = &method, row.learning_rate = chosen->learning_rate;
    std::vector<double> loss, time, kept, peak, mean, speed, learned, speed_of_half;
    for (int seed = 1; seed <= seeds_; ++seed) {
      const auto outcome = find(method, chosen->learning_rate, 1.0, seed);
      const auto ordinary = curve(ordinary_method, seed);
      if (!outcome || !ordinary) continue;
      const double whole = time_of(*find_method(ordinary_method), 1.0, seed).value();
      const double own = seconds(method, *outcome);
      ++row.seeds;
      loss.push_back(outcome->validation_loss);
      time.push_back(own / whole);
      kept.push_back(outcome->backward / static_cast<double>(outcome->steps) /
                     static_cast<double>(regime_.micro_steps));
      peak.push_back(outcome->peak_activations * method.batch);
      mean.push_back(outcome->mean_activations * method.batch);
      const auto [reference, beyond] = ordinary->time_to(outcome->validation_loss);
      speed.push_back(reference / own);
      learned.push_back(reference / whole);
      if (beyond != 0) row.speed_mark = mark_of(beyond);
      if (const auto at = ordinary->loss_at(own))
        row.gains.push_back(*at - outcome->validation_loss);
      if (const auto half = curve(half_batch_method, seed)) {
        const auto [time_of_half, half_beyond] = half->time_to(outcome->validation_loss);
        speed_of_half.push_back(time_of_half / own);
        if (half_beyond != 0) row.speed_of_half_mark = mark_of(half_beyond);
      }
    }
    if (row.seeds == 0) return std::nullopt;
    row.loss = figure_of(loss), row.time = figure_of(time), row.kept = figure_of(kept);
    row.peak = figure_of(peak), row.mean_activations = figure_of(mean);
    row.learned = figure_of(learned);
    row.speed = figure_of(speed), row.speed_of_half = figure_of(speed_of_half);
    add_lengths(method, *chosen, row);
    return row;
  }

 private:
  static const Method* find_method(const std::string& name) {
    for (const Method& method : methods())
      if (name == method.name) return &method;
    throw std::logic_error("no method is called " + name);
  }
  std::optional<Outcome> find(const Method& method, double learning_rate, double length,
                              int seed) const {
    return runs_.find(key_of(regime_, identity_, method, learning_rate, length, seed));
  }
  double seconds(const Method& method, const Outcome& outcome) const {
    return outcome.seconds(parts_.at(method.batch), regime_.micro_steps,
                           std::lround(method.batch * static_cast<double>(regime_.batch)));
  }
  std::optional<double> time_of(const Method& method, double length, int seed) const {
    const auto chosen = best(method);
    const auto outcome = chosen ? find(method, chosen->learning_rate, length, seed) : std::nullopt;
    return outcome ? std::optional(seconds(method, *outcome)) : std::nullopt;
  }
  // None unless all lengths are there.
  std::optional<Curve> curve(const std::string& name, int seed) const {
    const Method& method = *find_method(name);
    const auto chosen = best(method);
    std::vector<Point> points;
    for (const double length : method.lengths) {
      const auto outcome =
          chosen ? find(method, chosen->learning_rate, length, seed) : std::nullopt;
      if (!outcome) return std::nullopt;
      points.push_back({seconds(method, *outcome), outcome->validation_loss});
    }
    return Curve(std::move(points));
  }
  void add_lengths(const Method& method, const Best& chosen, Row& row) const {
    std::vector<double> lengths = method.lengths;
    std::sort(lengths.begin(), lengths.end());
    for (const double length : lengths) {
      std::vector<double> times, losses;
      for (int seed = 1; seed <= seeds_; ++seed) {
        const auto outcome = find(method, chosen.learning_rate, length, seed);
        const auto whole = time_of(*find_method(ordinary_method), 1.0, seed);
        if (!outcome || !whole) continue;
        times.push_back(seconds(method, *outcome) / *whole);
        losses.push_back(outcome->validation_loss);
      }
      if (!times.empty()) row.by_length.emplace_back(figure_of(times), figure_of(losses));
    }
  }

  const Regime& regime_;
  std::string identity_;
  const DoneRuns& runs_;
  std::map<double, StepParts> parts_;
  int seeds_;
};

}  // namespace bench
