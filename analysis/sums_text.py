#!/usr/bin/env python3
"""Windows of a generated text and the character behind each: `python analysis/sums_text.py FILE.npz`.

The text is sums of two numbers below 30, `7+25=32;`, drawn by numpy's PCG64 from seed 0: 8,000 windows of twelve characters to train
on and 2,000 to test, of sums that were drawn separately. `x` [N, 12] and `y` [N] count the characters 0123456789+=; from 0. Operands
are random, so that only the characters behind `=`, and where the marks stand, can be known.
"""
import sys

import numpy as np

CHARACTERS = "0123456789+=;"
WINDOW = 12


def windows(count, rng):
    """`count` windows, each with the character behind it."""
    text = ""
    while len(text) < count + WINDOW:
        a, b = rng.integers(0, 30, 2)
        text += f"{a}+{b}={a + b};"
    tokens = np.array([CHARACTERS.index(c) for c in text[: count + WINDOW]], np.int32)
    return np.lib.stride_tricks.sliding_window_view(tokens[:-1], WINDOW), tokens[WINDOW:].astype(np.int64)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rng = np.random.default_rng(0)
    (x, y), (x_test, y_test) = windows(8000, rng), windows(2000, rng)
    np.savez(sys.argv[1], x=x, y=y, x_test=x_test, y_test=y_test)


if __name__ == "__main__":
    main()
