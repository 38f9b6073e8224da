// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// What a run in trainer_test.cpp needs of files whose local names are also in those that it
// includes.
#include "support/emulated.hpp"

#undef DROPBP_LLAMA_CUDA
#include "llama/app/best_weights.cpp"
#include "llama/app/trials.cpp"
#include "llama/model/cached_forward.cpp"

template void llama::BestWeights::save(BasicTrainer<float, Emulated>&);
template void llama::BestWeights::load(BasicTrainer<float, Emulated>&) const;
template class llama::WholeForward<float, Emulated>;
template std::optional<llama::Trials> llama::decide_drop_rate<float, Emulated>(
    Options&, const LlamaConfig&, const TrainingData&, Ranks&,
    const std::function<void(std::string_view)>&);
