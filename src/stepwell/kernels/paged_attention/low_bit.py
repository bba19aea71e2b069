"""K and V in 8 or 4 bits: the arithmetic, where each level lies, and the truth in plain torch.

A row (K or V of one head and token) is cut into groups: int8 the whole row, int4 32 numbers, for
one outlier then costs the others of its group only. In float32, as `kernels/cast` does it:

    scale  = largest |x| of the group / largest level (127 or 7), up to the next bfloat16
    level  = x / scale, rounded to nearest, ties to even; stored with 128 (int8) or 8 (int4) added

A scale is exact once written, so rounding it up loses nothing but 2^-7 of a step. A group that
holds nan or an infinity gets the scale nan. One layer's part of a block is
[kv_heads, block_size / 16] tiles of 16 tokens, each one piece of memory in whole cache lines, so
that one head's attention to some tokens reads nothing else:

    K levels  int8  [key_dim / 4, 16 tokens, 4 dims]
              int4  [key_dim / 8, 16 tokens, 4]: byte j of 8 dims holds dim j in its low half and
                    dim 4 + j in its high half
    V levels  int8  [4, value_dim, 4 tokens]
              int4  [4, value_dim / 32, 16, 4 tokens]: byte j of 32 dims holds dim j in its low
                    half and dim 16 + j in its high half
    scales    bfloat16 [groups of K then of V, 16 tokens], and zeros up to a whole cache line

Four levels that are multiplied and added up lie side by side, which is what an 8-bit dot product
instruction takes: dims of a key, tokens of a value. No byte holds levels of two tokens, so threads
may write neighbouring tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, unflatten

from stepwell.kernels.cast.base import LEAST_SCALE_BITS
from stepwell.kernels.paged_attention.base import KVFormat, LowBit, PagedLayer

TOKENS = 16  # of a tile of keys
QUAD = 4  # levels side by side
INT4_GROUP = 32  # numbers that share a scale
_LINE = 64
_NAN_BITS = 0x7FC0  # bfloat16


def largest_level(form: KVFormat) -> int:
    """Levels go from minus this to this."""
    return 127 if form is KVFormat.INT8 else 7


def bias(form: KVFormat) -> int:
    """What is added to a level before it is stored."""
    return largest_level(form) + 1


def groups_of(form: KVFormat, dim: int) -> int:
    """Scales of a row."""
    return 1 if form is KVFormat.INT8 else dim // INT4_GROUP


def refusal(form: KVFormat, *, block_size: int, dims: tuple[int, ...]) -> str | None:
    """Why blocks of these sizes cannot be kept so, or None where they can."""
    if form is KVFormat.MODEL:
        return None
    if block_size % TOKENS:
        return f"block_size {block_size} is not a multiple of {TOKENS}"
    step = 16 if form is KVFormat.INT8 else INT4_GROUP
    odd = [str(dim) for dim in dims if dim % step]
    return f"head dimension {odd[0]} is not a multiple of {step}" if odd else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LowBitShape:
    """The sizes of one layer's part of a block."""

    form: KVFormat
    kv_heads: int
    key_dim: int
    value_dim: int
    block_size: int

    @property
    def nbytes(self) -> int:
        """Bytes of the layer in a block."""
        return self.kv_heads * self.block_size // TOKENS * self.tile_bytes

    @property
    def tile_bytes(self) -> int:
        """Bytes of one head's tile."""
        return -(-sum(self._parts()) // _LINE) * _LINE

    def view(self, part: Tensor, *, dtype: torch.dtype) -> PagedLayer:
        """The layer that lies in `part`: uint8 [num_blocks, nbytes], rows contiguous."""
        tiles = unflatten(part, 1, (self.kv_heads, self.block_size // TOKENS, self.tile_bytes))
        sizes = self._parts()
        key, value, scales = torch.split(tiles[..., : sum(sizes)], list(sizes), dim=3)
        return PagedLayer(
            key=unflatten(key, 3, (-1, TOKENS, QUAD)),
            value=unflatten(value, 3, (TOKENS // QUAD, -1, QUAD)),
            low_bit=LowBit(
                format=self.form,
                dtype=dtype,
                scales=unflatten(scales.view(torch.bfloat16), 3, (-1, TOKENS)),
            ),
        )

    def _parts(self) -> tuple[int, int, int]:
        """Bytes of K levels, V levels and scales in a tile."""
        per_byte = 2 if self.form is KVFormat.INT4 else 1
        dims = (self.key_dim, self.value_dim)
        key, value = (TOKENS * dim // per_byte for dim in dims)
        return key, value, 2 * TOKENS * sum(groups_of(self.form, dim) for dim in dims)


def quantize(rows: Tensor, form: KVFormat) -> tuple[Tensor, Tensor]:
    """Rows [..., dim] of any float dtype -> stored levels uint8 [..., dim] and scales bfloat16
    [..., groups]."""
    groups = groups_of(form, rows.shape[-1])
    wide = unflatten(rows.float(), -1, (groups, -1))
    peak = wide.abs().amax(-1)
    finite = torch.isfinite(peak)
    bits = (torch.where(finite, peak, 0.0) / largest_level(form)).view(torch.int32)
    bits = ((bits + 0xFFFF) >> 16).clamp(min=LEAST_SCALE_BITS)
    scale = (bits << 16).view(torch.float32)
    levels = torch.round(wide * (1.0 / scale)[..., None])
    levels = torch.where(finite[..., None], levels, 0.0).to(torch.int32) + bias(form)
    bits = torch.where(finite, bits, _NAN_BITS)
    return levels.flatten(-2).to(torch.uint8), (bits << 16).view(torch.float32).bfloat16()


def store(key: Tensor, value: Tensor, layer: PagedLayer, slots: Tensor) -> None:
    """Quantize rows [T, kv_heads, dim] and put them into their slots [T]."""
    assert layer.low_bit is not None, "the pool holds plain numbers"
    form = layer.low_bit.format
    block, offset = slots // layer.block_size, slots % layer.block_size
    tile, token = offset // TOKENS, offset % TOKENS
    levels, scales = quantize(key, form)
    packed = _packed(unflatten(levels, -1, (-1, QUAD)), form)
    layer.key[block, :, tile, :, token] = packed
    levels, value_scales = quantize(value, form)
    packed = _packed(unflatten(levels, -1, (-1, TOKENS)), form).flatten(-2)
    layer.value[block, :, tile, token // QUAD, :, token % QUAD] = packed
    layer.low_bit.scales[block, :, tile, :, token] = torch.cat([scales, value_scales], dim=-1)


def pages(layer: PagedLayer, table: Tensor) -> tuple[Tensor, Tensor]:
    """K and V of the blocks `table` [n]: [n, kv_heads, block_size, dim] each, in the pool's dtype
    or, from a low-bit pool, in float32. Slots never written may hold anything."""
    if layer.low_bit is None:
        return layer.key.index_select(0, table), layer.value.index_select(0, table)
    form = layer.low_bit.format
    scales = layer.low_bit.scales.index_select(0, table).float().transpose(3, 4)
    key_groups = groups_of(form, layer.key_dim)
    key = _unpacked(layer.key.index_select(0, table), form, dim=3)
    key = key.transpose(3, 4).flatten(4)  # [n, heads, tiles, 16, dim]
    value = unflatten(layer.value.index_select(0, table), 4, (-1, TOKENS))
    value = _unpacked(value, form, dim=4).flatten(4, 5).transpose(4, 5).flatten(3, 4)
    return (
        _numbers(key, scales[..., :key_groups], form),
        _numbers(value, scales[..., key_groups:], form),
    )


def _packed(levels: Tensor, form: KVFormat) -> Tensor:
    """int4: each two neighbours along the last dimension but one in one byte, the even one low."""
    if form is KVFormat.INT8:
        return levels
    pairs = unflatten(levels, -2, (-1, 2))
    return pairs[..., 0, :] | pairs[..., 1, :] << 4


def _unpacked(levels: Tensor, form: KVFormat, *, dim: int) -> Tensor:
    """The way back; `dim` counts from the front."""
    if form is KVFormat.INT8:
        return levels
    return torch.stack([levels & 15, levels >> 4], dim + 1).flatten(dim, dim + 1)


def _numbers(levels: Tensor, scales: Tensor, form: KVFormat) -> Tensor:
    """levels [n, heads, tiles, 16, dim], scales [n, heads, tiles, 16, groups] -> float32
    [n, heads, tokens, dim]."""
    wide = unflatten(levels.float() - bias(form), -1, (scales.shape[-1], -1))
    return (wide * scales[..., None]).flatten(-2).flatten(2, 3)
