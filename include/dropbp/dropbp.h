/* SPDX-FileCopyrightText: 2026 The dropbp authors */
/* SPDX-License-Identifier: MIT */

/** @file
 * The C interface of dropbp, for C99, for C++11 to 17, for programs without exceptions and for
 * foreign-function interfaces of other languages: plans without tensors, for trainers that own
 * their loops.
 *
 * Link dropbp::c (CMake) or `pkg-config --libs dropbp-c`, or compile the implementation in one
 * C++20 file of yours, which defines DROPBP_IMPLEMENTATION and then includes this header.
 *
 * Errors. A function that returns dropbp_status or a pointer reports failure by it and leaves a
 * sentence in dropbp_last_error(). Every other function answers a question; a question that has no
 * answer (a branch beyond the last, a null handle) is a fault of the program. It prints the
 * sentence on stderr and aborts, because a C program seldom looks at such an answer and would train
 * something else in silence. dropbp_set_abort_on_misuse(0) makes these functions return the value
 * that stands in their description. A null handle is refused with the sentence of the failure
 * before, so that a program may leave what a create function returned unchecked until its first
 * use.
 *
 * Threads. A const handle may be used by any number of threads at a time; any other use of a handle
 * needs it alone. The last error belongs to its thread. No exception leaves a function.
 *
 * Branches are numbered from 0 in the order of the forward pass.
 */
#ifndef DROPBP_DROPBP_H
#define DROPBP_DROPBP_H

#include <stddef.h>
#include <stdint.h>

#ifndef DROPBP_API
#if defined(__GNUC__)
/** Before every function. */
#define DROPBP_API __attribute__((visibility("default")))
/** Before functions whose failure must not be overlooked. */
#define DROPBP_MUST_CHECK __attribute__((warn_unused_result))
#else
#define DROPBP_API
#define DROPBP_MUST_CHECK
#endif
#endif
#ifndef DROPBP_MUST_CHECK
#define DROPBP_MUST_CHECK
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** No branch, no slot, no parameter. */
#define DROPBP_NONE ((size_t)-1)
/** In place of a branch of dropbp_ranges: trained in every step. */
#define DROPBP_ALWAYS ((size_t)-1)
/** In place of a branch of dropbp_ranges: frozen. */
#define DROPBP_NEVER ((size_t)-2)

/** Of functions that may fail. */
typedef int32_t dropbp_status;
enum {
  DROPBP_OK = 0,
  DROPBP_INVALID = 1,   /**< an argument that the caller can correct */
  DROPBP_ORDER = 2,     /**< calls in the wrong order */
  DROPBP_NO_MEMORY = 3, /**< memory is exhausted */
  DROPBP_FAILED = 4     /**< anything else */
};

/** dropbp_options::sampling: how a plan is drawn from the rates (docs/choices.md). */
enum {
  DROPBP_BERNOULLI = 0,       /**< each branch on its own: exact rates, nothing is bounded */
  DROPBP_AT_LEAST_TARGET = 1, /**< the published sampler */
  DROPBP_FIXED_BUDGET = 2     /**< exact rates and a bound on what is kept: smaller arenas */
};

/** dropbp_options::weigh: what DROPBP_FIXED_BUDGET bounds. */
enum {
  DROPBP_COUNT = 0, /**< the number of kept branches */
  DROPBP_COST = 1,  /**< their costs */
  DROPBP_BYTES = 2  /**< the bytes that they save: dropbp_options::bytes */
};

/** How dropbp_schedule_allocate shares a rate out by sensitivity. */
enum {
  DROPBP_GREEDY = 0,  /**< the published allocation, in steps of 0.1 */
  DROPBP_OPTIMAL = 1, /**< the minimiser of the same objective */
  DROPBP_UNIFORM = 2, /**< the same rate for all branches */
  DROPBP_DEPTH = 3    /**< the highest branches are kept, the lowest dropped */
};

