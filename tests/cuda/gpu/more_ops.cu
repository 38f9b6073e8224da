// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT
#include "cuda/gpu/more_ops.hpp"

#include <dropbp/dropbp.cuh>

template struct test::more_ops<float, dropbp::Cuda>;
template struct test::more_ops<dropbp::Half, dropbp::Cuda>;
template struct test::more_ops<dropbp::BFloat16, dropbp::Cuda>;
