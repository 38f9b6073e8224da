/* SPDX-FileCopyrightText: 2026 The dropbp authors */
/* SPDX-License-Identifier: MIT */

/* The C interface as a C99 program uses it: every function, and what each refuses. Exits with 1 and
 * the line of the first check that fails. */
#include <dropbp/dropbp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      fprintf(stderr, "the last error is: %s\n", dropbp_last_error());          \
      exit(1);                                                                  \
    }                                                                           \
  } while (0)

/* The call fails with this status, and the sentence holds `part`. */
#define CHECK_FAILS(status, call, part)               \
  do {                                                \
    CHECK((call) == (status));                        \
    CHECK(strstr(dropbp_last_error(), part) != NULL); \
  } while (0)

enum { branches = 8 };

static dropbp_options two_kinds(void) {
  dropbp_options options = dropbp_default_options();
  options.seed = 7;
  options.trainable_below = 0;
  options.sampling = DROPBP_FIXED_BUDGET;
  options.kinds = 2;
  return options;
}

/* Slots are dense within a group, and the lowest kept branch needs no gradient of its input. */
static void plans_answer(void) {
  const dropbp_options options = two_kinds();
  dropbp_schedule* schedule = dropbp_schedule_create(branches, NULL, &options);
  dropbp_plan* plan = dropbp_plan_create();
  CHECK(schedule != NULL && plan != NULL);
  CHECK(dropbp_schedule_branches(schedule) == branches);
  CHECK(dropbp_schedule_drop_rate(schedule) == 0.5);
  CHECK(dropbp_plan_branches(plan) == 0);
  for (uint32_t group = 0; group < 2; ++group) {
    CHECK(dropbp_schedule_max_kept(schedule, group) == 2);
    CHECK(dropbp_schedule_slots(schedule, group) == 3);
  }

  for (uint64_t step = 0; step < 50; ++step) {
    CHECK(dropbp_plan_draw(plan, schedule, step, 0) == DROPBP_OK);
    CHECK(dropbp_plan_branches(plan) == branches);
    size_t kept[2] = {0, 0}, lowest = branches;
    for (size_t b = 0; b < branches; ++b) {
      if (dropbp_plan_dropped(plan, b)) {
        CHECK(dropbp_plan_input_gradient_needed(plan, b) == 0);
        CHECK(dropbp_plan_slot_or(plan, b, 9) == 9);
        continue;
      }
      CHECK(dropbp_plan_slot_or(plan, b, 9) == kept[b % 2]);
      CHECK(dropbp_plan_slot(plan, b) == kept[b % 2]++);
      if (lowest == branches) lowest = b;
      CHECK(dropbp_plan_input_gradient_needed(plan, b) == (b != lowest));
    }
    CHECK(kept[0] == 2 && kept[1] == 2);
    CHECK(dropbp_plan_lowest_kept(plan) == lowest);
    CHECK(dropbp_plan_all_dropped(plan) == 0 && dropbp_plan_backward_needed(plan) == 1);
  }

  CHECK(dropbp_plan_drop_all(plan, schedule) == DROPBP_OK);
  CHECK(dropbp_plan_all_dropped(plan) == 1 && dropbp_plan_backward_needed(plan) == 0);
  CHECK(dropbp_plan_lowest_kept(plan) == branches);
  const uint8_t mask[branches] = {1, 0, 0, 0, 0, 1, 0, 0};
  CHECK(dropbp_plan_set(plan, schedule, mask) == DROPBP_OK);
  for (size_t b = 0; b < branches; ++b) CHECK(dropbp_plan_dropped(plan, b) == mask[b]);
  CHECK(dropbp_plan_slot(plan, 6) == 2);
  CHECK(dropbp_plan_set(plan, schedule, NULL) == DROPBP_OK);
  for (size_t b = 0; b < branches; ++b) CHECK(dropbp_plan_dropped(plan, b) == 0);
  dropbp_plan_destroy(plan);
  dropbp_schedule_destroy(schedule);
}