/** What to drop. Begin with dropbp_default_options(), which fills every field. */
typedef struct dropbp_options {
  uint64_t struct_size;     /**< of this struct, as dropbp_default_options() sets it */
  double drop_rate;         /**< target rate in [0, 1]; 0.5 */
  uint64_t seed;            /**< of the plans, equal on all ranks; 0 */
  uint64_t warmup_steps;    /**< rates grow from 0 at step 0 to all at this one; 0 */
  int32_t trainable_below;  /**< something below the lowest branch trains (an embedding); 1 */
  int32_t plan_per_step;    /**< all micro-steps of a step share one plan; 0: each its own */
  int32_t gradient_scaling; /**< kept branches' gradients shall grow by 1 / (1 - p):
                                 dropbp_schedule_gradient_scale; 0 */
  int32_t sampling;         /**< DROPBP_BERNOULLI and so on */
  int32_t weigh;            /**< DROPBP_COUNT and so on */
  int32_t kinds; /**< branches of that many kinds in turns (attention, MLP, attention, ...: 2), each
                       kind with an arena of its own; 0: `groups` says it */
  double cap;    /**< most weight that DROPBP_FIXED_BUDGET keeps; 0: no cap */
  const double* bytes;      /**< of each branch, for DROPBP_BYTES; else NULL */
  const uint32_t* groups;   /**< the kind of each branch, numbered from 0; NULL: all are of one */
  const uint8_t* trainable; /**< of each branch, 0 where none of its parameters trains; NULL: all
                                 train */
  const uint32_t* parents;  /**< of each branch, the one that it is nested in, or itself; NULL:
                                 none is nested */
} dropbp_options;

/** A part of the array of parameters that a step has trained. */
typedef struct dropbp_range {
  size_t branch;        /**< whose parameters these are; DROPBP_ALWAYS for the rest */
  size_t offset;        /**< of the first element */
  size_t count;         /**< number of elements */
  uint64_t updates;     /**< steps that have trained it, with this one: Adam's t */
  uint64_t micro_steps; /**< of this step that have added to its gradient: for means */
} dropbp_range;

typedef struct dropbp_schedule dropbp_schedule; /**< rates, sampling and seed */
typedef struct dropbp_plan dropbp_plan;         /**< what one micro-step drops */
typedef struct dropbp_running dropbp_running;   /**< sensitivities estimated from steps */
typedef struct dropbp_ranges dropbp_ranges;     /**< which parameters a step trains */

/* ---- the library ---- */

/** MAJOR * 10000 + MINOR * 100 + PATCH of the linked implementation. */
DROPBP_API uint32_t dropbp_version(void);

/** Of the last function that failed in this thread: what is required, what was given, what to do.
 * "" before the first. Valid until the next failure in this thread. */
DROPBP_API const char* dropbp_last_error(void);

/** Prints the last error on stderr and aborts, unless `status` is DROPBP_OK: for programs that have
 * no other use for a failure. */
DROPBP_API void dropbp_check(dropbp_status status);

/** Whether questions without an answer abort the program; 1 at first. For all threads. */
DROPBP_API void dropbp_set_abort_on_misuse(int aborts);

/* ---- schedule ---- */

/** The defaults that stand beside each field. */
DROPBP_API dropbp_options dropbp_default_options(void);

/** `costs`: of each branch in any common unit (FLOPs, seconds); NULL: all equal. `options`: NULL
 * for the defaults. Everything is copied. NULL on failure. */
DROPBP_API DROPBP_MUST_CHECK dropbp_schedule* dropbp_schedule_create(size_t branches,
                                                                     const double* costs,
                                                                     const dropbp_options* options);
/** NULL is allowed, as in every destroy function. */
DROPBP_API void dropbp_schedule_destroy(dropbp_schedule* schedule);

/** Number of branches; 0 on misuse. */
DROPBP_API size_t dropbp_schedule_branches(const dropbp_schedule* schedule);

/** The most branches of a group that any plan keeps at these rates: the slots that an arena for the
 * group's activations must have. DROPBP_NONE on misuse. */
DROPBP_API size_t dropbp_schedule_max_kept(const dropbp_schedule* schedule, uint32_t group);

/** The slots of an arena with one more, the last, where dropped branches compute: max_kept + 1, or
 * the number of the group's branches, if that is smaller. See dropbp_plan_slot_or. A change of the
 * rates may change it, and dropbp_state_from_text changes them. 0 on misuse. */
DROPBP_API size_t dropbp_schedule_slots(const dropbp_schedule* schedule, uint32_t group);

/** The target rate; -1 on misuse. */
DROPBP_API double dropbp_schedule_drop_rate(const dropbp_schedule* schedule);

