// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// llama::LlamaModel on the backend of these tests: for a card it is compiled in the example's
// library, for the emulator here.
#pragma once

#include "cuda/gpu/backend.hpp"

#if defined(DROPBP_TEST_EMULATED)
#undef DROPBP_LLAMA_CUDA
#include "llama/model/model.cpp"
#else
#include "llama/model/model.hpp"
#endif
