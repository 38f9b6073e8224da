// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What trainer_test.cpp needs of best_weights.cpp, whose local names are also in the files there.
#include "support/emulated.hpp"

#undef DROPBP_LLAMA_CUDA
#include "llama/app/best_weights.cpp"

template void llama::BestWeights::save(BasicTrainer<float, Emulated>&);
template void llama::BestWeights::load(BasicTrainer<float, Emulated>&) const;