/** The rate of a branch, after the warm-up; -1 on misuse. */
DROPBP_API double dropbp_schedule_branch_drop_rate(const dropbp_schedule* schedule, size_t branch);

/** One rate for all branches, and the new target. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_schedule_set_drop_rate(dropbp_schedule* schedule,
                                                                         double rate);

/** A rate for each branch; the target becomes their mean weighted by cost. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_schedule_set_drop_rates(dropbp_schedule* schedule,
                                                                          const double* rates);

/** Shares the target rate out by sensitivity, one a branch. `allocation`: DROPBP_GREEDY and so on.
 * DROPBP_UNIFORM and DROPBP_DEPTH need no sensitivities (NULL) and ignore min_rate, the lowest rate
 * of a branch. On failure the rates stay as they were. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_schedule_allocate(dropbp_schedule* schedule,
                                                                    const double* sensitivities,
                                                                    int32_t allocation,
                                                                    double min_rate);

/** 1 / (1 - p): the factor on the learning rate that makes up for the steps without a gradient; -1
 * on misuse. */
DROPBP_API double dropbp_schedule_learning_rate_scale(const dropbp_schedule* schedule,
                                                      size_t branch);

/** What to multiply a kept branch's share of the gradient by in this step; 1 without
 * gradient_scaling, -1 on misuse. */
DROPBP_API double dropbp_schedule_gradient_scale(const dropbp_schedule* schedule, uint64_t step,
                                                 size_t branch);

/* ---- plan ---- */

/** An empty plan, to draw into. NULL on failure. */
DROPBP_API DROPBP_MUST_CHECK dropbp_plan* dropbp_plan_create(void);
DROPBP_API void dropbp_plan_destroy(dropbp_plan* plan); /**< see dropbp_schedule_destroy */

/** Draws the plan of a micro-step (0 where gradients are not accumulated); call it before the
 * forward pass. A pure function: the same on every rank and after a resume. On failure the plan
 * becomes empty. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_plan_draw(dropbp_plan* plan,
                                                            const dropbp_schedule* schedule,
                                                            uint64_t step, uint32_t micro_step);

/** A plan of your own for the schedule's branches: `dropped` has one byte a branch, not zero where
 * dropped; NULL drops nothing. For measurements of sensitivity; max_kept does not bound it. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_plan_set(dropbp_plan* plan,
                                                           const dropbp_schedule* schedule,
                                                           const uint8_t* dropped);

/** Drops everything: for validation passes, which have no backward pass. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_plan_drop_all(dropbp_plan* plan,
                                                                const dropbp_schedule* schedule);

/** Number of branches, 0 for an empty plan and on misuse. */
DROPBP_API size_t dropbp_plan_branches(const dropbp_plan* plan);

/** Whether a branch needs no backward pass and saves nothing: 1 or 0; -1 on misuse. */
DROPBP_API int dropbp_plan_dropped(const dropbp_plan* plan, size_t branch);

/** Where a kept branch saves its activations: 0 for the lowest kept branch of its group, and so on
 * upwards, below dropbp_schedule_max_kept. A dropped branch has none, and asking for it is misuse:
 * DROPBP_NONE. */
DROPBP_API size_t dropbp_plan_slot(const dropbp_plan* plan, size_t branch);

/** The slot of a kept branch, and `scratch` for a dropped one: dropbp_schedule_slots - 1. Dropped
 * branches compute there one after the other; nothing reads it afterwards. DROPBP_NONE on misuse,
 * also where the plan keeps more branches of the group than an arena with this scratch holds. */
DROPBP_API size_t dropbp_plan_slot_or(const dropbp_plan* plan, size_t branch, size_t scratch);

/** Whether a kept branch must compute the gradient of its input: something below uses it. 1 or 0;
 * -1 on misuse. */
DROPBP_API int dropbp_plan_input_gradient_needed(const dropbp_plan* plan, size_t branch);

/** Whether no branch is kept: 1 or 0; -1 on misuse. */
DROPBP_API int dropbp_plan_all_dropped(const dropbp_plan* plan);

/** Whether the branches need a backward pass: one is kept, or something below them trains. 1 or 0;
 * -1 on misuse. */
DROPBP_API int dropbp_plan_backward_needed(const dropbp_plan* plan);

/** The lowest kept branch, where the backward pass may stop if nothing below trains; the number of
 * branches if all are dropped; DROPBP_NONE on misuse. */
