// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// GPT-2 over plain pointers: the forward and backward pass of every function, the parameters, the
// optimizer.
//
// Shapes: a matrix is row-major, "rows x width"; the residual stream is tokens x hidden, with
// tokens = batch * sequence.
// In comments `=` means that the result is overwritten and `+=` that it is added to. A null
// gradient pointer means that the gradient is not needed.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>

struct Shape {
  std::size_t layers, heads, hidden, sequence, batch, vocabulary;
  bool trains_embeddings;

  std::size_t tokens() const { return batch * sequence; }
  std::size_t stream() const { return tokens() * hidden; }
  std::size_t embeddings() const { return (vocabulary + sequence) * hidden; }  // parameters
  std::size_t parameters() const {
    const std::size_t layer = (12 * hidden + 13) * hidden, last_norm_and_head = 2 + vocabulary;
    return embeddings() + layers * layer + last_norm_and_head * hidden;
  }
};

// An arena: cuts one block of memory into pieces. Without memory it only counts, and `used` is then
// the size that the same calls will need.
template <class Real>
struct Arena {
  Real* memory = nullptr;
  std::size_t used = 0;

  Real* take(std::size_t count) {
    Real* piece = memory == nullptr ? nullptr : memory + used;
    used += count;
    return piece;
  }
};

// ---- the parts
// ------------------------------------------------------------------------------------------------

// For each row: out = normalized * w + b, where normalized = (x - mean) / deviation. Saves
// normalized and 1 / deviation.
template <class Real>
void layer_norm_forward(Real* out, Real* normalized, Real* inverse_deviation, const Real* x,
                        const Real* w, const Real* b, std::size_t rows, std::size_t width) {
  const Real n = static_cast<Real>(width);
  for (std::size_t r = 0; r < rows; ++r, x += width, out += width, normalized += width) {
    Real mean = 0, variance = 0;
    for (std::size_t i = 0; i < width; ++i) mean += x[i] / n;
    for (std::size_t i = 0; i < width; ++i) variance += (x[i] - mean) * (x[i] - mean) / n;
    inverse_deviation[r] = 1 / std::sqrt(variance + Real(1e-5));
    for (std::size_t i = 0; i < width; ++i) {
      normalized[i] = (x[i] - mean) * inverse_deviation[r];
      out[i] = normalized[i] * w[i] + b[i];
    }
  }
}

// grad_x += (h - mean(h) - normalized * mean(h * normalized)) / deviation, where h = grad_out * w.
// grad_w, grad_b +=.
template <class Real>
void layer_norm_backward(Real* grad_x, Real* grad_w, Real* grad_b, const Real* grad_out,
                         const Real* normalized, const Real* inverse_deviation, const Real* w,
                         std::size_t rows, std::size_t width) {
  const Real n = static_cast<Real>(width);
  for (std::size_t r = 0; r < rows; ++r, grad_out += width, normalized += width) {
    Real mean = 0, slope = 0;
    for (std::size_t i = 0; i < width; ++i) {
      const Real h = grad_out[i] * w[i];
      mean += h / n;
      slope += h * normalized[i] / n;
      grad_w[i] += grad_out[i] * normalized[i];
      grad_b[i] += grad_out[i];
    }
    if (grad_x == nullptr) continue;
    for (std::size_t i = 0; i < width; ++i)
      grad_x[r * width + i] +=
          (grad_out[i] * w[i] - mean - normalized[i] * slope) * inverse_deviation[r];
  }
}

// out += x w + b. x is rows x in; w is in x out, as in GPT-2's own files; b may be null.
template <class Real>
void linear_forward(Real* out, const Real* x, const Real* w, const Real* b, std::size_t rows,
                    std::size_t in_width, std::size_t out_width) {
  for (std::size_t r = 0; r < rows; ++r, x += in_width, out += out_width) {
    if (b != nullptr)
      for (std::size_t o = 0; o < out_width; ++o) out[o] += b[o];
    for (std::size_t i = 0; i < in_width; ++i)
      for (std::size_t o = 0; o < out_width; ++o) out[o] += x[i] * w[i * out_width + o];
  }
}

// grad_x = grad_out w^T, grad_w += x^T grad_out, grad_b += sum of the rows of grad_out. grad_b may
// be null.
template <class Real>
void linear_backward(Real* grad_x, Real* grad_w, Real* grad_b, const Real* grad_out, const Real* x,
                     const Real* w, std::size_t rows, std::size_t in_width, std::size_t out_width) {
  for (std::size_t r = 0; r < rows; ++r, x += in_width, grad_x += in_width, grad_out += out_width) {
    if (grad_b != nullptr)
      for (std::size_t o = 0; o < out_width; ++o) grad_b[o] += grad_out[o];
    for (std::size_t i = 0; i < in_width; ++i) {
      Real sum = 0;
      for (std::size_t o = 0; o < out_width; ++o) {
        sum += grad_out[o] * w[i * out_width + o];
        grad_w[i * out_width + o] += x[i] * grad_out[o];
      }
      grad_x[i] = sum;
    }
  }
}

