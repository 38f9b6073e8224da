// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What the branches share: memory pools and checks of arguments.
#pragma once

#include <string>

#include "dropbp/kernels/memory.hpp"
#include "dropbp/ops/attention.hpp"

DROPBP_NAMESPACE_BEGIN
namespace ops {

/// The memory pools of a branch. There are two, so that the activations saved for the backward pass
/// are counted separately from the memory that lives within one call. Pools are handles: branches
/// that are given copies share them.
template <class Backend>
struct BasicBranchMemory {
  BasicMemoryPool<Backend> saved;  ///< saved activations of kept branches, from forward to backward
  BasicMemoryPool<Backend> workspace;  ///< results and temporary tensors
};
using BranchMemory = BasicBranchMemory<Cpu>;  ///< of host memory

namespace detail {

inline void require_branch_input(const char* branch, Index rows, Index columns,
                                 const SequenceShape& shape, Index hidden) {
  if (shape.batch < 1 || shape.sequence < 1 || rows != shape.tokens() || columns != hidden)
    throw_invalid(std::string("the ") + branch +
                      " branch takes a matrix [batch * sequence, hidden], here hidden " +
                      std::to_string(hidden) + ", with batch and sequence of at least 1",
                  shape_text(rows, columns) + " with batch " + std::to_string(shape.batch) +
                      " and sequence " + std::to_string(shape.sequence) + " was given",
                  "pass the SequenceShape of this step");
}

inline void require_saved(const char* branch, Index saved_rows, Index tokens) {
  if (saved_rows != tokens)
    throw_invalid(std::string("the backward pass of the ") + branch +
                      " branch needs what its forward pass saved for " + std::to_string(tokens) +
                      " tokens",
                  std::to_string(saved_rows) + " are saved",
                  "run forward with a Saved, and backward with the same shape");
}

}  // namespace detail
}  // namespace ops
DROPBP_NAMESPACE_END
