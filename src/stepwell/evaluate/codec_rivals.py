"""Simple codecs to draw beside KVTC's curve, with real bytes: int4 a head, and CacheGen-like.

Both work on a layer's tensors as the cache holds them, that is, keys with their rotary turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepwell.codec.kvtc.layout import RowLayout
from stepwell.kernels import entropy
from stepwell.kernels.entropy import RansTables, build_tables


def turned(rows: Tensor, layout: RowLayout, positions: Tensor) -> Tensor:
    """Rows with their rotary turns on, [tokens, p]."""
    return torch.cat(
        [t.transpose(0, 1).flatten(1) for t in layout.scatter(rows, positions=positions)], 1
    )


def int4_per_head(rows: Tensor, layout: RowLayout) -> tuple[int, Tensor]:
    """(bytes, restored rows): per token and head, 16-bit minimum and scale and four bits each."""
    restored, start, size = torch.empty_like(rows), 0, 0
    for part in layout.parts:
        heads = rows[:, start : start + part.width].reshape(-1, part.dim)
        low = heads.amin(1, keepdim=True).half().float()
        scale = ((heads.amax(1, keepdim=True) - low) / 15).half().float().clamp(min=1e-7)
        back = ((heads - low) / scale).round().clamp(0, 15) * scale + low
        restored[:, start : start + part.width] = back.view(-1, part.width)
        size += heads.shape[0] * (4 + part.dim // 2)
        start += part.width
    return size, restored


@dataclass(frozen=True)
class CacheGenLike:
    """CacheGen's quantiser (arXiv:2310.07240): per token and layer a 16-bit absolute maximum, some
    number of bins, arithmetic coding by (layer, channel). Here the tables are trained beforehand
    and cost nothing in the chunk, which favours it; its step between neighbouring tokens is left
    out, as in LMCache's coder. `bins`: of each layer."""

    layout: RowLayout
    bins: tuple[int, ...]
    tables: RansTables

    @classmethod
    def train(cls, rows: Tensor, layout: RowLayout, bins: tuple[int, ...]) -> CacheGenLike:
        """Tables from calibration rows [tokens, p]."""
        symbols, _ = _quantize(rows, layout, bins)
        counts = np.zeros((rows.shape[1], max(bins)), np.int64)
        for column in range(rows.shape[1]):
            counts[column] = np.bincount(symbols[:, column], minlength=max(bins))
        return cls(layout, bins, build_tables(counts))

    def run(self, rows: Tensor) -> tuple[int, Tensor]:
        """(bytes, restored rows), decoded from the real stream."""
        symbols, scales = _quantize(rows, self.layout, self.bins)
        contexts = np.arange(rows.shape[1], dtype=np.uint16)
        data = entropy.encode(symbols, contexts, self.tables)
        levels = torch.from_numpy(entropy.decode(data, contexts, self.tables).astype(np.float32))
        restored, start = torch.empty_like(rows), 0
        for number, part in enumerate(self.layout.parts):
            half = (self.bins[number] - 1) // 2
            columns = slice(start, start + part.width)
            restored[:, columns] = (levels[:, columns] - half) * scales[:, number, None] / half
            start += part.width
        return len(data) + scales.numel() * 2, restored


def _quantize(
    rows: Tensor, layout: RowLayout, bins: tuple[int, ...]
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], Tensor]:
    symbols, scales, start = [], [], 0
    for part, count in zip(layout.parts, bins, strict=True):
        values, half = rows[:, start : start + part.width], (count - 1) // 2
        scale = values.abs().amax(1).bfloat16().float().clamp(min=1e-7)
        code = (values / scale[:, None] * half).round().clamp(-half, half) + half
        symbols.append(code.to(torch.uint8))
        scales.append(scale)
        start += part.width
    return torch.cat(symbols, 1).numpy(), torch.stack(scales, 1)
