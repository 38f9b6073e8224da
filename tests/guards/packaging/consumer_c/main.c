/* SPDX-FileCopyrightText: 2026 The dropbp authors */
/* SPDX-License-Identifier: MIT */

#include <dropbp/dropbp.h>
#include <stdio.h>

int main(void) {
  dropbp_schedule* schedule = dropbp_schedule_create(8, NULL, NULL);
  dropbp_plan* plan = dropbp_plan_create();
  size_t dropped = 0;
  dropbp_check(dropbp_plan_draw(plan, schedule, 0, 0));
  for (size_t i = 0; i < 8; ++i) dropped += (size_t)dropbp_plan_dropped(plan, i);
  printf("version %u, %zu branches dropped\n", (unsigned)dropbp_version(), dropped);
  dropbp_plan_destroy(plan);
  dropbp_schedule_destroy(schedule);
  return 0;
}
