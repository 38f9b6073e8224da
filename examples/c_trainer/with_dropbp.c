/* SPDX-FileCopyrightText: 2026 The dropbp authors */
/* SPDX-License-Identifier: MIT */

/* A byte-level GPT-2 in C, laid out as llm.c lays it out: one array a tensor with the layer as its
 * first dimension, all parameters in one block, the residual stream kept for every branch, AdamW
 * over the whole block. */
#include <dropbp/dropbp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpt2.h"

enum { L = 4, NH = 4, C = 32, T = 32, B = 4, V = 256, BTC = B * T * C };

/* Parameters. Those of the attention branches come first, then those of the MLP branches. */
enum {
  WTE,
  WPE,
  LN1W,
  LN1B,
  QKVW,
  QKVB,
  PROJW,
  PROJB,
  LN2W,
  LN2B,
  FCW,
  FCB,
  FCPROJW,
  FCPROJB,
  LNFW,
  LNFB,
  TENSORS
};
static const size_t sizes[TENSORS] = {[WTE] = V * C,
                                      [WPE] = T * C,
                                      [LN1W] = L * C,
                                      [LN1B] = L * C,
                                      [QKVW] = L * 3 * C * C,
                                      [QKVB] = L * 3 * C,
                                      [PROJW] = L * C * C,
                                      [PROJB] = L * C,
                                      [LN2W] = L * C,
                                      [LN2B] = L * C,
                                      [FCW] = L * 4 * C * C,
                                      [FCB] = L * 4 * C,
                                      [FCPROJW] = L * C * 4 * C,
                                      [FCPROJB] = L * C,
                                      [LNFW] = C,
                                      [LNFB] = C};

/* What the backward pass of a branch needs: of attention, of the MLP. */
enum { A_LN, A_MEAN, A_RSTD, A_QKV, A_ATT, A_OUT, M_LN, M_MEAN, M_RSTD, M_FC, M_GELU, ACTIVATIONS };
static const size_t slot_sizes[ACTIVATIONS] = {
    [A_LN] = BTC,      [A_MEAN] = B * T,         [A_RSTD] = B * T,
    [A_QKV] = 3 * BTC, [A_ATT] = B * NH * T * T, [A_OUT] = BTC,
    [M_LN] = BTC,      [M_MEAN] = B * T,         [M_RSTD] = B * T,
    [M_FC] = 4 * BTC,  [M_GELU] = 4 * BTC};

typedef struct {
  Parameters all;
  size_t offsets[TENSORS];
  float* act[ACTIVATIONS]; /* one array a tensor, one slot a layer */
  size_t slots[2];         /* of attention, of the MLP */
  float* stream;           /* the input of every branch, and the output of the last */
  float *lnf, *lnf_mean, *lnf_rstd, *logits;
  float *dstream, *dbranch, *dinner, *dqkv; /* memory of the backward pass */
  dropbp_schedule* schedule;
  dropbp_plan* plan;
  dropbp_ranges* ranges;
} Model;

static float* zeros(size_t count) {
  float* memory = calloc(count, sizeof(float));
  if (memory == NULL) exit(1);
  return memory;
}

/* Where layer l of branch kind 0 (attention) or 1 (MLP) saves an activation. */
static float* act(const Model* model, int tensor, size_t l) {
  const size_t kind = tensor >= M_LN, scratch = model->slots[kind] - 1;
  const size_t slot = dropbp_plan_slot_or(model->plan, 2 * l + kind, scratch);
  return model->act[tensor] + slot * slot_sizes[tensor];
}

/* The parameters or gradients of a tensor in layer l. */
static float* of_layer(float* memory, const Model* model, int tensor, size_t l) {
  return memory + model->offsets[tensor] + l * (sizes[tensor] / L);
}
#define W(tensor, l) of_layer(model->all.w, model, tensor, l)
#define D(tensor, l) of_layer(model->all.d, model, tensor, l)

