// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Times training steps of llm.c's train_gpt2.c on random weights in the shape that step_time has by
// default. docs/benchmarks.md has the commands; compile it in a clone of llm.c.
#define TESTING
#include "train_gpt2.c"

#include <time.h>

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int by_size(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

int main(int argc, char** argv) {
  enum { layers = 8, width = 512, heads = 8, tokens = 256, vocabulary = 256, batch = 4, steps = 5 };
  const char* const path = argc > 1 ? argv[1] : "dropbp_llmc.bin";
  FILE* const file = fopen(path, "wb");
  if (file == NULL) {
    fprintf(stderr, "llmc: the model must be written, but '%s' cannot be opened\n", path);
    return 1;
  }
  int header[256] = {20240326, 3, tokens, vocabulary, layers, heads, width, vocabulary};
  fwrite(header, sizeof(int), 256, file);
  const size_t block = 12 * (size_t)width * width + 13 * (size_t)width;
  const size_t weights = ((size_t)vocabulary + tokens + 2) * width + layers * block;
  unsigned long long state = 1;
  for (size_t i = 0; i < weights; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    const float weight = 0.04f * ((float)(state >> 40) * 0x1p-24f - 0.5f);
    fwrite(&weight, sizeof weight, 1, file);
  }
  fclose(file);

  GPT2 model;
  gpt2_build_from_checkpoint(&model, path);
  remove(path);
  int ids[batch * tokens], next[batch * tokens];
  for (int i = 0; i < batch * tokens; ++i) ids[i] = i * 31 % vocabulary, next[i] = i % vocabulary;
  double times[steps];
  for (int step = -1; step < steps; ++step) {
    const double start = seconds();
    gpt2_forward(&model, ids, next, batch, tokens);
    gpt2_zero_grad(&model);
    gpt2_backward(&model);
    gpt2_update(&model, 1e-4f, 0.9f, 0.999f, 1e-8f, 0.0f, step + 2);
    if (step >= 0) times[step] = seconds() - start;
  }
  qsort(times, steps, sizeof times[0], by_size);
  // Products, and the two of attention for queries that see half of the keys.
  const double per_token = 6.0 * (12.0 * width * width * layers + (double)vocabulary * width) +
                           6.0 * layers * tokens * width;
  printf("median of %d steps: %.0f ms (%.0f to %.0f), %.1f GFLOP/s\n", steps,
         1e3 * times[steps / 2], 1e3 * times[0], 1e3 * times[steps - 1],
         1e-9 * per_token * batch * tokens / times[steps / 2]);
  gpt2_free(&model);
  return 0;
}