// Causal multi-head attention: out = softmax(q k^T / sqrt(head size)) v, for each token and head. A
// row of qkv (tokens x 3 hidden) holds q, k and v of one token. Saves the probabilities: batch x
// heads x sequence x sequence.
template <class Real>
void attention_forward(Real* out, Real* probabilities, const Real* qkv, const Shape& s) {
  const std::size_t head_size = s.hidden / s.heads, step = 3 * s.hidden;
  const Real scale = 1 / std::sqrt(static_cast<Real>(head_size));
  for (std::size_t b = 0; b < s.batch; ++b)
    for (std::size_t h = 0; h < s.heads; ++h)
      for (std::size_t t = 0; t < s.sequence; ++t) {
        const Real* q = qkv + (b * s.sequence + t) * step + h * head_size;
        const Real* k = qkv + b * s.sequence * step + s.hidden + h * head_size;
        const Real* v = k + s.hidden;
        Real* p = probabilities + ((b * s.heads + h) * s.sequence + t) * s.sequence;
        Real largest = 0, sum = 0;
        for (std::size_t u = 0; u <= t; ++u) {
          Real score = 0;
          for (std::size_t i = 0; i < head_size; ++i) score += q[i] * k[u * step + i];
          p[u] = score * scale;
          largest = u == 0 ? p[u] : std::max(largest, p[u]);
        }
        for (std::size_t u = 0; u <= t; ++u) sum += p[u] = std::exp(p[u] - largest);
        for (std::size_t u = 0; u <= t; ++u) p[u] /= sum;
        Real* mixed = out + (b * s.sequence + t) * s.hidden + h * head_size;
        std::fill_n(mixed, head_size, Real(0));
        for (std::size_t u = 0; u <= t; ++u)
          for (std::size_t i = 0; i < head_size; ++i) mixed[i] += p[u] * v[u * step + i];
      }
}

// grad_qkv =. A score has the gradient p * (grad_p - sum(p * grad_p)), where grad_p = grad_out . v.
template <class Real>
void attention_backward(Real* grad_qkv, const Real* grad_out, const Real* probabilities,
                        const Real* qkv, const Shape& s) {
  const std::size_t head_size = s.hidden / s.heads, step = 3 * s.hidden;
  const Real scale = 1 / std::sqrt(static_cast<Real>(head_size));
  std::fill_n(grad_qkv, s.tokens() * step, Real(0));
  for (std::size_t b = 0; b < s.batch; ++b)
    for (std::size_t h = 0; h < s.heads; ++h)
      for (std::size_t t = 0; t < s.sequence; ++t) {
        const std::size_t row = (b * s.sequence + t) * step + h * head_size;
        const std::size_t first_k = b * s.sequence * step + s.hidden + h * head_size,
                          first_v = first_k + s.hidden;
        const Real* p = probabilities + ((b * s.heads + h) * s.sequence + t) * s.sequence;
        const Real* grad = grad_out + (b * s.sequence + t) * s.hidden + h * head_size;
        const auto grad_p = [&](std::size_t u) {
          Real sum = 0;
          for (std::size_t i = 0; i < head_size; ++i) sum += grad[i] * qkv[first_v + u * step + i];
          return sum;
        };
        Real mean = 0;
        for (std::size_t u = 0; u <= t; ++u) mean += p[u] * grad_p(u);
        for (std::size_t u = 0; u <= t; ++u) {
          const Real grad_score = p[u] * (grad_p(u) - mean) * scale;
          for (std::size_t i = 0; i < head_size; ++i) {
            grad_qkv[row + i] += grad_score * qkv[first_k + u * step + i];
            grad_qkv[first_k + u * step + i] += grad_score * qkv[row + i];
            grad_qkv[first_v + u * step + i] += p[u] * grad[i];
          }
        }
      }
}

// GPT-2's GELU: x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
template <class Real>
void gelu_forward(Real* out, const Real* x, std::size_t count) {
  const Real c = Real(0.7978845608028654);
  for (std::size_t i = 0; i < count; ++i)
    out[i] = x[i] / 2 * (1 + std::tanh(c * (x[i] + Real(0.044715) * x[i] * x[i] * x[i])));
}