DROPBP_API size_t dropbp_plan_lowest_kept(const dropbp_plan* plan);

/** 64 bits over step, rates and decisions: equal on all ranks, or they have drifted apart. 0 on
 * misuse. */
DROPBP_API uint64_t dropbp_plan_fingerprint(const dropbp_plan* plan);

/* ---- running sensitivity: estimates from ordinary steps, for dropbp_schedule_allocate ---- */

/** NULL on failure. */
DROPBP_API DROPBP_MUST_CHECK dropbp_running* dropbp_running_create(size_t branches);
DROPBP_API void dropbp_running_destroy(dropbp_running* running); /**< see dropbp_schedule_destroy */

/** A kept branch in this step: the squared norm of the gradients of its own parameters, and the
 * norm of the residual stream's gradient above the branch divided by that below (1 where unknown).
 * Where gradients are sums over micro-steps or scaled, divide the norm's root by the number of
 * micro-steps that kept the branch and by the scale first. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_running_observe(dropbp_running* running,
                                                                  size_t branch,
                                                                  double squared_gradient_norm,
                                                                  double stream_ratio);

/** Call it once a step, after all observations; branches without one count as dropped. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_running_end_step(dropbp_running* running);

/** Writes one sensitivity a branch. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status
dropbp_running_sensitivities(const dropbp_running* running, double* sensitivities);

/* ---- flat parameters: which parts of one array a step trains ---- */

/** `parameters`: elements of the array. What no tensor covers belongs to no branch and is trained
 * in every step. NULL on failure. */
DROPBP_API DROPBP_MUST_CHECK dropbp_ranges* dropbp_ranges_create(size_t branches,
                                                                 size_t parameters);
DROPBP_API void dropbp_ranges_destroy(dropbp_ranges* ranges); /**< see dropbp_schedule_destroy */

/** Assigns `layers` equal parts of `count` elements, which lie one after the other from `offset`
 * on: a tensor laid out (layers, ...). The first belongs to `branch`, each next one to that
 * `branch_step` above; or all are DROPBP_ALWAYS or DROPBP_NEVER trained. Elements that another
 * tensor has are an error. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_ranges_add(dropbp_ranges* ranges, size_t branch,
                                                             size_t branch_step, size_t layers,
                                                             size_t offset, size_t count);

/** A micro-step of the current step had this plan; where gradients are accumulated. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_ranges_observe(dropbp_ranges* ranges,
                                                                 const dropbp_plan* plan);

/** Ends the step: counts its update, and sets `*first` to an array of the parts that it trains,
 * those of branches that a plan kept and all that always trains, in ascending order. An entry of
 * count 0 ends the array, which is valid until the next call; on failure it has no other. `plan`:
 * that of the last micro-step; NULL where all were observed. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_ranges_end_step(dropbp_ranges* ranges,
                                                                  const dropbp_plan* plan,
                                                                  const dropbp_range** first);

/** The optimizer leaves this step out (an overflow): nothing is counted. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_ranges_skip_step(dropbp_ranges* ranges);

/* ---- checkpoints ---- */

/** Writes the state between two steps as text, with a final 0 byte, into `buffer` where `size`
 * bytes are enough; else writes nothing. `running` and `ranges` may be NULL. Returns the length of
 * the text without that byte; 0 on misuse. With size 0 it only tells the length. */
DROPBP_API size_t dropbp_state_to_text(const dropbp_schedule* schedule,
                                       const dropbp_running* running, const dropbp_ranges* ranges,
                                       uint64_t next_step, char* buffer, size_t size);

/** Goes on from such a text: seed, rates (also the target rate), estimates and counts as they were
 * saved. The other options are not in it: create the schedule with the same ones, or other plans
 * follow. Everything is as it was on failure, also where the text has a part that is NULL here, or
 * lacks one that is not. */
DROPBP_API DROPBP_MUST_CHECK dropbp_status dropbp_state_from_text(const char* text,
                                                                  dropbp_schedule* schedule,
                                                                  dropbp_running* running,
                                                                  dropbp_ranges* ranges,
                                                                  uint64_t* next_step);

#ifdef __cplusplus
}
#endif

#endif

#ifdef DROPBP_IMPLEMENTATION
#include "dropbp/c/functions.hpp"
#endif
