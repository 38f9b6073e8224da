// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The names of choices on the command line.
#pragma once

#include <array>

#include "llama/app/named.hpp"
#include "llama/app/options.hpp"

namespace llama {

inline constexpr std::array token_types{Named{TokenType::automatic, "auto"},
                                        Named{TokenType::u16, "u16"}, Named{TokenType::i32, "i32"}};
inline constexpr std::array losses{Named{LossChoice::completion, "completion"},
                                   Named{LossChoice::all, "all"}};
inline constexpr std::array long_samples{Named{LongSamples::cut, "cut"},
                                         Named{LongSamples::skip, "skip"}};
inline constexpr std::array modes{Named{ModeChoice::full, "full"}, Named{ModeChoice::lora, "lora"},
                                  Named{ModeChoice::qlora, "qlora"}};
inline constexpr std::array allocations{
    Named{AllocationChoice::uniform, "uniform"}, Named{AllocationChoice::greedy, "greedy"},
    Named{AllocationChoice::optimal, "optimal"}, Named{AllocationChoice::sharp, "sharp"},
    Named{AllocationChoice::depth, "depth"}};
inline constexpr std::array samplings{Named{SamplingChoice::bernoulli, "bernoulli"},
                                      Named{SamplingChoice::at_least_target, "at-least-target"},
                                      Named{SamplingChoice::fixed_budget, "fixed-budget"}};
inline constexpr std::array sensitivities{Named{SensitivityChoice::gradient_norm, "gradient-norm"},
                                          Named{SensitivityChoice::gradient, "gradient"},
                                          Named{SensitivityChoice::running, "running"}};
inline constexpr std::array scalings{Named{ScalingChoice::none, "none"},
                                     Named{ScalingChoice::inverse_keep_rate, "inverse-keep-rate"}};
inline constexpr std::array progresses{Named{ProgressChoice::automatic, "auto"},
                                       Named{ProgressChoice::always, "always"},
                                       Named{ProgressChoice::never, "never"}};
inline constexpr std::array devices{Named{DeviceChoice::cpu, "cpu"},
                                    Named{DeviceChoice::cuda, "cuda"}};
inline constexpr std::array precisions{Named{PrecisionChoice::automatic, "auto"},
                                       Named{PrecisionChoice::float32, "float32"},
                                       Named{PrecisionChoice::bfloat16, "bfloat16"}};
inline constexpr std::array base_precisions{Named{BasePrecisionChoice::automatic, "auto"},
                                            Named{BasePrecisionChoice::fp8, "fp8"}};
inline constexpr std::array schedules{
    Named{ScheduleChoice::cosine, "cosine"}, Named{ScheduleChoice::linear, "linear"},
    Named{ScheduleChoice::constant, "constant"}, Named{ScheduleChoice::wsd, "wsd"}};
inline constexpr std::array out_formats{Named{OutFormatChoice::safetensors, "safetensors"},
                                        Named{OutFormatChoice::gguf, "gguf"}};
inline constexpr std::array out_dtypes{Named{DType::f32, "f32"}, Named{DType::f16, "f16"},
                                       Named{DType::bf16, "bf16"}};

}  // namespace llama