// `grad` enters as the gradient of the output and leaves as the gradient of the input.
template <class Real>
void gelu_backward(Real* grad, const Real* x, std::size_t count) {
  const Real c = Real(0.7978845608028654);
  for (std::size_t i = 0; i < count; ++i) {
    const Real t = std::tanh(c * (x[i] + Real(0.044715) * x[i] * x[i] * x[i]));
    grad[i] *= (1 + t) / 2 + x[i] / 2 * (1 - t * t) * c * (1 + Real(0.134145) * x[i] * x[i]);
  }
}

// Returns the mean loss over all tokens. Replaces the logits (tokens x vocabulary) by their
// gradient.
template <class Real>
Real cross_entropy(Real* logits, const std::uint8_t* targets, std::size_t tokens,
                   std::size_t vocabulary) {
  Real loss = 0;
  for (std::size_t t = 0; t < tokens; ++t, logits += vocabulary) {
    const Real largest = *std::max_element(logits, logits + vocabulary);
    Real sum = 0;
    for (std::size_t v = 0; v < vocabulary; ++v) sum += std::exp(logits[v] - largest);
    loss += (std::log(sum) + largest - logits[targets[t]]) / static_cast<Real>(tokens);
    for (std::size_t v = 0; v < vocabulary; ++v) logits[v] = std::exp(logits[v] - largest) / sum;
    logits[targets[t]] -= 1;
    for (std::size_t v = 0; v < vocabulary; ++v) logits[v] /= static_cast<Real>(tokens);
  }
  return loss;
}

// ---- parameters
// ------------------------------------------------------------------------------------------------

// All parameters, as flat arrays of one layout: the optimizer runs over them in one loop.
template <class Real>
struct Parameters {
  Real *values, *grads, *moments, *squares;
  std::size_t used = 0;     // elements that tensors have
  std::uint64_t steps = 0;  // of the optimizer

  Parameters(Arena<Real>& arena, const Shape& s)
      : values(arena.take(s.parameters())),
        grads(arena.take(s.parameters())),
        moments(arena.take(s.parameters())),
        squares(arena.take(s.parameters())) {}
};

// A tensor of them.
template <class Real>
struct Parameter {
  std::size_t offset, size;
  Real *value, *grad;
  bool is_matrix;  // false for biases and norms

  Parameter(Parameters<Real>& all, std::size_t count, bool of_two_dimensions)
      : offset(all.used),
        size(count),
        value(all.values == nullptr ? nullptr : all.values + offset),
        grad(all.grads == nullptr ? nullptr : all.grads + offset),
        is_matrix(of_two_dimensions) {
    all.used += count;
  }
};

// Matrices get random values around zero, other parameters one constant. The arena's memory starts
// as zeros.
template <class Real>
void initialise(Parameter<Real>& p, std::mt19937_64& random, Real value) {
  for (std::size_t i = 0; i < p.size; ++i)
    p.value[i] =
        p.is_matrix ? value * (static_cast<Real>(random() >> 40) * Real(0x1p-23) - 1) : value;
}

// AdamW (Loshchilov, Hutter: "Decoupled weight decay regularization", ICLR 2019) over `count`
// parameters from `offset` on, whose update this is for the `t`-th time. Sets their gradient to
// zero afterwards.
template <class Real>
void adamw(const Parameters<Real>& all, std::size_t offset, std::size_t count, Real learning_rate,
           std::uint64_t t) {
  const Real beta1 = Real(0.9), beta2 = Real(0.99), decay = Real(0.01);
  const Real correction1 = 1 - std::pow(beta1, static_cast<Real>(t));
  const Real correction2 = 1 - std::pow(beta2, static_cast<Real>(t));
  for (std::size_t i = offset; i < offset + count; ++i) {
    all.moments[i] = beta1 * all.moments[i] + (1 - beta1) * all.grads[i];
    all.squares[i] = beta2 * all.squares[i] + (1 - beta2) * all.grads[i] * all.grads[i];
    const Real direction =
        (all.moments[i] / correction1) / (std::sqrt(all.squares[i] / correction2) + Real(1e-8));
    all.values[i] -= learning_rate * (direction + decay * all.values[i]);
    all.grads[i] = 0;
  }
}

// ---- the two branches of a layer: stream += branch(layer norm(stream))
// -------------------------------------------------

// Memory that all branches share. Only the backward pass uses it.
template <class Real>
struct Work {
  Real *grad_norm, *grad_inner, *grad_qkv;

