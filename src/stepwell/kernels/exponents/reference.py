"""Unpacking in plain numpy."""

from __future__ import annotations

import numpy as np

from stepwell.kernels.exponents.base import BLOCK, U16, Packed


def unpack(packed: Packed, out: U16) -> None:
    """See `base.UnpackVersion`."""
    rest, pairs = packed.blocks[:, :BLOCK].astype(np.uint16), packed.blocks[:, BLOCK:]
    codes = np.concatenate([pairs & 15, pairs >> 4], axis=1).astype(np.uint16)
    numbers = (rest & 0x80) << 8 | (codes + packed.low) << 7 | rest & 0x7F
    out[:] = numbers.reshape(-1)
    out[packed.positions] = packed.values
