"""Weights in panels: how a matrix lies in memory for the CPU kernels, and back again.

    panels  uint8 [U, K / chunk K, 4, 64]   16 rows of the weight side by side, 64 bytes at a time
    scales  float16 [U, groups, 4, 16]      empty for bfloat16

A unit's four panels lie chunk by chunk beside each other, so that a thread reads units, and one
unit after another, in one straight line: memory is fastest that way, for small units most of all.

That is bfloat16 and low bits; lossless.py says it for bfloat16 in 12 bits.

    bfloat16  a chunk is 16 rows x 2:  [row][k0 k1]
    int8      a chunk is 16 rows x 4:  [row][k0 k2 k1 k3], so that the low bytes of a row's two
              16-bit halves are one pair, the high bytes the other
    int4, nf4 a chunk is 16 rows x 8:  [row][half h]: nibble p of 4 is k(2p + h)

Rows are padded with zeros to whole units. Packed weights lie in `Slabs`:
a step reads all of them, and with 4 KiB pages it would wait for address translations, and push out
those that the code between steps needs. Owns nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.kernels.linear import lossless
from stepwell.kernels.linear.quantize import QuantizedWeight, WeightFormat
from stepwell.kernels.linear.units import PANEL_ROWS, PANELS, padded_rows
from stepwell.kernels.pages import Slabs

BYTE_ORDER = (0, 2, 1, 3)


@dataclass(frozen=True, slots=True)
class Panels:
    """A weight [N, K] as the kernels read it. `group` is 0 for bfloat16, `aside` for
    LOSSLESS only."""

    format: WeightFormat
    shape: tuple[int, int]
    group: int
    panels: Tensor
    scales: Tensor
    aside: lossless.Aside | None = None

    @property
    def nbytes(self) -> int:
        beside = 0 if self.aside is None else self.aside.nbytes
        return self.panels.numel() + 2 * self.scales.numel() + beside


def _pad(rows: Tensor) -> Tensor:
    missing = padded_rows(len(rows)) - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, rows.shape[1])]) if missing else rows


def from_bfloat16(weight: Tensor, slabs: Slabs) -> Panels:
    """weight bfloat16 [N, K], contiguous, K a multiple of 8."""
    shape = (weight.shape[0], weight.shape[1])
    pairs = _pad(weight).view(torch.int32).view(-1, PANELS, PANEL_ROWS, shape[1] // 2)
    chunks = slabs.keep(pairs.permute(0, 3, 1, 2))
    panels = chunks.view(torch.uint8).view(len(chunks), shape[1] // 2, PANELS, 64)
    return Panels(WeightFormat.BFLOAT16, shape, 0, panels, torch.empty(0, dtype=torch.float16))


def from_lossless(weight: Tensor, slabs: Slabs) -> Panels | None:
    """weight as for `from_bfloat16`; None where its exponents are too many for 12 bits."""
    shape = (weight.shape[0], weight.shape[1])
    found = lossless.pack(_pad(weight), slabs)
    return None if found is None else Panels(WeightFormat.LOSSLESS, shape, 0, *found)


def from_quantized(weight: QuantizedWeight, slabs: Slabs) -> Panels:
    """K a multiple of the group, which is a multiple of 8."""
    shape = (weight.levels.shape[0], weight.levels.shape[1])
    levels = _pad(weight.levels)
    rows = (-1, PANELS, PANEL_ROWS)
    if weight.format is WeightFormat.INT8:
        chunks = levels.view(*rows, shape[1] // 4, 4)[..., list(BYTE_ORDER)]
    else:
        nibbles = levels.view(*rows, shape[1] // 8, 4, 2)
        low = nibbles[..., 0, :] | nibbles[..., 1, :] << 4
        high = nibbles[..., 2, :] | nibbles[..., 3, :] << 4
        chunks = torch.stack([low, high], dim=-1).flatten(4)
    panels = slabs.keep(chunks.permute(0, 3, 1, 2, 4)).flatten(3)
    groups = weight.scales.shape[1]
    scales = slabs.keep(_pad(weight.scales).view(*rows, groups).permute(0, 3, 1, 2))
    return Panels(weight.format, shape, weight.group, panels, scales)


def to_bfloat16(panels: Panels) -> Tensor:
    """The weight of `from_bfloat16` again; the test's way back."""
    rows, k = panels.shape
    pairs = panels.panels.view(torch.bfloat16).view(-1, k // 2, PANELS, PANEL_ROWS, 2)
    return pairs.permute(0, 2, 3, 1, 4).reshape(-1, k)[:rows].contiguous()


def to_lossless(panels: Panels) -> Tensor:
    """The weight of `from_lossless` again; the test's way back."""
    assert panels.aside is not None, "a lossless weight"
    weight = lossless.unpack(panels.panels, panels.scales, panels.aside)
    return weight[: panels.shape[0]].contiguous()


def to_quantized(panels: Panels) -> QuantizedWeight:
    """The weight of `from_quantized` again; the test's way back."""
    rows, k = panels.shape
    if panels.format is WeightFormat.INT8:
        chunks = panels.panels.view(-1, k // 4, PANELS, PANEL_ROWS, 4)[..., list(BYTE_ORDER)]
    else:
        halves = panels.panels.view(-1, k // 8, PANELS, PANEL_ROWS, 2, 2)
        parts = [halves[..., 0] & 15, halves[..., 0] >> 4, halves[..., 1] & 15, halves[..., 1] >> 4]
        chunks = torch.stack(parts, dim=4).flatten(4)
    levels = chunks.permute(0, 2, 3, 1, 4).reshape(-1, k)[:rows].contiguous()
    groups = k // panels.group
    scales = panels.scales.permute(0, 2, 3, 1).reshape(-1, groups)[:rows].contiguous()
    return QuantizedWeight(panels.format, panels.group, levels, scales)