  Work(Arena<Real>& arena, const Shape& s)
      : grad_norm(arena.take(s.stream())),
        grad_inner(arena.take(4 * s.stream())),
        grad_qkv(arena.take(3 * s.stream())) {}
};

template <class Real>
struct Attention {
  // What the backward pass needs from the forward pass. It lies in a slot of the arena.
  struct Saved {
    Real *norm, *normalized, *inverse_deviation, *qkv, *probabilities, *mixed;

    Saved(Arena<Real> slot, const Shape& s) : Saved(slot, s, 0) {}
    static std::size_t size(const Shape& s) {
      Arena<Real> counting;
      Saved(counting, s, 0);
      return counting.used;
    }

   private:
    Saved(Arena<Real>& slot, const Shape& s, int)
        : norm(slot.take(s.stream())),
          normalized(slot.take(s.stream())),
          inverse_deviation(slot.take(s.tokens())),
          qkv(slot.take(3 * s.stream())),
          probabilities(slot.take(s.tokens() * s.heads * s.sequence)),
          mixed(slot.take(s.stream())) {}
  };

  Parameter<Real> norm_w, norm_b, qkv_w, qkv_b, out_w, out_b;

  Attention(Parameters<Real>& all, const Shape& s)
      : norm_w(all, s.hidden, false),
        norm_b(all, s.hidden, false),
        qkv_w(all, 3 * s.hidden * s.hidden, true),
        qkv_b(all, 3 * s.hidden, false),
        out_w(all, s.hidden * s.hidden, true),
        out_b(all, s.hidden, false) {}

  std::array<Parameter<Real>*, 6> parameters() {
    return {&norm_w, &norm_b, &qkv_w, &qkv_b, &out_w, &out_b};
  }

  void forward(Real* stream, Real* slot, const Shape& s) const {
    const Saved saved({slot}, s);
    layer_norm_forward(saved.norm, saved.normalized, saved.inverse_deviation, stream, norm_w.value,
                       norm_b.value, s.tokens(), s.hidden);
    std::fill_n(saved.qkv, 3 * s.stream(), Real(0));
    linear_forward(saved.qkv, saved.norm, qkv_w.value, qkv_b.value, s.tokens(), s.hidden,
                   3 * s.hidden);
    attention_forward(saved.mixed, saved.probabilities, saved.qkv, s);
    linear_forward(stream, saved.mixed, out_w.value, out_b.value, s.tokens(), s.hidden, s.hidden);
  }

  // grad_input +=, also where it is the same memory as grad_output. The parameters' gradients +=.
  void backward(Real* grad_input, const Real* grad_output, Real* slot, const Work<Real>& work,
                const Shape& s) {
    const Saved saved({slot}, s);
    linear_backward(work.grad_inner, out_w.grad, out_b.grad, grad_output, saved.mixed, out_w.value,
                    s.tokens(), s.hidden, s.hidden);
    attention_backward(work.grad_qkv, work.grad_inner, saved.probabilities, saved.qkv, s);
    linear_backward(work.grad_norm, qkv_w.grad, qkv_b.grad, work.grad_qkv, saved.norm, qkv_w.value,
                    s.tokens(), s.hidden, 3 * s.hidden);
    layer_norm_backward(grad_input, norm_w.grad, norm_b.grad, work.grad_norm, saved.normalized,
                        saved.inverse_deviation, norm_w.value, s.tokens(), s.hidden);
  }
};

template <class Real>
struct Mlp {
  struct Saved {
    Real *norm, *normalized, *inverse_deviation, *inner, *activated;

    Saved(Arena<Real> slot, const Shape& s) : Saved(slot, s, 0) {}
    static std::size_t size(const Shape& s) {
      Arena<Real> counting;
      Saved(counting, s, 0);
      return counting.used;
    }

   private:
    Saved(Arena<Real>& slot, const Shape& s, int)
        : norm(slot.take(s.stream())),
          normalized(slot.take(s.stream())),
          inverse_deviation(slot.take(s.tokens())),
          inner(slot.take(4 * s.stream())),
          activated(slot.take(4 * s.stream())) {}
  };

  Parameter<Real> norm_w, norm_b, in_w, in_b, out_w, out_b;

  Mlp(Parameters<Real>& all, const Shape& s)
      : norm_w(all, s.hidden, false),
        norm_b(all, s.hidden, false),
        in_w(all, 4 * s.hidden * s.hidden, true),
        in_b(all, 4 * s.hidden, false),
        out_w(all, 4 * s.hidden * s.hidden, true),
        out_b(all, s.hidden, false) {}

  std::array<Parameter<Real>*, 6> parameters() {
    return {&norm_w, &norm_b, &in_w, &in_b, &out_w, &out_b};
  }

