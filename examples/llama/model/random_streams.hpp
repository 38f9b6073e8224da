// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// The keys that the trainer uses with the library's counter-based generator. They differ from those
// of the plans, so the random numbers are independent.
#pragma once

#include <dropbp/base/philox.hpp>

namespace llama {

inline constexpr auto weight_stream = dropbp::RandomStream::user;  ///< step: index of the tensor
inline constexpr auto batch_stream =
    static_cast<dropbp::RandomStream>(128 + 1);  ///< step and micro-step of training
inline constexpr auto adapter_stream =
    static_cast<dropbp::RandomStream>(128 + 2);  ///< step: index of the adapter

inline constexpr auto shuffle_stream =
    static_cast<dropbp::RandomStream>(128 + 3);  ///< step: epoch over the samples
inline constexpr auto split_stream =
    static_cast<dropbp::RandomStream>(128 + 4);  ///< which samples are held out
inline constexpr auto token_stream =
    static_cast<dropbp::RandomStream>(128 + 5);  ///< step: number of the token that is written

}  // namespace llama
