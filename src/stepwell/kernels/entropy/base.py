"""What every version of the coder agrees on: numbers, errors, and what a version is.

The coder is rANS (J. Duda, "Asymmetric numeral systems", arXiv:1311.2540, section 3.3) with
probabilities f/2^12 and a 32-bit state x in [2^16, 2^32), renormalised by whole 16-bit words:

    encode s:  if x >> 20 >= f: emit x mod 2^16, x >>= 16
               x = (x div f) * 2^12 + start + x mod f
    decode s:  slot = x mod 2^12; s is the symbol with start <= slot < start + f
               x = f * (x >> 12) + slot - start
               if x < 2^16: x = x * 2^16 + next word

One word at most goes out or in for a symbol, since f * 2^4 <= x after each decoded one. Symbols
are dealt to lanes in turn (interleaving after F. Giesen, "Interleaved entropy coders",
arXiv:1402.3392): symbol i belongs to lane i mod lanes, all lanes share one stream of words, and
the decoder's order says whose word is next. Encoding runs from the last symbol to the first and
writes the words backwards. All lanes begin at 2^16, so a decoder must end there with no word left:
a check of `16 * lanes` bits that costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PRECISION = 12
TOTAL = 1 << PRECISION
LOWER = 1 << 16  # the least state
MAX_SYMBOLS = 256
MAX_CONTEXTS = 1 << 16
FULL_LANES = 32
COST_BITS = 16
COSTS = np.zeros(TOTAL + 1, np.int64)
"""What a symbol of each frequency costs, in bits / 2^COST_BITS; 0 at frequency 0."""
COSTS[1:] = np.rint((PRECISION - np.log2(np.arange(1, TOTAL + 1))) * (1 << COST_BITS))

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]


class StreamError(ValueError):
    """The bytes are not what `encode` writes for these tables and contexts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pattern:
    """The contexts of consecutive symbols: symbol i has `wide[i mod period]`.

    `wide` is uint16, C-contiguous. Where symbols outnumber the period, it goes on for at least
    FULL_LANES entries past it (repeating itself), so that 32 can be read at any place.
    """

    wide: U16
    period: int

    @classmethod
    def of(cls, contexts: U16, *, count: int) -> Pattern:
        """For `count` symbols whose contexts are these, over and over."""
        row = np.ascontiguousarray(contexts, np.uint16)
        if count <= len(row):
            return cls(wide=row, period=max(1, len(row)))
        period = len(row) * -(-FULL_LANES // len(row))
        return cls(wide=np.resize(row, period + FULL_LANES), period=period)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodeTable:
    """`entries` uint32 [contexts, symbols]: f - 1 in the low 12 bits, start in the next 12.

    A pair that must not occur (f = 0) may hold anything.
    """

    entries: U32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeTable:
    """`entries` uint32 [contexts, 4096], for each slot: slot - start in the low 12 bits, f - 1 in
    the next 12, the symbol on top."""

    entries: U32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChunkTables:
    """Tables of one chunk's own: a symbol that does not occur has no probability. `used`: 256 bits,
    low first, one for each symbol that occurs in any context. `frequencies` uint16 [contexts,
    symbols in use], in 4096ths. `bits`: what the counted symbols cost with them."""

    used: U8
    frequencies: U16
    table: EncodeTable
    bits: float


class Coder(Protocol):
    """One version. Inputs are checked already: contexts and symbols lie inside the table."""

    def fit(self, counts: NDArray[np.int64]) -> ChunkTables:
        """Tables for counts [contexts, 256], none of whose rows is all zero: rounded shares, and
        the difference on the most frequent symbols, a thousandth above the best in bits."""
        ...

    def encode(
        self, symbols: U8, pattern: Pattern, table: EncodeTable, *, lanes: int
    ) -> tuple[U32, U16]:
        """Symbols uint8 [n] -> final states uint32 [lanes], words uint16 in decoding order."""
        ...

    def decode(
        self, words: U16, states: U32, pattern: Pattern, table: DecodeTable, out: U8
    ) -> None:
        """Fill `out` uint8 [n]. StreamError where words run out, are left over, or a lane does
        not end at 2^16. `states` is overwritten."""
        ...

    def decode_prefix(
        self, words: U16, states: U32, pattern: Pattern, table: DecodeTable, out: U8
    ) -> int:
        """As `decode`, of the leading words alone: how many symbols of `out` they give, whole
        rounds of all lanes. What lies behind in `out` is of no use."""
        ...


def lanes_for(count: int) -> int:
    """Lanes for so many symbols: each costs about 2 bytes more, and buys independent work."""
    if count >= 4096:
        return FULL_LANES
    return 8 if count >= 512 else 1
