/* SPDX-FileCopyrightText: 2026 The dropbp authors */
/* SPDX-License-Identifier: MIT */

/* The functions of a GPT-2 in C, each with its backward pass.
 *
 * A matrix is row-major, "rows x width". Forward functions overwrite their results. Backward
 * functions add to every gradient (+=), but for those that say `=`. */
#ifndef GPT2_H
#define GPT2_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* out = (x - mean) / deviation * w + b in each row; saves mean and 1 / deviation of the rows. */
static inline void layernorm_forward(float* out, float* mean, float* rstd, const float* x,
                                     const float* w, const float* b, size_t rows, size_t width) {
  for (size_t r = 0; r < rows; ++r, x += width, out += width) {
    float sum = 0.0f, squares = 0.0f;
    for (size_t i = 0; i < width; ++i) sum += x[i];
    mean[r] = sum / (float)width;
    for (size_t i = 0; i < width; ++i) squares += (x[i] - mean[r]) * (x[i] - mean[r]);
    rstd[r] = 1.0f / sqrtf(squares / (float)width + 1e-5f);
    for (size_t i = 0; i < width; ++i) out[i] = (x[i] - mean[r]) * rstd[r] * w[i] + b[i];
  }
}

static inline void layernorm_backward(float* dx, float* dw, float* db, const float* dout,
                                      const float* x, const float* mean, const float* rstd,
                                      const float* w, size_t rows, size_t width) {
  for (size_t r = 0; r < rows; ++r, x += width, dx += width, dout += width) {
    float h_mean = 0.0f, slope = 0.0f;
    for (size_t i = 0; i < width; ++i) {
      const float normalized = (x[i] - mean[r]) * rstd[r], h = dout[i] * w[i];
      h_mean += h / (float)width;
      slope += h * normalized / (float)width;
      dw[i] += dout[i] * normalized;
      db[i] += dout[i];
    }
    for (size_t i = 0; i < width; ++i)
      dx[i] += (dout[i] * w[i] - h_mean - (x[i] - mean[r]) * rstd[r] * slope) * rstd[r];
  }
}

/* out = x w^T + b: x is rows x in, w is out_width x in. b may be NULL. */
static inline void matmul_forward(float* out, const float* x, const float* w, const float* b,
                                  size_t rows, size_t in_width, size_t out_width) {
  for (size_t r = 0; r < rows; ++r)
    for (size_t o = 0; o < out_width; ++o) {
      float sum = b != NULL ? b[o] : 0.0f;
      for (size_t i = 0; i < in_width; ++i) sum += x[r * in_width + i] * w[o * in_width + i];
      out[r * out_width + o] = sum;
    }
}

/* dx =. db may be NULL. */
static inline void matmul_backward(float* dx, float* dw, float* db, const float* dout,
                                   const float* x, const float* w, size_t rows, size_t in_width,
                                   size_t out_width) {
  for (size_t r = 0; r < rows; ++r) {
    for (size_t i = 0; i < in_width; ++i) dx[r * in_width + i] = 0.0f;
    for (size_t o = 0; o < out_width; ++o) {
      const float d = dout[r * out_width + o];
      if (db != NULL) db[o] += d;
      for (size_t i = 0; i < in_width; ++i) {
        dx[r * in_width + i] += d * w[o * in_width + i];
        dw[o * in_width + i] += d * x[r * in_width + i];
      }
    }
  }
}

/* Causal attention: a row of qkv (batch * sequence x 3 width) holds q, k and v of a token. Saves
 * the probabilities: batch x heads x sequence x sequence. */
static inline void attention_forward(float* out, float* att, const float* qkv, size_t batch,
                                     size_t sequence, size_t width, size_t heads) {
  const size_t size = width / heads, step = 3 * width;
  const float scale = 1.0f / sqrtf((float)size);
  for (size_t b = 0; b < batch; ++b)
    for (size_t h = 0; h < heads; ++h)
      for (size_t t = 0; t < sequence; ++t) {
        const float* q = qkv + (b * sequence + t) * step + h * size;
        const float* k = qkv + b * sequence * step + width + h * size;
        const float* v = k + width;
        float* p = att + ((b * heads + h) * sequence + t) * sequence;
        float* o = out + (b * sequence + t) * width + h * size;
        float largest = -1e30f, sum = 0.0f;
        for (size_t u = 0; u < sequence; ++u) p[u] = 0.0f;
        for (size_t u = 0; u <= t; ++u) {
          for (size_t i = 0; i < size; ++i) p[u] += q[i] * k[u * step + i] * scale;
          if (p[u] > largest) largest = p[u];
        }
        for (size_t u = 0; u <= t; ++u) sum += p[u] = expf(p[u] - largest);
        for (size_t u = 0; u <= t; ++u) p[u] /= sum;
        for (size_t i = 0; i < size; ++i) {
          o[i] = 0.0f;
          for (size_t u = 0; u <= t; ++u) o[i] += p[u] * v[u * step + i];
        }
      }
}

