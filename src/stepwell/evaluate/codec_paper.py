"""`kvtc-paper` as a rival: its transforms, its plans, and its measured points."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stepwell.codec.kvtc.gather import Gatherer
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.matrix import Precision
from stepwell.codec.kvtc.paper import BlockPlan, Order, PaperCoder
from stepwell.codec.kvtc.paper_plan import Programme, budget_bits, measure_blocks
from stepwell.codec.kvtc.transform import Basis, fit_basis
from stepwell.evaluate.codec_measure import Energy, Point, measure

Deflate = Callable[[bytes], bytes]


@dataclass(frozen=True)
class PaperSide:
    """Keys or values: features start:stop, their transform, and the filled table."""

    start: int
    stop: int
    basis: Basis
    programme: Programme

    def plan(self, ratio: float) -> BlockPlan:
        """The best blocks at a nominal ratio."""
        return self.programme.plan(budget_bits(width=self.stop - self.start, ratio=ratio))


@dataclass(frozen=True)
class Paper:
    """Both sides."""

    keys: PaperSide
    values: PaperSide

    @classmethod
    def train(
        cls,
        gathered: Gatherer,
        keys: RowLayout,
        values: RowLayout,
        *,
        group_layers: int = 0,
        least_ratio: float = 4.0,
        sample: int = 2048,
    ) -> Paper:
        """`group_layers`: layers of a transform, 0 for all (as in the paper). `least_ratio`: the
        least that plans are asked for; `sample`: tokens on which blocks' errors are measured."""
        sides, start = [], 0
        for layout in (keys, values):
            stop = start + layout.width
            groups = layout.groups(layers=group_layers) if group_layers else None
            basis = fit_basis(
                gathered.moments.part(start, stop), groups=groups, precision=Precision.FLOAT16
            )
            rows = gathered.sample.rows()[:sample, start:stop]
            budget = budget_bits(width=layout.width, ratio=least_ratio)
            programme = Programme(measure_blocks(basis.forward(rows)), budget=budget)
            sides.append(PaperSide(start, stop, basis, programme))
            start = stop
        return cls(*sides)

    def point(
        self,
        chunks: Sequence[Tensor],
        energy: Energy,
        *,
        ratio: float,
        order: Order,
        deflate: Deflate | None = None,
    ) -> tuple[Point, float, float]:
        """(both together, bytes a token of keys, of values) at a nominal ratio. `deflate`:
        another compressor than zlib, which is then trusted to be lossless."""
        sides = (self.keys, self.values)
        coders = [
            PaperCoder(plan=side.plan(ratio), rank=side.basis.rank, order=order) for side in sides
        ]
        sizes = [0, 0]

        def run(rows: Tensor) -> tuple[int, int, Tensor]:
            parts = []
            for number, (side, coder) in enumerate(zip(sides, coders, strict=True)):
                coefficients = side.basis.forward(rows[:, side.start : side.stop])
                packed = coder.pack(coefficients)
                data = (deflate or _zlib)(packed)
                plain = packed if deflate else zlib.decompress(data)
                sizes[number] += len(data)
                parts.append(side.basis.backward(coder.unpack(plain, tokens=len(rows))))
            return 0, 0, torch.cat(parts, 1)

        point = measure(chunks, run, energy)
        tokens = sum(map(len, chunks))
        each = [size / tokens for size in sizes]
        headers = sum(4 * len(coder.plan.active()) for coder in coders)
        found = Point(
            bytes=sum(each),
            payload_bytes=sum(each) - headers,
            key_error=point.key_error,
            value_error=point.value_error,
            total_error=point.total_error,
        )
        return found, each[0], each[1]

    def matrix_bytes(self, ratio: float) -> int:
        """Bytes of both matrices, cut to the columns that this ratio keeps, in 16 bits."""
        return sum(
            2 * (side.stop - side.start) * side.plan(ratio).rank
            for side in (self.keys, self.values)
        )

    def describe(self, ratio: float) -> dict[str, Any]:
        """The plans, for JSON."""
        return {
            name: [[b.start, b.size, b.kind.name.lower()] for b in side.plan(ratio).blocks]
            for name, side in (("keys", self.keys), ("values", self.values))
        }


def _zlib(data: bytes) -> bytes:
    return zlib.compress(data, 6)