static void rates_change(void) {
  double rates[branches], sensitivities[branches];
  dropbp_schedule* schedule = dropbp_schedule_create(branches, NULL, NULL);
  CHECK(dropbp_schedule_set_drop_rate(schedule, 0.25) == DROPBP_OK);
  CHECK(dropbp_schedule_branch_drop_rate(schedule, 3) == 0.25);
  for (size_t b = 0; b < branches; ++b) rates[b] = b < 4 ? 0.0 : 1.0;
  CHECK(dropbp_schedule_set_drop_rates(schedule, rates) == DROPBP_OK);
  CHECK(dropbp_schedule_drop_rate(schedule) == 0.5);
  CHECK(dropbp_schedule_max_kept(schedule, 0) == 4);
  for (size_t b = 0; b < branches; ++b) sensitivities[b] = (double)(b + 1);
  const int32_t allocations[3] = {DROPBP_GREEDY, DROPBP_OPTIMAL, DROPBP_UNIFORM};
  for (int i = 0; i < 3; ++i) {
    CHECK(dropbp_schedule_allocate(schedule, sensitivities, allocations[i], 0.1) == DROPBP_OK);
    double sum = 0.0;
    for (size_t b = 0; b < branches; ++b) {
      const double rate = dropbp_schedule_branch_drop_rate(schedule, b);
      CHECK(rate >= 0.0999);
      CHECK(b == 0 || rate <= dropbp_schedule_branch_drop_rate(schedule, b - 1));
      sum += rate;
    }
    CHECK(sum > 3.95 && sum < 4.15);
  }
  CHECK(dropbp_schedule_allocate(schedule, NULL, DROPBP_DEPTH, 0.0) == DROPBP_OK);
  for (size_t b = 0; b < branches; ++b)
    CHECK(dropbp_schedule_branch_drop_rate(schedule, b) == (b < 4 ? 1.0 : 0.0));
  CHECK(dropbp_schedule_allocate(schedule, NULL, DROPBP_UNIFORM, 0.0) == DROPBP_OK);
  CHECK(dropbp_schedule_branch_drop_rate(schedule, 0) == 0.5);
  CHECK_FAILS(DROPBP_INVALID, dropbp_schedule_allocate(schedule, NULL, DROPBP_OPTIMAL, 0.0),
              "sensitivities");
  CHECK(dropbp_schedule_learning_rate_scale(schedule, 0) == 2.0);
  CHECK(dropbp_schedule_gradient_scale(schedule, 0, 0) == 1.0);
  dropbp_schedule_destroy(schedule);
  dropbp_options options = dropbp_default_options();
  options.gradient_scaling = 1;
  schedule = dropbp_schedule_create(branches, NULL, &options);
  CHECK(dropbp_schedule_gradient_scale(schedule, 0, 0) == 2.0);
  dropbp_schedule_destroy(schedule);
}

static size_t length_of(const dropbp_range* range) {
  size_t length = 0;
  while (range[length].count > 0) ++length;
  return length;
}

