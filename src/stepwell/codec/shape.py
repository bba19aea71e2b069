"""What the bytes of a block mean: the layout of the pool, as plain numbers.

    block  layer 0: K [kv_heads, tokens, key_dim], V [kv_heads, tokens, value_dim]
           layer 1: K ..., V ...

Layers may differ. A codec that looks at numbers is made for one shape; the value's layout hash
makes sure that it meets no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKV:
    """One layer's heads and the numbers of a head's key and value."""

    kv_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """K or V of one layer in a block: [heads, tokens, dim] at `start`, in numbers."""

    layer: int
    is_key: bool
    start: int
    heads: int
    tokens: int
    dim: int

    @property
    def size(self) -> int:
        """Numbers."""
        return self.heads * self.tokens * self.dim

    @property
    def rows(self) -> int:
        """Vectors of one head and one token."""
        return self.heads * self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """A block of `tokens` tokens over all layers. ValueError for sizes that are no block."""

    dtype: torch.dtype
    tokens: int
    layers: tuple[LayerKV, ...]

    def __post_init__(self) -> None:
        sizes = [self.tokens]
        for layer in self.layers:
            sizes += [layer.kv_heads, layer.key_dim, layer.value_dim]
        if not self.layers or min(sizes) < 1:
            raise ValueError(f"not a block: {self}")

    @property
    def numbers(self) -> int:
        """Numbers of a block."""
        return sum(segment.size for segment in self.segments())

    @property
    def nbytes(self) -> int:
        """Bytes of a block."""
        return self.numbers * self.dtype.itemsize

    def segments(self) -> Iterator[Segment]:
        """K and V of each layer, in the order of the block."""
        start = 0
        for index, layer in enumerate(self.layers):
            for is_key, dim in ((True, layer.key_dim), (False, layer.value_dim)):
                segment = Segment(
                    layer=index,
                    is_key=is_key,
                    start=start,
                    heads=layer.kv_heads,
                    tokens=self.tokens,
                    dim=dim,
                )
                yield segment
                start += segment.size