static void build(Model* model) { /* one function, as in the trainers this example is for */
  for (uint32_t k = 0; k < 2; ++k) model->slots[k] = dropbp_schedule_slots(model->schedule, k);
  memset(&model->all, 0, sizeof model->all);
  for (int i = 0; i < TENSORS; ++i) {
    model->offsets[i] = model->all.count;
    model->all.count += sizes[i];
  }
  model->ranges = dropbp_ranges_create(2 * L, model->all.count);
  for (int i = LN1W; i <= FCPROJB; ++i) {
    const size_t first = i >= LN2W; /* the branch of layer 0 */
    dropbp_check(dropbp_ranges_add(model->ranges, first, 2, L, model->offsets[i], sizes[i] / L));
  }
  model->all.w = zeros(model->all.count), model->all.d = zeros(model->all.count);
  model->all.m = zeros(model->all.count), model->all.v = zeros(model->all.count);
  for (int i = 0; i < ACTIVATIONS; ++i)
    model->act[i] = zeros(model->slots[i >= M_LN] * slot_sizes[i]);
  model->stream = zeros((2 * L + 1) * BTC);
  model->lnf = zeros(BTC), model->lnf_mean = zeros(B * T), model->lnf_rstd = zeros(B * T);
  model->logits = zeros(B * T * V);
  model->dstream = zeros(BTC), model->dbranch = zeros(BTC), model->dqkv = zeros(3 * BTC);
  model->dinner = zeros(4 * BTC);
  uint64_t state = 1;
  for (int i = 0; i < TENSORS; ++i)
    for (size_t j = 0; j < sizes[i]; ++j) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const float uniform = (float)(state >> 40) * 0x1p-23f - 1.0f;
      const int is_gain = i == LN1W || i == LN2W || i == LNFW;
      const int is_bias = i == LN1B || i == LN2B || i == LNFB || i == QKVB || i == PROJB ||
                          i == FCB || i == FCPROJB;
      model->all.w[model->offsets[i] + j] = is_gain ? 1.0f : is_bias ? 0.0f : 0.1f * uniform;
    }
}

/* The input of a branch, 2 l for attention and 2 l + 1 for MLP; the next one is its output. */
static float* stream(const Model* model, size_t branch) { return model->stream + branch * BTC; }

static void attention_branch(Model* model, size_t l) {
  float *x = stream(model, 2 * l), *ln = act(model, A_LN, l), *qkv = act(model, A_QKV, l);
  float* out = act(model, A_OUT, l);
  layernorm_forward(ln, act(model, A_MEAN, l), act(model, A_RSTD, l), x, W(LN1W, l), W(LN1B, l),
                    B * T, C);
  matmul_forward(qkv, ln, W(QKVW, l), W(QKVB, l), B * T, C, 3 * C);
  attention_forward(out, act(model, A_ATT, l), qkv, B, T, C, NH);
  matmul_forward(model->dbranch, out, W(PROJW, l), W(PROJB, l), B * T, C, C);
  residual_forward(x + BTC, x, model->dbranch, BTC);
}

static void attention_branch_backward(Model* model, size_t l, float* dx) {
  float *x = stream(model, 2 * l), *qkv = act(model, A_QKV, l);
  matmul_backward(model->dinner, D(PROJW, l), D(PROJB, l), dx, act(model, A_OUT, l), W(PROJW, l),
                  B * T, C, C);
  attention_backward(model->dqkv, model->dinner, act(model, A_ATT, l), qkv, B, T, C, NH);
  matmul_backward(model->dbranch, D(QKVW, l), D(QKVB, l), model->dqkv, act(model, A_LN, l),
                  W(QKVW, l), B * T, C, 3 * C);
  layernorm_backward(dx, D(LN1W, l), D(LN1B, l), model->dbranch, x, act(model, A_MEAN, l),
                     act(model, A_RSTD, l), W(LN1W, l), B * T, C);
}

static void mlp_branch(Model* model, size_t l) {
  float *x = stream(model, 2 * l + 1), *ln = act(model, M_LN, l), *fc = act(model, M_FC, l);
  float* gelu = act(model, M_GELU, l);
  layernorm_forward(ln, act(model, M_MEAN, l), act(model, M_RSTD, l), x, W(LN2W, l), W(LN2B, l),
                    B * T, C);
  matmul_forward(fc, ln, W(FCW, l), W(FCB, l), B * T, C, 4 * C);
  gelu_forward(gelu, fc, 4 * BTC);
  matmul_forward(model->dbranch, gelu, W(FCPROJW, l), W(FCPROJB, l), B * T, 4 * C, C);
  residual_forward(x + BTC, x, model->dbranch, BTC);
}

static void mlp_branch_backward(Model* model, size_t l, float* dx) {
  float* x = stream(model, 2 * l + 1);
  matmul_backward(model->dinner, D(FCPROJW, l), D(FCPROJB, l), dx, act(model, M_GELU, l),
                  W(FCPROJW, l), B * T, 4 * C, C);
  gelu_backward(model->dinner, act(model, M_FC, l), 4 * BTC);
  matmul_backward(model->dbranch, D(FCW, l), D(FCB, l), model->dinner, act(model, M_LN, l),
                  W(FCW, l), B * T, C, 4 * C);
  layernorm_backward(dx, D(LN2W, l), D(LN2B, l), model->dbranch, x, act(model, M_MEAN, l),
                     act(model, M_RSTD, l), W(LN2W, l), B * T, C);
}