  void forward(Real* stream, Real* slot, const Shape& s) const {
    const Saved saved({slot}, s);
    layer_norm_forward(saved.norm, saved.normalized, saved.inverse_deviation, stream, norm_w.value,
                       norm_b.value, s.tokens(), s.hidden);
    std::fill_n(saved.inner, 4 * s.stream(), Real(0));
    linear_forward(saved.inner, saved.norm, in_w.value, in_b.value, s.tokens(), s.hidden,
                   4 * s.hidden);
    gelu_forward(saved.activated, saved.inner, 4 * s.stream());
    linear_forward(stream, saved.activated, out_w.value, out_b.value, s.tokens(), 4 * s.hidden,
                   s.hidden);
  }

  void backward(Real* grad_input, const Real* grad_output, Real* slot, const Work<Real>& work,
                const Shape& s) {
    const Saved saved({slot}, s);
    linear_backward(work.grad_inner, out_w.grad, out_b.grad, grad_output, saved.activated,
                    out_w.value, s.tokens(), 4 * s.hidden, s.hidden);
    gelu_backward(work.grad_inner, saved.inner, 4 * s.stream());
    linear_backward(work.grad_norm, in_w.grad, in_b.grad, work.grad_inner, saved.norm, in_w.value,
                    s.tokens(), s.hidden, 4 * s.hidden);
    layer_norm_backward(grad_input, norm_w.grad, norm_b.grad, work.grad_norm, saved.normalized,
                        saved.inverse_deviation, norm_w.value, s.tokens(), s.hidden);
  }
};

// ---- embeddings, last norm and head
// ------------------------------------------------------------------------------------------------

template <class Real>
struct Ends {
  Parameter<Real> bytes, positions, norm_w, norm_b, head;
  Real *norm, *normalized, *inverse_deviation, *logits;

  Ends(Arena<Real>& arena, Parameters<Real>& all, const Shape& s)
      : bytes(all, s.vocabulary * s.hidden, true),  // the embeddings begin the array
        positions(all, s.sequence * s.hidden, true),
        norm_w(all, s.hidden, false),
        norm_b(all, s.hidden, false),
        head(all, s.hidden * s.vocabulary, true),
        norm(arena.take(s.stream())),
        normalized(arena.take(s.stream())),
        inverse_deviation(arena.take(s.tokens())),
        logits(arena.take(s.tokens() * s.vocabulary)) {}

  std::array<Parameter<Real>*, 5> parameters() {
    return {&head, &norm_w, &norm_b, &bytes, &positions};
  }

  // stream =
  void embed(Real* stream, const std::uint8_t* tokens, const Shape& s) const {
    for (std::size_t t = 0; t < s.tokens(); ++t)
      for (std::size_t i = 0; i < s.hidden; ++i)
        stream[t * s.hidden + i] =
            bytes.value[tokens[t] * s.hidden + i] + positions.value[t % s.sequence * s.hidden + i];
  }

  void embed_backward(const Real* grad, const std::uint8_t* tokens, const Shape& s) {
    for (std::size_t t = 0; t < s.tokens(); ++t)
      for (std::size_t i = 0; i < s.hidden; ++i) {
        bytes.grad[tokens[t] * s.hidden + i] += grad[t * s.hidden + i];
        positions.grad[t % s.sequence * s.hidden + i] += grad[t * s.hidden + i];
      }
  }

  // The last norm, the head and the loss. Leaves the gradient of the logits in `logits`.
  Real loss(const Real* stream, const std::uint8_t* targets, const Shape& s) {
    layer_norm_forward(norm, normalized, inverse_deviation, stream, norm_w.value, norm_b.value,
                       s.tokens(), s.hidden);
    std::fill_n(logits, s.tokens() * s.vocabulary, Real(0));
    linear_forward(logits, norm, head.value, static_cast<const Real*>(nullptr), s.tokens(),
                   s.hidden, s.vocabulary);
    return cross_entropy(logits, targets, s.tokens(), s.vocabulary);
  }

  // grad =
  void loss_backward(Real* grad, const Work<Real>& work, const Shape& s) {
    linear_backward(work.grad_norm, head.grad, static_cast<Real*>(nullptr), logits, norm,
                    head.value, s.tokens(), s.hidden, s.vocabulary);
    std::fill_n(grad, s.stream(), Real(0));
    layer_norm_backward(grad, norm_w.grad, norm_b.grad, work.grad_norm, normalized,
                        inverse_deviation, norm_w.value, s.tokens(), s.hidden);
  }
};
