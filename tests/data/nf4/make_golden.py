# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

"""Writes golden.txt: NF4 codes and values as bitsandbytes makes them on a CPU.

Usage: python3 make_golden.py > golden.txt    (needs torch and bitsandbytes 0.50)

Its CPU code differs from its GPU kernels, which the library follows, in two places: the 8-bit codes
come from a table with 65536 steps, which now and then is not the nearest number; and a short last
block is divided by its scale, not multiplied by 1 / scale. Cases that show a difference are
refused, so that what is written holds for both.
"""

import sys

import bitsandbytes
import bitsandbytes.functional as functional
import numpy
import torch


def values(rows, columns, seed, kind):
    """Sums of four uniform 12-bit numbers in steps of 2^-14: the scales' mean is then exact."""
    result = numpy.empty(rows * columns, dtype=numpy.float32)
    state = seed
    for i in range(result.size):
        total = 0
        for _ in range(4):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            total += state >> 52
        result[i] = (total - 8190) / 2**14
        if kind == "outliers" and i % 97 == 5:
            result[i] *= 32
        if kind == "zeros" and i // 64 % 3 != 1:
            result[i] = 0
    return result.reshape(rows, columns)


def fnv1a(data):
    """64 bits over the bytes."""
    state = 0xCBF29CE484222325
    for byte in data:
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return f"{state:016x}"


def require(condition, what):
    if not condition:
        sys.exit(f"make_golden.py: {what}; take another seed.")


def case(name, rows, columns, seed, kind):
    x = values(rows, columns, seed, kind)
    codes, state = functional.quantize_4bit(
        torch.from_numpy(x), blocksize=64, compress_statistics=True, quant_type="nf4")
    _, plain = functional.quantize_4bit(torch.from_numpy(x), blocksize=64, quant_type="nf4")
    restored = functional.dequantize_4bit(codes, state).numpy()

    numbers = state.state2.code.numpy()
    middles = (numbers[1:] + numbers[:-1]) * numpy.float32(0.5)
    left = plain.absmax.numpy() - state.offset.numpy()
    for first in range(0, left.size, 256):
        part = left[first:first + 256]
        largest = numpy.abs(part).max()
        if largest > 0:
            nearest = numpy.searchsorted(middles, part * (numpy.float32(1) / largest))
            require(
                (nearest == state.absmax.numpy()[first : first + 256]).all(),
                "an 8-bit code is not the nearest",
            )
    rest = x.size % 64
    if rest and x.reshape(-1)[-rest:].any():
        tail = x.reshape(-1)[-rest:]
        scale = numpy.abs(tail).max()
        bounds = (state.code[1:] + state.code[:-1]).numpy() / numpy.float32(2)
        same = numpy.searchsorted(bounds, tail / scale) == numpy.searchsorted(
            bounds, tail * (numpy.float32(1) / scale)
        )
        require(same.all(), "dividing by the scale of the last block matters")

    codes = codes.numpy().tobytes()
    restored = restored.astype("<f4").tobytes()
    short = x.size <= 256
    print("case", name, rows, columns, seed, kind)
    print("codes", codes.hex() if short else fnv1a(codes))
    print("scales", state.absmax.numpy().tobytes().hex())
    print("group_scales", state.state2.absmax.numpy().astype("<f4").tobytes().hex())
    print("offset", state.offset.numpy().astype("<f4").tobytes().hex())
    print("values", restored.hex() if short else fnv1a(restored))


print(f"bitsandbytes {bitsandbytes.__version__} torch {torch.__version__}")
print("numbers", functional.create_dynamic_map().numpy().astype("<f4").tobytes().hex())
case("one_block", 1, 64, 1, "plain")
case("short_last_block_of_one", 5, 13, 2, "plain")
case("less_than_a_block", 3, 7, 3, "plain")
case("four_blocks", 8, 32, 4, "plain")
case("zeros", 4, 63, 5, "zeros")
case("rows_end_within_blocks", 305, 129, 6, "plain")
case("outliers", 300, 128, 7, "outliers")
