/* SPDX-FileCopyrightText: 2026 The dropbp authors */
/* SPDX-License-Identifier: MIT */

/* The trainer of examples/c_trainer with dropped branches: the gradient of every tensor is that of
 * a loss in which the outputs of the dropped branches are constants, and the optimizer leaves what
 * has none alone. */
#define main trainer_main
#include "../../examples/c_trainer/with_dropbp.c"
#undef main

static uint8_t tokens[B * T], targets[B * T];
static float outputs[2 * L][BTC]; /* of the dropped branches, as they were */

/* The loss with the dropped branches' outputs as they were saved. */
static double frozen_loss(Model* model, const uint8_t* dropped, int saves) {
  float* x = stream(model, 0);
  for (size_t t = 0; t < B * T; ++t)
    for (size_t i = 0; i < C; ++i)
      x[t * C + i] = W(WTE, 0)[tokens[t] * C + i] + W(WPE, 0)[t % T * C + i];
  for (size_t b = 0; b < 2 * L; ++b) {
    if (b % 2 == 0)
      attention_branch(model, b / 2);
    else
      mlp_branch(model, b / 2);
    float *in = stream(model, b), *out = stream(model, b + 1);
    for (size_t i = 0; dropped[b] && i < BTC; ++i) {
      if (saves) outputs[b][i] = out[i] - in[i];
      out[i] = in[i] + outputs[b][i];
    }
  }
  layernorm_forward(model->lnf, model->lnf_mean, model->lnf_rstd, stream(model, 2 * L), W(LNFW, 0),
                    W(LNFB, 0), B * T, C);
  matmul_forward(model->logits, model->lnf, W(WTE, 0), NULL, B * T, C, V);
  double loss = 0.0; /* in double: a float would hide the small differences */
  for (size_t r = 0; r < B * T; ++r) {
    double sum = 0.0;
    for (size_t v = 0; v < V; ++v) sum += exp((double)model->logits[r * V + v]);
    loss += (log(sum) - (double)model->logits[r * V + targets[r]]) / (B * T);
  }
  return loss;
}

static int failures = 0;
static void check(int is_true, const char* what, int tensor, size_t mask) {
  if (is_true) return;
  fprintf(stderr, "%s: tensor %d, mask %zu\n", what, tensor, mask);
  failures = 1;
}

/* The slope of the loss along the gradient of one tensor is the squared norm of that gradient. */
static void check_gradient(Model* model, const uint8_t* dropped, int tensor, size_t mask) {
  float* w = model->all.w + model->offsets[tensor];
  const float* d = model->all.d + model->offsets[tensor];
  float before[4 * L * C * C + V * C];
  double squares = 0.0;
  for (size_t i = 0; i < sizes[tensor]; ++i) squares += (double)d[i] * (double)d[i];
  memcpy(before, w, sizes[tensor] * sizeof(float));
  const double distance = 0.01 / sqrt(squares);
  double losses[2];
  for (int side = 0; side < 2; ++side) {
    for (size_t i = 0; i < sizes[tensor]; ++i)
      w[i] = before[i] + (float)((side == 0 ? 1.0 : -1.0) * distance * (double)d[i]);
    losses[side] = frozen_loss(model, dropped, 0);
  }
  memcpy(w, before, sizes[tensor] * sizeof(float));
  const double slope = (losses[0] - losses[1]) / (2.0 * distance);
  check(fabs(slope - squares) < 0.002 * squares, "another gradient than that of the loss", tensor,
        mask);
}

int main(void) {
  dropbp_options options = dropbp_default_options();
  options.kinds = 2;
  static Model model; /* its memory is the program's, to the end */
  model.schedule = dropbp_schedule_create(2 * L, NULL, &options);
  model.plan = dropbp_plan_create();
  build(&model);
  memcpy(tokens, text, B * T), memcpy(targets, text + 1, B * T);
  const uint8_t masks[3][2 * L] = {{0}, {1, 0, 0, 1, 1, 0, 0, 0}, {0, 1, 0, 0, 1, 1, 1, 0}};
  for (size_t m = 0; m < 3; ++m) {
    dropbp_check(dropbp_plan_set(model.plan, model.schedule, masks[m]));
    const double loss = (double)forward(&model, tokens, targets);
    backward(&model, tokens);
    check(fabs(loss - frozen_loss(&model, masks[m], 1)) < 1e-4, "another loss", -1, m);
    for (int tensor = 0; tensor < TENSORS; ++tensor) check_gradient(&model, masks[m], tensor, m);

    /* The optimizer changes the parameters of a layer where its branch was kept, and only there. */
    float* w = zeros(model.all.count);
    memcpy(w, model.all.w, model.all.count * sizeof(float));
    update(&model, 0.001f);
    for (int tensor = LN1W; tensor <= FCPROJB; ++tensor)
      for (size_t l = 0; l < L; ++l) {
        const size_t count = sizes[tensor] / L, at = model.offsets[tensor] + l * count;
        const int same = memcmp(w + at, model.all.w + at, count * sizeof(float)) == 0;
        check(same == masks[m][2 * l + (tensor >= LN2W)], "wrongly updated or left alone", tensor,
              m);
      }
    free(w);
  }
  return failures;
}