static float forward(Model* model, const uint8_t* tokens, const uint8_t* targets) {
  float* x = stream(model, 0);
  for (size_t t = 0; t < B * T; ++t)
    for (size_t i = 0; i < C; ++i)
      x[t * C + i] = W(WTE, 0)[tokens[t] * C + i] + W(WPE, 0)[t % T * C + i];
  for (size_t l = 0; l < L; ++l) {
    attention_branch(model, l);
    mlp_branch(model, l);
  }
  layernorm_forward(model->lnf, model->lnf_mean, model->lnf_rstd, stream(model, 2 * L), W(LNFW, 0),
                    W(LNFB, 0), B * T, C);
  matmul_forward(model->logits, model->lnf, W(WTE, 0), NULL, B * T, C, V);
  return crossentropy(model->logits, targets, B * T, V);
}

static void backward(Model* model, const uint8_t* tokens) {
  float* dx = model->dstream;
  memset(model->all.d, 0, model->all.count * sizeof(float));
  memset(dx, 0, BTC * sizeof(float));
  matmul_backward(model->dbranch, D(WTE, 0), NULL, model->logits, model->lnf, W(WTE, 0), B * T, C,
                  V);
  layernorm_backward(dx, D(LNFW, 0), D(LNFB, 0), model->dbranch, stream(model, 2 * L),
                     model->lnf_mean, model->lnf_rstd, W(LNFW, 0), B * T, C);
  for (size_t l = L; l-- > 0;) {
    if (!dropbp_plan_dropped(model->plan, 2 * l + 1)) mlp_branch_backward(model, l, dx);
    if (!dropbp_plan_dropped(model->plan, 2 * l)) attention_branch_backward(model, l, dx);
  }
  for (size_t t = 0; t < B * T; ++t)
    for (size_t i = 0; i < C; ++i) {
      D(WTE, 0)[tokens[t] * C + i] += dx[t * C + i];
      D(WPE, 0)[t % T * C + i] += dx[t * C + i];
    }
}

static void update(Model* model, float rate) {
  const dropbp_range* r;
  dropbp_check(dropbp_ranges_end_step(model->ranges, model->plan, &r));
  for (; r->count > 0; ++r) adamw(&model->all, r->offset, r->count, rate, r->updates);
}

static const char text[] =
    "A trainer in C owns its loops and its memory. It computes every layer of the model upwards, "
    "then goes down again with the gradient, and each branch of a layer adds its share to what "
    "passes by. What a branch adds on the way up must not be left out; what it adds on the way "
    "down is missed less, and now and then not at all.\n";

int main(int argc, char** argv) {
  const uint64_t steps = argc > 1 ? strtoull(argv[1], NULL, 10) : 60;
  static Model model; /* its memory is the program's, to the end */
  dropbp_options options = dropbp_default_options();
  options.drop_rate = argc > 2 ? strtod(argv[2], NULL) : 0.5;
  options.sampling = DROPBP_FIXED_BUDGET;
  options.kinds = 2; /* attention and MLP in turns, each with slots of its own */
  model.schedule = dropbp_schedule_create(2 * L, NULL, &options);
  model.plan = dropbp_plan_create();
  build(&model);
  size_t saved = 0;
  for (int i = 0; i < ACTIVATIONS; ++i) saved += model.slots[i >= M_LN] * slot_sizes[i];
  printf("%zu attention slots and %zu MLP slots: %zu bytes\n", model.slots[0], model.slots[1],
         saved * sizeof(float));

  uint8_t tokens[B * T], targets[B * T];
  uint64_t state = 2;
  for (uint64_t step = 0; step < steps; ++step) {
    for (size_t b = 0; b < B; ++b) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const char* from = text + (state >> 33) % (sizeof text - 1 - T);
      memcpy(tokens + b * T, from, T);
      memcpy(targets + b * T, from + 1, T);
    }
    dropbp_check(dropbp_plan_draw(model.plan, model.schedule, step, 0));
    const float loss = forward(&model, tokens, targets);
    backward(&model, tokens);
    update(&model, 0.003f);
    if (step % 10 == 0 || step + 1 == steps) printf("step %3d  loss %.9g\n", (int)step, loss);
  }
  return 0;
}
