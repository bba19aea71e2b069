"""The module over weights in panels, and the call into compiled code.

Activations are bfloat16. int8 weights meet them as they are while few rows are computed (the time
goes into reading weights), and as int8, rounded per row and group, when there are many.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from stepwell.kernels.linear import activations, cpu_tiles
from stepwell.kernels.linear import cpu_kernel as compiled
from stepwell.kernels.linear.base import PackedLinear, flat_rows
from stepwell.kernels.linear.layout import (
    Panels,
    from_bfloat16,
    from_lossless,
    from_quantized,
)
from stepwell.kernels.linear.lossless import Aside
from stepwell.kernels.linear.quantize import NF4_LEVELS, WeightFormat, quantize
from stepwell.kernels.linear.units import UNIT_ROWS
from stepwell.kernels.native import dot, team
from stepwell.kernels.pages import Slabs

_KINDS = {
    WeightFormat.BFLOAT16: cpu_tiles.BFLOAT16,
    WeightFormat.LOSSLESS: cpu_tiles.LOSSLESS,
    WeightFormat.INT8: cpu_tiles.BYTES,
    WeightFormat.INT4: cpu_tiles.NIBBLES,
    WeightFormat.NF4: cpu_tiles.NIBBLES,
}
_RUN_SHARE = 0.75  # of the work goes by long runs
_UNITS_PER_THREAD = 4  # at least, so that no thread waits long for the last
_LEAST_BLOCK = 96  # rows of a block that is smaller for the threads' sake
_DYNAMIC_ROWS = 5  # from here on int8 weights are met by int8 activations


class PanelLinear(PackedLinear):
    """A linear layer over `Panels`; `panels`, `scales` and `padded_bias` (float32, one number for
    each padded column) are buffers, which may be re-pointed between calls; lossless weights have
    `aside` and `aside_starts` (`lossless.Aside`) besides."""

    panels: Tensor
    scales: Tensor
    padded_bias: Tensor
    aside: Tensor
    aside_starts: Tensor

    def __init__(self, weight: Panels, bias: Tensor | None) -> None:
        super().__init__(shape=weight.shape, format=weight.format)
        self.group = weight.group
        padded = torch.zeros(len(weight.panels) * UNIT_ROWS)
        if bias is not None:
            padded[: len(bias)] = bias.detach().float()
        self.register_buffer("panels", weight.panels, persistent=False)
        self.register_buffer("scales", weight.scales, persistent=False)
        self.register_buffer("padded_bias", padded, persistent=False)
        if weight.aside is not None:
            self.register_buffer("aside", weight.aside.entries, persistent=False)
            self.register_buffer("aside_starts", weight.aside.starts, persistent=False)

    @property
    def nbytes(self) -> int:
        """As `PackedLinear.nbytes`."""
        aside = Aside(self.aside, self.aside_starts) if self._is_lossless else None
        return Panels(self.format, (0, 0), self.group, self.panels, self.scales, aside).nbytes

    @property
    def is_buffered(self) -> bool:
        """True."""
        return True

    @property
    def _is_lossless(self) -> bool:
        return self.format is WeightFormat.LOSSLESS

    @property
    def needs_rounded(self) -> bool:
        """Whether many rows are met as int8."""
        return self.format is WeightFormat.INT8

    def kind_for(self, rows: int) -> int:
        """The kernel for so many rows: one of those in cpu_tiles."""
        if self.needs_rounded and rows >= _DYNAMIC_ROWS:
            return cpu_tiles.DOT_BYTES
        return _KINDS[self.format]

    def forward(self, x: Tensor) -> Tensor:
        """x bfloat16 [..., in_features] -> [..., out_features]."""
        rows = flat_rows(x)
        out = torch.empty(len(rows), padded_columns(self), dtype=x.dtype)
        if len(rows):
            self._compute(rows, out)
        return out[:, : self.out_features].view(*x.shape[:-1], self.out_features)

    def _compute(self, rows: Tensor, out: Tensor) -> None:
        kind = self.kind_for(len(rows))
        rounded = None
        if kind == cpu_tiles.DOT_BYTES:
            rounded = activations.Rounded.empty(len(rows), self.in_features, group=self.group)
            activations.round_rows(rows, rounded)
        fields = self.fields(kind, rows, out, rounded=rounded)
        record = torch.from_numpy(fields)
        team.run(compiled.compiled_kernel(kind), record, tasks=tasks_of(fields))

    def fields(
        self,
        kind: int,
        rows: Tensor,
        out: Tensor,
        *,
        rounded: activations.Rounded | None = None,
        ending: int = cpu_tiles.PLAIN,
        other: Tensor | None = None,
    ) -> np.ndarray:
        """The kernel's record for these rows; `ending` and `other` as in `cpu_tiles.finish_row`,
        `other` with the strides of `out`. Whoever runs it keeps all tensors alive."""
        record = np.zeros(compiled.FIELDS, dtype=np.int64)
        record[compiled.ROW_COUNT] = len(rows)
        record[compiled.BLOCK] = block = block_rows(len(rows), len(self.panels))
        record[compiled.RUNS], record[compiled.RUN_LENGTH] = _runs(
            len(rows), block, len(self.panels)
        )
        record[compiled.UNITS] = len(self.panels)
        record[compiled.X] = rows.data_ptr()
        record[compiled.X_STRIDE] = 2 * rows.stride(0)
        record[compiled.WEIGHTS] = self.panels.data_ptr()
        record[compiled.UNIT_STRIDE] = self.panels.stride(0)
        record[compiled.TABLES] = _tables(self.format).data_ptr()
        record[compiled.GROUPS] = 1
        record[compiled.GROUP_CHUNKS] = self.panels.shape[1]
        if self.group:
            record[compiled.SCALES] = self.scales.data_ptr()
            record[compiled.SCALE_STRIDE] = 2 * self.scales.stride(0)
            record[compiled.GROUPS] = self.in_features // self.group
            record[compiled.GROUP_CHUNKS] = self.group // cpu_tiles.CHUNK_K[kind]
        if self._is_lossless:
            record[compiled.SCALES] = self.scales.data_ptr()
            record[compiled.SCALE_STRIDE] = 2 * UNIT_ROWS
            record[compiled.ASIDE] = self.aside.data_ptr()
            record[compiled.ASIDE_STARTS] = self.aside_starts.data_ptr()
        if rounded is not None:
            record[compiled.X] = rounded.levels.data_ptr()
            record[compiled.X_STRIDE] = rounded.levels.stride(0)
            record[compiled.ROW_SCALES] = rounded.scales.data_ptr()
            record[compiled.ROW_SCALE_STRIDE] = 4 * rounded.scales.stride(0)
        record[compiled.BIAS] = self.padded_bias.data_ptr()
        record[compiled.OUT] = out.data_ptr()
        record[compiled.OUT_STRIDE] = 2 * out.stride(0)
        record[compiled.ENDING] = ending
        record[compiled.OTHER] = 0 if other is None else other.data_ptr()
        return record


def padded_columns(module: PanelLinear) -> int:
    """Columns of the rows that it writes; those from `out_features` on mean nothing."""
    return len(module.panels) * UNIT_ROWS


def block_rows(rows: int, units: int) -> int:
    """Rows that pass together, in whole tiles: as many as may, since each block reads all weights;
    fewer where threads would have too few units. Blocks are of equal size."""
    least = -(-_UNITS_PER_THREAD * torch.get_num_threads() // units)
    most = max(1, rows // _LEAST_BLOCK)
    blocks = max(-(-rows // compiled.ROW_BLOCK), min(least, most))
    tiles = -(-rows // (blocks * cpu_tiles.ROWS))
    return max(1, tiles) * cpu_tiles.ROWS


def _runs(rows: int, block: int, units: int) -> tuple[int, int]:
    """How many runs, and how many units in each."""
    threads = torch.get_num_threads()
    length = int(units * _RUN_SHARE) // threads if rows <= block else 0
    return (threads, length) if length > 1 else (0, 0)


def tasks_of(fields: np.ndarray) -> int:
    """How many threads a record can use."""
    blocks = -(-int(fields[compiled.ROW_COUNT]) // int(fields[compiled.BLOCK]))
    return int(fields[compiled.UNITS]) * blocks


def refusal(weight: Tensor) -> str | None:
    """Why a bfloat16 weight [N, K] cannot be in panels on this machine, or None."""
    if weight.device.type != "cpu":
        return f"the weight is on {weight.device.type}"
    if weight.dtype != torch.bfloat16:
        return f"the weight is {weight.dtype}: the kernels compute in bfloat16"
    if weight.dim() != 2 or weight.is_mkldnn:
        return "the weight is not a plain matrix"
    if weight.shape[1] % 8 or not weight.shape[0]:
        return f"rows of {weight.shape[1]} are not a multiple of 8"
    return dot.missing_features()


def pack_panels(
    weight: Tensor, bias: Tensor | None, *, format: WeightFormat, slabs: Slabs
) -> PanelLinear:
    """A module over a packed copy of weight [N, K] in `slabs`; check `refusal` first. Its format is
    bfloat16 where LOSSLESS was asked for and too many weights would lie aside."""
    plain = weight.detach()
    if format is WeightFormat.LOSSLESS:
        found = from_lossless(plain.contiguous(), slabs)
        if found is not None:
            return PanelLinear(found, bias)
    if format.is_exact:
        return PanelLinear(from_bfloat16(plain.contiguous(), slabs), bias)
    return PanelLinear(from_quantized(quantize(plain, format=format), slabs), bias)


@cache
def _tables(format: WeightFormat) -> Tensor:
    """What a nibble stands for, in bfloat16: two registers of 32 entries, since 5 bits are looked
    up, of which the fifth means nothing."""
    if format is WeightFormat.INT8:
        low, high = [float(i) for i in range(16)], [16.0 * (i - 8) for i in range(16)]
    else:
        low = list(NF4_LEVELS) if format is WeightFormat.NF4 else [i - 8.0 for i in range(16)]
        high = low
    return torch.tensor([*low, *low, *high, *high], dtype=torch.bfloat16)