static void ranges_follow_the_plans(void) {
  dropbp_schedule* schedule = dropbp_schedule_create(2, NULL, NULL);
  dropbp_plan* plan = dropbp_plan_create();
  dropbp_ranges* ranges = dropbp_ranges_create(2, 20);
  CHECK(ranges != NULL);
  CHECK(dropbp_ranges_add(ranges, 0, 1, 2, 4, 5) == DROPBP_OK);
  CHECK(dropbp_ranges_add(ranges, DROPBP_NEVER, 0, 1, 18, 2) == DROPBP_OK);
  CHECK_FAILS(DROPBP_INVALID, dropbp_ranges_add(ranges, 1, 1, 1, 13, 2), "two tensors");
  CHECK_FAILS(DROPBP_INVALID, dropbp_ranges_add(ranges, 1, 1, 1, 14, 7), "within the array of 20");
  const dropbp_range* range = NULL;
  CHECK_FAILS(DROPBP_ORDER, dropbp_ranges_end_step(ranges, NULL, &range), "observe");

  const uint8_t first[2] = {1, 0}, second[2] = {1, 1};
  CHECK(dropbp_plan_set(plan, schedule, first) == DROPBP_OK);
  CHECK(dropbp_ranges_observe(ranges, plan) == DROPBP_OK);
  CHECK(dropbp_plan_set(plan, schedule, second) == DROPBP_OK);
  CHECK(dropbp_ranges_end_step(ranges, plan, &range) == DROPBP_OK);
  CHECK(length_of(range) == 3);
  CHECK(range[0].branch == DROPBP_ALWAYS && range[0].offset == 0 && range[0].count == 4);
  CHECK(range[1].branch == 1 && range[1].offset == 9 && range[1].count == 5);
  CHECK(range[1].updates == 1 && range[1].micro_steps == 1);
  CHECK(range[0].micro_steps == 2);
  CHECK(range[2].branch == DROPBP_ALWAYS && range[2].offset == 14 && range[2].count == 4);

  CHECK(dropbp_ranges_observe(ranges, plan) == DROPBP_OK);
  CHECK(dropbp_ranges_skip_step(ranges) == DROPBP_OK);
  CHECK(dropbp_ranges_end_step(ranges, NULL, &range) == DROPBP_ORDER && length_of(range) == 0);
  CHECK(dropbp_plan_set(plan, schedule, NULL) == DROPBP_OK);
  CHECK(dropbp_ranges_observe(ranges, plan) == DROPBP_OK);
  CHECK(dropbp_ranges_end_step(ranges, NULL, &range) == DROPBP_OK);
  CHECK(length_of(range) == 4);
  CHECK(range[0].updates == 2 && range[1].updates == 1 && range[2].updates == 2);
  dropbp_ranges_destroy(ranges);
  dropbp_plan_destroy(plan);
  dropbp_schedule_destroy(schedule);
}

