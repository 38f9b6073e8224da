// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "llama/app/choices.hpp"

namespace llama {

std::string_view name_of(TokenType choice) noexcept { return find_name(token_types, choice); }
std::string_view name_of(LossChoice choice) noexcept { return find_name(losses, choice); }
std::string_view name_of(LongSamples choice) noexcept { return find_name(long_samples, choice); }
std::string_view name_of(ModeChoice choice) noexcept { return find_name(modes, choice); }
std::string_view name_of(AllocationChoice choice) noexcept {
  return find_name(allocations, choice);
}
std::string_view name_of(SamplingChoice choice) noexcept { return find_name(samplings, choice); }
std::string_view name_of(SensitivityChoice choice) noexcept {
  return find_name(sensitivities, choice);
}
std::string_view name_of(ScalingChoice choice) noexcept { return find_name(scalings, choice); }
std::string_view name_of(ProgressChoice choice) noexcept { return find_name(progresses, choice); }
std::string_view name_of(DeviceChoice choice) noexcept { return find_name(devices, choice); }
std::string_view name_of(PrecisionChoice choice) noexcept { return find_name(precisions, choice); }
std::string_view name_of(BasePrecisionChoice choice) noexcept {
  return find_name(base_precisions, choice);
}
std::string_view name_of(ScheduleChoice choice) noexcept { return find_name(schedules, choice); }
std::string_view name_of(OutFormatChoice choice) noexcept { return find_name(out_formats, choice); }

}  // namespace llama
