// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Forward declarations of the core's public types. They have the default template arguments, so
// every header that defines one of these templates includes this one.
#pragma once

#include <cstdint>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN

// base/error.hpp, base/deferred.hpp
enum class ErrorKind : std::uint8_t;
class DeferredNumber;

// base/philox.hpp
class CounterRandom;
enum class RandomStream : std::uint8_t;

// backend/kernels.hpp, tensor.hpp
struct Cpu;
struct Cuda;
struct BFloat16;
struct Half;
template <class Backend, class Scalar>
struct backend_kernels;
template <class Backend>
struct device_runtime;
template <class Backend>
struct device_launcher;
template <class T>
struct tensor_traits;

// flops.hpp
struct AttentionShape;
struct MlpShape;

// model.hpp
struct BranchDecision;
struct BranchCalls;
struct BranchTimes;

// plan.hpp
class DropPlan;
enum class PlanPer : std::uint8_t;

// parameter_ranges.hpp
struct ParameterTensor;
struct TrainedRange;
class ParameterRanges;

// policy/
struct SamplingInput;
struct BernoulliSampling;
struct AtLeastTargetSampling;
struct FixedBudgetSampling;
struct PerStageBudgetSampling;
enum class BranchWeight : std::uint8_t;
struct AllocationInput;
struct UniformAllocation;
struct GreedyAllocation;
struct SquaredRate;
struct ScaledVariance;
template <class Objective = SquaredRate>
struct OptimalAllocation;
struct SharpAllocation;
struct DepthAllocation;
struct GradientNormSensitivity;
struct GradientSensitivity;
class RunningSensitivity;

// schedule.hpp
struct DropOptions;
enum class GradientScaling : std::uint8_t;
template <class SamplingPolicy = BernoulliSampling>
class DropSchedule;

// layer.hpp, handler.hpp
template <class Op>
class DropBPLayer;
template <class ModelType, class AllocationPolicy = GreedyAllocation,
          class SamplingPolicy = BernoulliSampling>
class DropBPHandler;

// adaptive.hpp
struct AdaptiveOptions;
template <class ModelType, class AllocationPolicy = SharpAllocation,
          class SamplingPolicy = BernoulliSampling>
class AdaptiveHandler;

// report.hpp, state.hpp, steady_clock.hpp
struct BranchReport;
struct Report;
struct HandlerState;
struct SteadyClock;

DROPBP_NAMESPACE_END