/* Saved and restored, all goes on as if nothing had happened. */
static void states_come_back(void) {
  const dropbp_options options = two_kinds();
  dropbp_schedule* schedule = dropbp_schedule_create(branches, NULL, &options);
  dropbp_running* running = dropbp_running_create(branches);
  dropbp_ranges* ranges = dropbp_ranges_create(branches, 80);
  dropbp_ranges* new_ranges = dropbp_ranges_create(branches, 80);
  dropbp_plan* plan = dropbp_plan_create();
  double sensitivities[branches], others[branches];
  const dropbp_range* range = NULL;
  CHECK(dropbp_ranges_add(ranges, 0, 1, branches, 0, 10) == DROPBP_OK);
  CHECK(dropbp_ranges_add(new_ranges, 0, 1, branches, 0, 10) == DROPBP_OK);
  for (uint64_t step = 0; step < 5; ++step) {
    CHECK(dropbp_plan_draw(plan, schedule, step, 0) == DROPBP_OK);
    for (size_t b = 0; b < branches; ++b)
      if (!dropbp_plan_dropped(plan, b))
        CHECK(dropbp_running_observe(running, b, 1.0 + (double)b, 0.9) == DROPBP_OK);
    CHECK(dropbp_running_end_step(running) == DROPBP_OK);
    CHECK(dropbp_ranges_end_step(ranges, plan, &range) == DROPBP_OK);
  }
  CHECK(dropbp_running_sensitivities(running, sensitivities) == DROPBP_OK);
  CHECK(dropbp_schedule_allocate(schedule, sensitivities, DROPBP_OPTIMAL, 0.0) == DROPBP_OK);

  const size_t length = dropbp_state_to_text(schedule, running, ranges, 5, NULL, 0);
  char* text = malloc(length + 1);
  CHECK(length > 100 && text != NULL);
  CHECK(dropbp_state_to_text(schedule, running, ranges, 5, text, length + 1) == length);
  CHECK(strlen(text) == length);

  dropbp_schedule* new_schedule = dropbp_schedule_create(branches, NULL, &options);
  dropbp_running* new_running = dropbp_running_create(branches);
  dropbp_plan* new_plan = dropbp_plan_create();
  uint64_t next = 0;
  CHECK_FAILS(DROPBP_INVALID, dropbp_state_from_text(text, new_schedule, NULL, new_ranges, &next),
              "the call has");
  CHECK_FAILS(DROPBP_INVALID,
              dropbp_state_from_text("dropbp-state 1\n", new_schedule, NULL, NULL, &next),
              "line 2");
  CHECK(dropbp_state_from_text(text, new_schedule, new_running, new_ranges, &next) == DROPBP_OK);
  CHECK(next == 5);
  CHECK(dropbp_running_sensitivities(new_running, others) == DROPBP_OK);
  for (size_t b = 0; b < branches; ++b) CHECK(sensitivities[b] == others[b]);
  for (uint64_t step = 5; step < 10; ++step) {
    CHECK(dropbp_plan_draw(plan, schedule, step, 0) == DROPBP_OK);
    CHECK(dropbp_plan_draw(new_plan, new_schedule, step, 0) == DROPBP_OK);
    CHECK(dropbp_plan_fingerprint(plan) == dropbp_plan_fingerprint(new_plan));
    const dropbp_range* new_range = NULL;
    CHECK(dropbp_ranges_end_step(ranges, plan, &range) == DROPBP_OK);
    CHECK(dropbp_ranges_end_step(new_ranges, new_plan, &new_range) == DROPBP_OK);
    CHECK(length_of(range) == length_of(new_range));
    for (size_t i = 0; i < length_of(range); ++i)
      CHECK(range[i].branch == new_range[i].branch && range[i].updates == new_range[i].updates);
  }
  free(text);
  dropbp_schedule_destroy(schedule), dropbp_schedule_destroy(new_schedule);
  dropbp_running_destroy(running), dropbp_running_destroy(new_running);
  dropbp_ranges_destroy(ranges), dropbp_ranges_destroy(new_ranges);
  dropbp_plan_destroy(plan), dropbp_plan_destroy(new_plan);
}

