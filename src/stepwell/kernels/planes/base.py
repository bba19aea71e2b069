"""Where the bits of a number go.

    bfloat16   s eeeeeeee mmmmmmm            symbol eeeeeeee      low smmmmmmm
    float16    s eeeee mm mmmmmmmm           symbol eeeeemm s     low mmmmmmmm
    float32    s eeeeeeee mmmmmmm m{16}      symbol eeeeeeee      high smmmmmmm, low m{16}

Exponents of K and V take few values; the other bits look random. float16 has no byte of its own
for its exponent: the two mantissa bits and the sign beside it cost the coder 3 bits, as they would
outside. The sign goes last, so that the symbols in use lie side by side.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
Buffer = memoryview


class Kind(enum.IntEnum):
    """How a number is stored. The values are part of encoded bytes."""

    BFLOAT16 = 0
    FLOAT16 = 1
    FLOAT32 = 2

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return 4 if self is Kind.FLOAT32 else 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planes:
    """`symbols` uint8 [n]; `rest` uint8 [n] or, for float32, [3 n]: all lows, then all highs."""

    kind: Kind
    symbols: U8
    rest: U8

    @classmethod
    def empty(cls, kind: Kind, count: int) -> Planes:
        """Room for so many numbers."""
        rest = np.empty(count * (kind.itemsize - 1), np.uint8)
        return cls(kind=kind, symbols=np.empty(count, np.uint8), rest=rest)


class PlanesVersion(Protocol):
    """One version. Parts are flat views of whole numbers, `n` together, at any alignment."""

    def split(self, parts: Sequence[Buffer], planes: Planes) -> None:
        """Fill `planes` from the parts, one after another."""
        ...

    def merge(self, planes: Planes, parts: Sequence[Buffer]) -> None:
        """Fill the parts from `planes`."""
        ...

    def count(self, symbols: U8, segments: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often each symbol occurs in each segment: [len(segments), 256].

        Segments of these many symbols follow each other over and over; `len(symbols)` is a
        multiple of their sum.
        """
        ...
