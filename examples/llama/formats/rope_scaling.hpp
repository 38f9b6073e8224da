// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// RoPE's angles: the base and the ways to stretch them to longer sequences, as config.json says
// them and as frequencies. Formulas and keys follow transformers' modeling_rope_utils.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace llama {

/// How the angles are stretched.
struct RopeScaling {
  enum class Kind : std::uint8_t {
    plain,
    linear,   ///< positions divided by `factor`
    dynamic,  ///< the base grows with the sequence beyond `original_positions`
    llama3,   ///< low frequencies divided by `factor`
    yarn,     ///< Peng et al. 2023 (arXiv 2309.00071)
    longrope  ///< a factor for each frequency: Ding et al. 2024 (arXiv 2402.13753)
  };

  Kind kind = Kind::plain;
  double factor = 1.0;
  std::ptrdiff_t original_positions = 0;   ///< of the training before the stretch
  double low_frequency = 1.0;              ///< llama3: `low_freq_factor`
  double high_frequency = 4.0;             ///< llama3: `high_freq_factor`
  double beta_fast = 32.0;                 ///< yarn
  double beta_slow = 1.0;                  ///< yarn
  bool truncate = true;                    ///< yarn: its bounds are whole numbers
  double attention = 1.0;                  ///< yarn, longrope: multiplies cos and sin
  std::vector<double> short_factors = {};  ///< longrope: up to original_positions
  std::vector<double> long_factors = {};   ///< longrope: beyond them

  bool operator==(const RopeScaling&) const = default;
};

/// What config.json says of RoPE.
struct RopeSettings {
  double theta = 0.0;
  double partial = 1.0;  ///< `partial_rotary_factor`: the share of a head that is turned
  RopeScaling scaling = {};
};

/// What the rest of a config.json says that RoPE depends on.
struct RopeOf {
  std::string layer_type = {};  ///< the member of `rope_parameters` to read, if it has one a type
  double theta = 10000.0;       ///< the base where none is given
  std::ptrdiff_t max_positions = 2048;
  std::ptrdiff_t original_positions = 0;  ///< where none are given; 0: max_positions
  std::ptrdiff_t head_size = 0;
};

/// From a whole config.json: its keys at the top, in `rope_scaling` and in `rope_parameters` must
/// not say two things. Throws std::runtime_error for a kind that is not among RopeScaling's, and
/// for keys it does not know.
[[nodiscard]] RopeSettings read_rope(const std::string& what, const nlohmann::json& root,
                                     const RopeOf& of);

/// The angle a position adds to each pair of the `rotary` elements that are turned, [rotary / 2].
/// `sequence` is the length of the sequences, which decides for dynamic and longrope.
[[nodiscard]] std::vector<double> rope_frequencies(const RopeScaling& scaling, double theta,
                                                   std::ptrdiff_t rotary, std::ptrdiff_t sequence);

}  // namespace llama