static void wrong_use_is_refused(void) {
  dropbp_options options = dropbp_default_options();
  CHECK(dropbp_schedule_create(0, NULL, NULL) == NULL);
  CHECK(strstr(dropbp_last_error(), "at least one residual branch") != NULL);
  options.drop_rate = 1.5;
  CHECK(dropbp_schedule_create(branches, NULL, &options) == NULL);
  CHECK(strstr(dropbp_last_error(), "[0, 1]") != NULL);
  options = dropbp_default_options();
  options.struct_size = 8;
  CHECK(dropbp_schedule_create(branches, NULL, &options) == NULL);
  CHECK(strstr(dropbp_last_error(), "struct_size is 8") != NULL);
  options = dropbp_default_options();
  options.sampling = 3;
  CHECK(dropbp_schedule_create(branches, NULL, &options) == NULL);
  CHECK(strstr(dropbp_last_error(), "dropbp_options::sampling") != NULL);

  static const uint32_t groups[branches] = {0};
  options = dropbp_default_options();
  options.kinds = 2, options.groups = groups;
  CHECK(dropbp_schedule_create(branches, NULL, &options) == NULL);
  CHECK(strstr(dropbp_last_error(), "dropbp_options::kinds") != NULL);
  options.kinds = 9, options.groups = NULL;
  CHECK(dropbp_schedule_create(8, NULL, &options) == NULL);
  CHECK(strstr(dropbp_last_error(), "there must be a branch of each kind") != NULL);

  dropbp_schedule* schedule = dropbp_schedule_create(branches, NULL, NULL);
  dropbp_plan* plan = dropbp_plan_create();
  double negative[branches] = {-1.0};
  CHECK_FAILS(DROPBP_INVALID, dropbp_schedule_set_drop_rate(schedule, -1.0), "[0, 1]");
  CHECK_FAILS(DROPBP_INVALID, dropbp_schedule_set_drop_rates(schedule, NULL), "list of rates");
  CHECK_FAILS(DROPBP_INVALID, dropbp_schedule_allocate(schedule, negative, DROPBP_GREEDY, 0.0),
              "sensitivity must be");
  CHECK_FAILS(DROPBP_INVALID, dropbp_schedule_allocate(schedule, negative, 4, 0.0), "allocation");
  CHECK(dropbp_schedule_drop_rate(schedule) == 0.5);
  CHECK_FAILS(DROPBP_INVALID, dropbp_plan_draw(plan, NULL, 0, 0), "a schedule must not be");
  CHECK(dropbp_schedule_create(0, NULL, NULL) == NULL);
  CHECK_FAILS(DROPBP_INVALID, dropbp_plan_draw(plan, NULL, 0, 0),
              "the failure before this one was: dropbp: a model must have at least one");
  CHECK_FAILS(DROPBP_INVALID, dropbp_plan_draw(NULL, schedule, 0, 0), "a plan must not be");
  CHECK_FAILS(DROPBP_INVALID, dropbp_running_observe(NULL, 0, 1.0, 1.0), "running");

  /* A draw that fails leaves no plan of another step. */
  CHECK(dropbp_plan_draw(plan, schedule, 1, 0) == DROPBP_OK);
  CHECK_FAILS(DROPBP_INVALID, dropbp_plan_draw(plan, schedule, 1, 0xFFFFFFFFu), "micro-step");
  CHECK(dropbp_plan_branches(plan) == 0);

  /* Questions without an answer. */
  dropbp_set_abort_on_misuse(0);
  CHECK_FAILS(-1, dropbp_plan_dropped(plan, 0), "must be drawn before");
  CHECK_FAILS(-1, dropbp_plan_all_dropped(plan), "must be drawn before");
  CHECK(dropbp_plan_draw(plan, schedule, 1, 0) == DROPBP_OK);
  CHECK_FAILS(-1, dropbp_plan_dropped(plan, branches), "branch 8");
  CHECK_FAILS(-1, dropbp_plan_dropped(NULL, 0), "a plan must not be");
  CHECK_FAILS(-1.0, dropbp_schedule_branch_drop_rate(schedule, branches), "below 8");
  CHECK_FAILS(-1.0, dropbp_schedule_gradient_scale(schedule, 0, branches), "below 8");
  CHECK_FAILS(DROPBP_NONE, dropbp_schedule_max_kept(schedule, 4), "group");
  CHECK(dropbp_plan_drop_all(plan, schedule) == DROPBP_OK);
  CHECK_FAILS(DROPBP_NONE, dropbp_plan_slot(plan, 0), "dropped");
  CHECK_FAILS(0, dropbp_state_to_text(schedule, NULL, NULL, 0, NULL, 1000000), "buffer");
  dropbp_set_abort_on_misuse(1);
  dropbp_plan_destroy(plan);
  dropbp_schedule_destroy(schedule);
  dropbp_plan_destroy(NULL), dropbp_schedule_destroy(NULL);
  dropbp_running_destroy(NULL), dropbp_ranges_destroy(NULL);
}

/* With an argument: a fault that must abort the program with a sentence. */
int main(int argc, char** argv) {
  dropbp_check(DROPBP_OK);
  if (argc > 1) {
    dropbp_plan* plan = dropbp_plan_create();
    if (strcmp(argv[1], "question") == 0) {
      printf("%d\n", dropbp_plan_dropped(plan, 0));
    } else {
      dropbp_check(dropbp_plan_draw(plan, NULL, 0, 0));
    }
    return 0;
  }
  CHECK(strcmp(dropbp_last_error(), "") == 0);
  CHECK(dropbp_version() > 0);
  plans_answer();
  rates_change();
  ranges_follow_the_plans();
  states_come_back();
  wrong_use_is_refused();
  return 0;
}
