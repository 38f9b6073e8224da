// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// llama::LlamaModel for the backend of these tests. The example's library contains it for a GPU;
// this file instantiates it for the emulator.
#pragma once

#include "cuda/gpu/backend.hpp"

#if defined(DROPBP_TEST_EMULATED)
#undef DROPBP_LLAMA_CUDA
#include "llama/model/model.cpp"
#else
#include "llama/model/model.hpp"
#endif
