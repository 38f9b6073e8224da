// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Which random numbers of the library's counter-based generator the trainer uses for what. The
// plans have streams of their own, so that neither disturbs the other.
#pragma once

#include <dropbp/base/philox.hpp>

namespace llama {

inline constexpr auto weight_stream = dropbp::RandomStream::user;  ///< step: number of the tensor
inline constexpr auto batch_stream =
    static_cast<dropbp::RandomStream>(128 + 1);  ///< step and micro-step of training
inline constexpr auto adapter_stream =
    static_cast<dropbp::RandomStream>(128 + 2);  ///< step: number of the adapter

inline constexpr auto shuffle_stream =
    static_cast<dropbp::RandomStream>(128 + 3);  ///< step: epoch over the samples
inline constexpr auto split_stream =
    static_cast<dropbp::RandomStream>(128 + 4);  ///< which samples are held out
inline constexpr auto token_stream =
    static_cast<dropbp::RandomStream>(128 + 5);  ///< step: number of the token that is written

}  // namespace llama