/* dqkv =. */
static inline void attention_backward(float* dqkv, const float* dout, const float* att,
                                      const float* qkv, size_t batch, size_t sequence, size_t width,
                                      size_t heads) {
  const size_t size = width / heads, step = 3 * width;
  const float scale = 1.0f / sqrtf((float)size);
  for (size_t i = 0; i < batch * sequence * step; ++i) dqkv[i] = 0.0f;
  for (size_t b = 0; b < batch; ++b)
    for (size_t h = 0; h < heads; ++h)
      for (size_t t = 0; t < sequence; ++t) {
        const size_t row = (b * sequence + t) * step + h * size;
        const size_t k = b * sequence * step + width + h * size, v = k + width;
        const float* p = att + ((b * heads + h) * sequence + t) * sequence;
        const float* d = dout + (b * sequence + t) * width + h * size;
        float mean = 0.0f; /* of the gradients of the probabilities, weighted by these */
        for (size_t u = 0; u <= t; ++u)
          for (size_t i = 0; i < size; ++i) mean += p[u] * d[i] * qkv[v + u * step + i];
        for (size_t u = 0; u <= t; ++u) {
          float dp = 0.0f;
          for (size_t i = 0; i < size; ++i) {
            dp += d[i] * qkv[v + u * step + i];
            dqkv[v + u * step + i] += p[u] * d[i];
          }
          const float dscore = p[u] * (dp - mean) * scale;
          for (size_t i = 0; i < size; ++i) {
            dqkv[row + i] += dscore * qkv[k + u * step + i];
            dqkv[k + u * step + i] += dscore * qkv[row + i];
          }
        }
      }
}

/* GPT-2's GELU: x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). */
static inline void gelu_forward(float* out, const float* x, size_t count) {
  for (size_t i = 0; i < count; ++i)
    out[i] = 0.5f * x[i] * (1.0f + tanhf(0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}

/* d enters as the gradient of the output and leaves as that of the input. */
static inline void gelu_backward(float* d, const float* x, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const float t = tanhf(0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i]));
    d[i] *= 0.5f * (1.0f + t) +
            0.5f * x[i] * (1.0f - t * t) * 0.79788456f * (1.0f + 0.134145f * x[i] * x[i]);
  }
}

static inline void residual_forward(float* out, const float* x, const float* branch, size_t count) {
  for (size_t i = 0; i < count; ++i) out[i] = x[i] + branch[i];
}

/* The mean loss over all rows; the logits become their gradient. */
static inline float crossentropy(float* logits, const uint8_t* targets, size_t rows,
                                 size_t vocabulary) {
  float loss = 0.0f;
  for (size_t r = 0; r < rows; ++r, logits += vocabulary) {
    float largest = logits[0], sum = 0.0f;
    for (size_t v = 1; v < vocabulary; ++v)
      if (logits[v] > largest) largest = logits[v];
    for (size_t v = 0; v < vocabulary; ++v) sum += expf(logits[v] - largest);
    loss += (logf(sum) + largest - logits[targets[r]]) / (float)rows;
    for (size_t v = 0; v < vocabulary; ++v)
      logits[v] = (expf(logits[v] - largest) / sum - (v == targets[r] ? 1.0f : 0.0f)) / (float)rows;
  }
  return loss;
}

/* All parameters in one block, with their gradients and moments. */
typedef struct {
  float *w, *d, *m, *v;
  size_t count;
  uint64_t steps; /* of the optimizer */
} Parameters;

/* AdamW for `count` parameters from `offset` on, in their step t, counted from 1. */
static inline void adamw(const Parameters* all, size_t offset, size_t count, float rate,
                         uint64_t t) {
  const float correction1 = 1.0f - powf(0.9f, (float)t), correction2 = 1.0f - powf(0.99f, (float)t);
  for (size_t i = offset; i < offset + count; ++i) {
    all->m[i] = 0.9f * all->m[i] + 0.1f * all->d[i];
    all->v[i] = 0.99f * all->v[i] + 0.01f * all->d[i] * all->d[i];
    const float direction = all->m[i] / correction1 / (sqrtf(all->v[i] / correction2) + 1e-8f);
    all->w[i] -= rate * (direction + 0.01f * all->w[i]);
  }
}

#endif
