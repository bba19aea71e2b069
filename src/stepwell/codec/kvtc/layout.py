"""Rows: one token's keys (or values) of all layers and heads, one after another.

    row  layer 0: head 0 [dim], head 1 [dim] ...; layer 1: ...        p = sum of heads * dim

Keys and values have a layout each, since their head sizes may differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.codec.kvtc.rotary import Rotary


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPart:
    """What one layer adds to a row. `rotary`: None for values and for layers without one."""

    heads: int
    dim: int
    rotary: Rotary | None = None

    @property
    def width(self) -> int:
        """Features of this layer in a row."""
        return self.heads * self.dim


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The layers of a row in the order they run."""

    parts: tuple[LayerPart, ...]

    @property
    def width(self) -> int:
        """Features of a row, p."""
        return sum(part.width for part in self.parts)

    def groups(self, *, layers: int) -> tuple[int, ...]:
        """Widths of groups of so many consecutive layers each (the last may be smaller)."""
        if layers < 1:
            raise ValueError("a group has at least one layer")
        return tuple(
            sum(part.width for part in self.parts[start : start + layers])
            for start in range(0, len(self.parts), layers)
        )

    def gather(self, tensors: Sequence[Tensor], *, positions: Tensor) -> Tensor:
        """Each layer's [heads, tokens, dim] -> rows [tokens, p] float32, turned back to
        position 0. `positions` [tokens]."""
        if len(tensors) != len(self.parts):
            raise ValueError(f"{len(tensors)} layers given, {len(self.parts)} expected")
        columns = []
        for tensor, part in zip(tensors, self.parts, strict=True):
            if tensor.shape != (part.heads, len(positions), part.dim):
                raise ValueError(f"a layer of shape {tuple(tensor.shape)} does not fit the layout")
            heads = tensor.transpose(0, 1).to(torch.float32)
            if part.rotary is not None:
                heads = part.rotary.undo(heads, positions=positions)
            columns.append(heads.flatten(1))
        return torch.cat(columns, dim=1)

    def scatter(self, rows: Tensor, *, positions: Tensor) -> list[Tensor]:
        """The inverse of `gather`: rows [tokens, p] -> each layer's [heads, tokens, dim]."""
        if rows.shape != (len(positions), self.width):
            raise ValueError(f"rows of shape {tuple(rows.shape)} do not fit the layout")
        found, offset = [], 0
        for part in self.parts:
            heads = rows[:, offset : offset + part.width].view(-1, part.heads, part.dim)
            if part.rotary is not None:
                heads = part.rotary.apply(heads, positions=positions)
            found.append(heads.transpose(0, 1))
            offset += part.width
        return found
