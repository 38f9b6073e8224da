// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// An operation f(x) = 3 x that records every call.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <vector>

#include "dropbp/layer.hpp"

namespace dropbp_test {

/// The calls of all Recorders that share this journal.
struct Journal {
  int saved_made = 0;  ///< Saved objects constructed, moves not counted
  int saved_alive = 0;
  int forward_saving = 0;      ///< forward calls with a Saved
  int forward_not_saving = 0;  ///< forward calls without a Saved
  int backward = 0;
  double parameter_gradient = 0.0;
  bool forward_throws = false;
  bool backward_throws = false;
  bool wrong_shape = false;  ///< if set, results have one element too many
};

inline Journal*& journal_of_saved() {
  static Journal* journal = nullptr;
  return journal;
}

/// The gradient of its only parameter, the factor 3, is sum(x * grad_output).
template <class Real = float>
struct Recorder {
  struct Saved {
    std::vector<Real> x;
    Journal* journal = journal_of_saved();
    Saved() { ++journal->saved_made, ++journal->saved_alive; }
    Saved(Saved&& other) noexcept : x(std::move(other.x)), journal(other.journal) {
      ++journal->saved_alive;
    }
    Saved& operator=(Saved&&) = default;
    ~Saved() { --journal->saved_alive; }
  };

  Journal* journal;

  explicit Recorder(Journal& journal_) : journal(&journal_) { journal_of_saved() = journal; }

  std::vector<Real> forward(const std::vector<Real>& x, Saved* saved) {
    ++(saved != nullptr ? journal->forward_saving : journal->forward_not_saving);
    if (saved != nullptr) saved->x = x;
    if (journal->forward_throws) throw std::runtime_error("forward failed");
    return times_three(x);
  }

  std::vector<Real> backward(const std::vector<Real>& grad_output, Saved& saved) {
    ++journal->backward;
    if (journal->backward_throws) throw std::runtime_error("backward failed");
    for (std::size_t i = 0; i < grad_output.size(); ++i)
      journal->parameter_gradient += static_cast<double>(saved.x.at(i) * grad_output[i]);
    return times_three(grad_output);
  }

 private:
  std::vector<Real> times_three(const std::vector<Real>& x) const {
    std::vector<Real> y = x;
    for (Real& one : y) one *= 3;
    if (journal->wrong_shape) y.push_back(0);
    return y;
  }
};

/// A model of `size` Recorders, each with its own journal.
template <std::size_t size>
struct RecorderChain {
  std::vector<Journal> journals = std::vector<Journal>(size);
  std::vector<dropbp::DropBPLayer<Recorder<>>> layers;

  RecorderChain() {
    for (Journal& journal : journals) layers.emplace_back(Recorder<>(journal));
  }
  template <class Visit>
  void for_each_layer(Visit&& visit) {
    for (auto& layer : layers) visit(layer);
  }
};

/// A Recorder with all optional members of an operation.
template <class Real = float>
struct FullRecorder : Recorder<Real> {
  using Saved = typename Recorder<Real>::Saved;
  using Recorder<Real>::Recorder;
  int forward_residual_calls = 0;
  int backward_residual_calls = 0;
  int backward_parameters_calls = 0;

  void forward_residual(std::vector<Real>& x, Saved* saved) {
    ++forward_residual_calls;
    const std::vector<Real> f = this->forward(x, saved);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += f[i];
  }
  void backward_residual(std::vector<Real>& grad, Saved& saved) {
    ++backward_residual_calls;
    const std::vector<Real> own = this->backward(grad, saved);
    for (std::size_t i = 0; i < grad.size(); ++i) grad[i] += own[i];
  }
  void backward_parameters(const std::vector<Real>& grad_output, Saved& saved) {
    ++backward_parameters_calls;
    static_cast<void>(this->backward(grad_output, saved));
  }
  double cost() const { return 42.0; }
};

}  // namespace dropbp_test
