"""bfloat16 weights in 12 bits, without loss: panels that a kernel unpacks by a few operations.

Of a row's weights, nearly all have one of 16 neighbouring exponents, low .. low + 15. Divided by
the row's scale, a power of two (so exactly), these become the exponents 112 .. 127, which share
their upper four bits. What is left of a weight are 12 bits, bfloat16 with those four cut out:

    bit 15 the sign, bits 10..7 exponent - low, bits 6..0 the mantissa; bits 14..11 are free

A chunk is 16 rows x 8 weights in three registers of 16 x 2 shorts. Register i holds weights 2i and
2i + 1 of its rows; the free bits hold weights 6 and 7 in three pieces of four bits: exponent - low;
the upper four bits of the mantissa; the lower three and, last, the sign.

    panels  uint8 [U, K / 8, 4, 192]   units of four panels, as layout.py has them
    scales  bfloat16 [P, 16]     2 ** (low - 112), or 0 for a row in which all is 0

Weights of other exponents (zeros among them) lie aside: 12 bits of zero stand in their place, which
count as the row's `stored` number, and the kernel adds x * value - x * stored in float32.

    aside   int32 [e, 3]         16 k + row in the panel, the bits of value and stored as float32
    starts  int32 [P + 1]        where each panel's begin

Owns the format and its inverse. Does not own computing with it (lossless_tiles).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.kernels.linear.units import PANEL_ROWS, PANELS
from stepwell.kernels.pages import Slabs

CHUNK_K = 8
CHUNK_BYTES = 192
UPPER = 0x3800  # the upper exponent bits of all packed weights: exponents 112 to 127
_CODES = 16
_BASE = 112
_MOST_ASIDE = 1 / 512  # of all weights: with more, going through them costs what bytes save
_TRIED = 3  # how far below a row's largest weight the window's upper end may be, powers of two
_PANELS_AT_A_TIME = 4 * PANELS  # what packing makes of them stays in a core's caches


@dataclass(frozen=True, slots=True)
class Aside:
    """Weights that have no 12 bits."""

    entries: Tensor
    starts: Tensor

    @property
    def nbytes(self) -> int:
        return 4 * (self.entries.numel() + self.starts.numel())


def pack(weight: Tensor, slabs: Slabs) -> tuple[Tensor, Tensor, Aside] | None:
    """weight bfloat16 [64 U, K], contiguous, K a multiple of 8 -> (panels, scales, aside), or None
    where too many weights would lie aside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its steps are too small for a team: with two threads 5 times as long
    try:
        return _pack(weight, slabs)
    finally:
        torch.set_num_threads(threads)


