/* SPDX-FileCopyrightText: 2026 The dropbp authors */
/* SPDX-License-Identifier: MIT */

/* Prints the layout of every struct in dropbp.h. */
#include <dropbp/dropbp.h>
#include <stdio.h>

#define FIELD(type, name)                                            \
  printf(#type "." #name " %u %u\n", (unsigned)offsetof(type, name), \
         (unsigned)sizeof(((type*)NULL)->name))

int main(void) {
  printf("dropbp_options %u\n", (unsigned)sizeof(dropbp_options));
  FIELD(dropbp_options, struct_size);
  FIELD(dropbp_options, drop_rate);
  FIELD(dropbp_options, seed);
  FIELD(dropbp_options, warmup_steps);
  FIELD(dropbp_options, trainable_below);
  FIELD(dropbp_options, plan_per_step);
  FIELD(dropbp_options, gradient_scaling);
  FIELD(dropbp_options, sampling);
  FIELD(dropbp_options, weigh);
  FIELD(dropbp_options, kinds);
  FIELD(dropbp_options, cap);
  FIELD(dropbp_options, bytes);
  FIELD(dropbp_options, groups);
  FIELD(dropbp_options, trainable);
  FIELD(dropbp_options, parents);
  printf("dropbp_range %u\n", (unsigned)sizeof(dropbp_range));
  FIELD(dropbp_range, branch);
  FIELD(dropbp_range, offset);
  FIELD(dropbp_range, count);
  FIELD(dropbp_range, updates);
  FIELD(dropbp_range, micro_steps);
  return 0;
}
