"""The format, and the way into it.

    blocks     uint8 [n / 64, 96]: of 64 numbers the sign and the 7 bits of the mantissa, a byte
               each; then 32 bytes with the codes of number i in the low half of byte i, of number
               32 + i in the high half
    positions  uint32 [e] and values uint16 [e]: numbers whose exponent has no code, as they are

The exponent of code c is `low` + c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]

BLOCK = 64
"""Numbers that are packed together; there must be whole blocks of them."""
BLOCK_BYTES = BLOCK + BLOCK // 2
_CODES = 16
_MOST_ASIDE = 1 / 64  # of all numbers; with more, 6 bytes each undo the gain
_CHUNK = 1 << 20  # numbers at a time, so that packing needs little memory beside


@dataclass(frozen=True, slots=True)
class Packed:
    """Numbers in 12 bits, and those beside."""

    low: int
    blocks: U8
    positions: U32
    values: U16

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return self.blocks.nbytes + self.positions.nbytes + self.values.nbytes


class UnpackVersion(Protocol):
    """One version."""

    def unpack(self, packed: Packed, out: U16) -> None:
        """The bits of all numbers again: uint16 [n], contiguous."""
        ...


def pack(numbers: U16) -> Packed | None:
    """Bits of bfloat16 [n], n a multiple of BLOCK; None where too many exponents have no code."""
    assert len(numbers) % BLOCK == 0, "whole blocks"
    counts = np.zeros(256, np.int64)
    chunks = [numbers[i : i + _CHUNK] for i in range(0, len(numbers), _CHUNK)]
    for chunk in chunks:
        counts += np.bincount(_exponents(chunk), minlength=256)
    within = np.convolve(counts, np.ones(_CODES, np.int64), mode="valid")
    low = int(within.argmax())
    if len(numbers) - int(within[low]) > _MOST_ASIDE * len(numbers):
        return None
    blocks = np.empty((len(numbers) // BLOCK, BLOCK_BYTES), np.uint8)
    positions, done = [], 0
    for chunk in chunks:
        codes = _exponents(chunk) - np.uint8(low)  # wraps below: no code either
        aside = codes >= _CODES
        positions.append(done + np.flatnonzero(aside))
        codes[aside] = 0
        codes = codes.reshape(-1, BLOCK)
        out = blocks[done // BLOCK : (done + len(chunk)) // BLOCK]
        out[:, :BLOCK] = ((chunk >> 8) & 0x80 | chunk & 0x7F).reshape(-1, BLOCK)
        out[:, BLOCK:] = codes[:, : BLOCK // 2] | codes[:, BLOCK // 2 :] << 4
        done += len(chunk)
    places = np.concatenate(positions).astype(np.uint32)
    return Packed(low, blocks, places, numbers[places])


def _exponents(numbers: U16) -> U8:
    return (numbers >> 7).astype(np.uint8)