def _pack(weight: Tensor, slabs: Slabs) -> tuple[Tensor, Tensor, Aside] | None:
    bits = weight.view(torch.int16)
    panels, k = len(bits) // PANEL_ROWS, bits.shape[1]
    found, counts, total = [], [], 0
    packed = slabs.take(panels * (k // CHUNK_K) * CHUNK_BYTES)
    packed = packed.view(panels // PANELS, -1, PANELS, CHUNK_BYTES)
    scales = torch.empty(panels * PANEL_ROWS)
    for at in range(0, panels, _PANELS_AT_A_TIME):
        end = min(panels, at + _PANELS_AT_A_TIME)
        rows = slice(PANEL_ROWS * at, PANEL_ROWS * end)
        exponents = (bits[rows] >> 7).to(torch.uint8)
        low, within = _lowest(exponents)
        scales[rows] = _scales(low)
        codes = exponents - low  # wraps below
        row, column = _aside(bits[rows], codes, low, within)
        shorts = bits[rows] & -0x7F81 | codes.short() << 7
        shorts[low.view(-1) == 0] &= -0x8000
        shorts[row, column] = 0
        target = packed[at // PANELS : end // PANELS].view(torch.int16)
        words = _words(shorts).view(len(target), PANELS, k // CHUNK_K, CHUNK_BYTES // 2)
        target.copy_(words.transpose(1, 2))
        total += len(row)
        if total > _MOST_ASIDE * bits.numel():
            return None
        values = bits[rows][row, column].int() << 16
        stored = (scales[rows][row] * 2.0**-15).view(torch.int32)
        found.append(torch.stack([PANEL_ROWS * column.int() + row % 16, values, stored], dim=1))
        counts.append(torch.bincount(row // PANEL_ROWS, minlength=end - at))
    starts = torch.zeros(panels + 1, dtype=torch.int32)
    starts[1:] = torch.cat(counts).cumsum(0)
    kept = slabs.keep(scales.bfloat16().view(panels, PANEL_ROWS))
    return packed, kept, Aside(torch.cat(found).int(), starts)


def unpack(panels: Tensor, scales: Tensor, aside: Aside) -> Tensor:
    """The weight [64 U, K] of `pack` again; the test's way back."""
    panels = panels.transpose(1, 2).flatten(0, 1)
    words = panels.view(torch.int16).view(len(panels), -1, 3, PANEL_ROWS, 2)
    words = words.permute(0, 3, 1, 2, 4).int() & 0xFFFF
    pieces = words >> 11 & 15
    last = pieces[..., 0, :] << 7 | pieces[..., 1, :] << 3 | pieces[..., 2, :] >> 1
    last = last | (pieces[..., 2, :] & 1) << 15
    shorts = torch.cat([words & 0x87FF, last.unsqueeze(3)], dim=3).flatten(0, 1).flatten(1)
    magnitude = ((shorts & 0x7FF) | UPPER) << 16
    numbers = magnitude.view(torch.float32) * scales.float().view(-1, 1)
    bits = (numbers.view(torch.int32) >> 16) | (shorts & 0x8000)
    counts = aside.starts.diff().long()
    panel = torch.repeat_interleave(torch.arange(len(panels)), counts)
    place, value, _ = aside.entries.unbind(1)
    bits[PANEL_ROWS * panel + place % PANEL_ROWS, place // PANEL_ROWS] = value >> 16
    return bits.to(torch.int16).view(torch.bfloat16)


def _lowest(exponents: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest exponent of each row's window, 0 where the row has no number to keep, and how many
    of its exponents are within: [n, 1]. `exponents`: uint8 [n, K]."""
    top = exponents.amax(1, keepdim=True)
    if bool((top == 255).any()):  # inf or nan
        top = torch.where(exponents == 255, 0, exponents).amax(1, keepdim=True)
    best = torch.full_like(top, -1, dtype=torch.int64)
    low = torch.zeros_like(top)
    for below in range(_TRIED):
        tried = (top.short() - (_CODES - 1) - below).clamp_(min=1).to(torch.uint8)
        within = (exponents - tried < _CODES).count_nonzero(1).unsqueeze(1)
        low = torch.where(within > best, tried, low)
        best = torch.maximum(best, within)
    return torch.where(top > 0, low, 0), best


def _scales(low: Tensor) -> Tensor:
    powers = torch.ldexp(torch.ones(len(low)), low.view(-1).int() - _BASE)
    return torch.where(low.view(-1) > 0, powers, 0.0)


def _aside(bits: Tensor, codes: Tensor, low: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of weights that have no 12 bits."""
    rows = ((within < bits.shape[1]) | (low == 0)).view(-1).nonzero().view(-1)
    found = torch.where(low[rows] > 0, codes[rows] >= _CODES, bits[rows] & 0x7FFF != 0)
    row, column = found.nonzero(as_tuple=True)
    return rows[row], column


def _words(shorts: Tensor) -> Tensor:
    """shorts [16 P, K] -> the three registers of each chunk, [P, K / 8, 3, 16, 2]."""
    pairs = shorts.view(torch.int32).view(-1, PANEL_ROWS, shorts.shape[1] // CHUNK_K, 4)
    chunks = pairs.permute(0, 2, 3, 1).contiguous()
    chunks = chunks.view(torch.int16).view(*chunks.shape, 2)
    last = chunks[:, :, 3]
    pieces = (last >> 7 & 15, last >> 3 & 15, (last & 7) << 1 | (last >> 15 & 1))
    return chunks[:, :, :3] | torch.stack(pieces, dim=2) << 11
