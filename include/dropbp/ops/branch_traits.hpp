// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What differs between the branches of families of models; a light header for their configs.
#pragma once

#include <string>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// The function of a gated MLP's gate.
enum class Gate {
  silu,      ///< SwiGLU
  gelu_tanh  ///< GeGLU, with the tanh approximation of GELU
};

/// Which norms the query and key heads have before they are rotated.
enum class HeadNorm {
  none,
  per_head,  ///< one weight for all heads (Qwen3)
  whole_row  ///< all heads of a row together (OLMo 2)
};

/// Which norms a branch has, by the names of Hugging Face's checkpoints; an empty name: none.
struct BranchNormNames {
  std::string input;   ///< "input_layernorm"
  std::string output;  ///< of the result, before it joins the residual stream
};

}  // namespace ops
DROPBP_NAMESPACE_END
