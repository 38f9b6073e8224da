// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Compiles the communicator over NCCL and its reducer; running them takes a GPU.
#include <dropbp/interop/gradient_reducer.hpp>
#include <dropbp/interop/nccl.hpp>

static_assert(dropbp::Communicator<dropbp::NcclCommunicator>);
template class dropbp::GradientReducer<dropbp::NcclCommunicator>;
