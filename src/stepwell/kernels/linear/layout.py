"""Weights in panels: how a matrix lies in memory for the CPU kernels, and back again.

    panels  uint8 [P, K / chunk K, 64]   16 rows of the weight side by side, 64 bytes at a time
    scales  float16 [P, groups, 16]      empty for bfloat16

That is bfloat16 and low bits; lossless.py says it for bfloat16 in 12 bits.

    bfloat16  a chunk is 16 rows x 2:  [row][k0 k1]
    int8      a chunk is 16 rows x 4:  [row][k0 k2 k1 k3], so that the low bytes of a row's two
              16-bit halves are one pair, the high bytes the other
    int4, nf4 a chunk is 16 rows x 8:  [row][half h]: nibble p of 4 is k(2p + h)

Rows are padded with zeros to whole panels, at least PANELS of them. Packed weights lie in `Slabs`:
a step reads all of them, and with 4 KiB pages it would wait for address translations, and push out
those that the code between steps needs. Owns nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.kernels.linear import lossless
from stepwell.kernels.linear.quantize import QuantizedWeight, WeightFormat
from stepwell.kernels.pages import Slabs

PANEL_ROWS = 16
MIN_PANELS = 4
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


def padded_rows(rows: int) -> int:
    """Rows of whole panels that hold `rows`."""
    return PANEL_ROWS * max(MIN_PANELS, -(-rows // PANEL_ROWS))


def _pad(rows: Tensor) -> Tensor:
    missing = padded_rows(len(rows)) - len(rows)
    return torch.cat([rows, rows.new_zeros(missing, rows.shape[1])]) if missing else rows


def from_bfloat16(weight: Tensor, slabs: Slabs) -> Panels:
    """weight bfloat16 [N, K], contiguous, K a multiple of 8."""
    shape = (weight.shape[0], weight.shape[1])
    pairs = _pad(weight).view(torch.int32)
    chunks = slabs.keep(pairs.view(-1, PANEL_ROWS, shape[1] // 2).transpose(1, 2))
    panels = chunks.view(torch.uint8).view(len(chunks), shape[1] // 2, 64)
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
    count = len(levels) // PANEL_ROWS
    if weight.format is WeightFormat.INT8:
        chunks = levels.view(count, PANEL_ROWS, shape[1] // 4, 4)[..., list(BYTE_ORDER)]
    else:
        nibbles = levels.view(count, PANEL_ROWS, shape[1] // 8, 4, 2)
        low = nibbles[..., 0, :] | nibbles[..., 1, :] << 4
        high = nibbles[..., 2, :] | nibbles[..., 3, :] << 4
        chunks = torch.stack([low, high], dim=-1).flatten(3)
    panels = slabs.keep(chunks.transpose(1, 2)).view(count, -1, 64)
    scales = slabs.keep(_pad(weight.scales).view(count, PANEL_ROWS, -1).transpose(1, 2))
    return Panels(weight.format, shape, weight.group, panels, scales)


def to_bfloat16(panels: Panels) -> Tensor:
    """The weight of `from_bfloat16` again; the test's way back."""
    rows, k = panels.shape
    chunks = panels.panels.view(-1).view(torch.bfloat16).view(-1, k // 2, PANEL_ROWS, 2)
    return chunks.transpose(1, 2).reshape(-1, k)[:rows].contiguous()


def to_lossless(panels: Panels) -> Tensor:
    """The weight of `from_lossless` again; the test's way back."""
    assert panels.aside is not None, "a lossless weight"
    weight = lossless.unpack(panels.panels, panels.scales, panels.aside)
    return weight[: panels.shape[0]].contiguous()


def to_quantized(panels: Panels) -> QuantizedWeight:
    """The weight of `from_quantized` again; the test's way back."""
    rows, k = panels.shape
    count = len(panels.panels)
    if panels.format is WeightFormat.INT8:
        chunks = panels.panels.view(count, k // 4, PANEL_ROWS, 4)[..., list(BYTE_ORDER)]
    else:
        halves = panels.panels.view(count, k // 8, PANEL_ROWS, 2, 2)
        parts = [halves[..., 0] & 15, halves[..., 0] >> 4, halves[..., 1] & 15, halves[..., 1] >> 4]
        chunks = torch.stack(parts, dim=3).flatten(3)
    levels = chunks.transpose(1, 2).reshape(-1, k)[:rows].contiguous()
    scales = panels.scales.transpose(1, 2).reshape(PANEL_ROWS * count, -1)[:rows].contiguous()
    return QuantizedWeight(panels.format, panels.group, levels, scales)
