"""`kvtc-paper`: quantisation, allocation and packing as in KVTC (arXiv:2511.01815, 3.2 and 3.3).

Coefficients, in order of variance, are cut into contiguous blocks of 1, 16, 64, 256 or 1024; each
block is dropped or kept as int2, int4 or fp8 (E4M3). For each token an active block carries a
16-bit shift and a 16-bit scale. The cut is chosen by dynamic programming (paper_plan.py). All
values of a chunk are packed into one byte array and deflated (zlib level 6).

What the paper leaves open, and what is done here: the integer types are min/max affine (shift is
the minimum); fp8 is scaled to its full range around the middle of the block (shift is the middle).
Shifts and scales are float16. A packed chunk is ordered block by block (all tokens' shifts, scales,
then values) or token by token, `order`; both are measured, and the smaller is the rival to beat.
"""

from __future__ import annotations

import enum
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FP8_MAX = 448.0
HEADER_BITS = 32  # a block's shift and scale, for one token
BLOCK_SIZES = (1, 16, 64, 256, 1024)

Bytes = NDArray[np.uint8]


class Kind(enum.IntEnum):
    """How a block's values are kept. The value is its bits."""

    NONE = 0
    INT2 = 2
    INT4 = 4
    FP8 = 8


@dataclass(frozen=True, slots=True)
class Block:
    """Coefficients start:start+size of a token, kept as `kind`."""

    start: int
    size: int
    kind: Kind

    @property
    def bits(self) -> int:
        """Per token, with shift and scale."""
        return 0 if self.kind is Kind.NONE else self.size * self.kind + HEADER_BITS


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """The blocks of a token, in order and without gaps; dropped coefficients may be left out."""

    blocks: tuple[Block, ...]

    @property
    def bits(self) -> int:
        """Per token, before deflation."""
        return sum(block.bits for block in self.blocks)

    @property
    def rank(self) -> int:
        """Leading coefficients that anything is kept of: the projection is cut to these."""
        return max((b.start + b.size for b in self.blocks if b.kind is not Kind.NONE), default=0)

    def active(self) -> list[Block]:
        """Blocks that are kept."""
        return [block for block in self.blocks if block.kind is not Kind.NONE]


def quantize(values: Tensor, kind: Kind) -> tuple[Tensor, Tensor, Tensor]:
    """values [tokens, size] -> codes uint8 [tokens, size], shift and scale float16 [tokens]."""
    low, high = values.amin(1), values.amax(1)
    if kind is Kind.FP8:
        shift, scale = (low + high) / 2, (high - low) / 2 / FP8_MAX
    else:
        shift, scale = low, (high - low) / ((1 << kind) - 1)
    shift, scale = (_half(part) for part in (shift, scale))
    wide = scale.float().clamp(min=1e-30)[:, None]
    relative = (values - shift.float()[:, None]) / wide
    if kind is Kind.FP8:
        clamped = relative.clamp(-FP8_MAX, FP8_MAX)
        return clamped.to(torch.float8_e4m3fn).view(torch.uint8), shift, scale
    return relative.round().clamp(0, (1 << kind) - 1).to(torch.uint8), shift, scale


def dequantize(codes: Tensor, shift: Tensor, scale: Tensor, kind: Kind) -> Tensor:
    """The inverse of `quantize`, float32 [tokens, size]."""
    values = codes.view(torch.float8_e4m3fn).float() if kind is Kind.FP8 else codes.float()
    return values * scale.float()[:, None] + shift.float()[:, None]


def _half(values: Tensor) -> Tensor:
    return values.clamp(-65504.0, 65504.0).to(torch.float16)


class Order(enum.Enum):
    """Which comes first in a packed chunk."""

    BLOCK = "block"
    TOKEN = "token"


@dataclass(frozen=True, slots=True)
class PaperCoder:
    """Coefficients of a chunk to bytes and back, by one plan. `level`: zlib's."""

    plan: BlockPlan
    rank: int
    order: Order = Order.BLOCK
    level: int = 6

    def pack(self, coefficients: Tensor) -> bytes:
        """Coefficients [tokens, rank] -> the byte array before deflation."""
        tokens, parts = len(coefficients), []
        for block in self.plan.active():
            values = coefficients[:, block.start : block.start + block.size]
            codes, shift, scale = quantize(values, block.kind)
            head = torch.stack((shift, scale), dim=0 if self.order is Order.BLOCK else 1)
            parts.append(head.contiguous().numpy().view(np.uint8).reshape(-1))
            parts.append(_pack_codes(codes.numpy(), block.kind).reshape(-1))
        if self.order is Order.TOKEN and parts:
            by_token = [part.reshape(tokens, -1) for part in parts]
            return np.concatenate(by_token, axis=1).tobytes()
        return b"".join(part.tobytes() for part in parts)

    def unpack(self, data: bytes, *, tokens: int) -> Tensor:
        """The inverse of `pack`; dropped coefficients are zero. ValueError for a wrong size."""
        out = torch.zeros(tokens, self.rank)
        widths = [_code_bytes(b) for b in self.plan.active()]
        if len(data) != tokens * sum(4 + width for width in widths):
            raise ValueError(f"{len(data)} bytes do not hold {tokens} tokens of this plan")
        raw, offset = np.frombuffer(data, np.uint8), 0
        if self.order is Order.TOKEN:
            raw = raw.reshape(tokens, -1)
        for block, width in zip(self.plan.active(), widths, strict=True):
            if self.order is Order.TOKEN:
                head = raw[:, offset : offset + 4].copy().view(np.float16).T
                body = raw[:, offset + 4 : offset + 4 + width]
                offset += 4 + width
            else:
                middle = offset + 4 * tokens
                head = raw[offset:middle].view(np.float16).reshape(2, tokens)
                body = raw[middle : middle + width * tokens].reshape(tokens, width)
                offset = middle + width * tokens
            codes = torch.from_numpy(_unpack_codes(body, block))
            shift, scale = (torch.from_numpy(np.array(part)) for part in head)
            values = dequantize(codes, shift, scale, block.kind)
            out[:, block.start : block.start + block.size] = values
        return out

    def encode(self, coefficients: Tensor) -> bytes:
        """Packed and deflated."""
        return zlib.compress(self.pack(coefficients), self.level)

    def decode(self, data: bytes, *, tokens: int) -> Tensor:
        """The inverse of `encode`. ValueError for damaged bytes; allocates no more than the plan
        needs."""
        expected = tokens * sum(4 + _code_bytes(b) for b in self.plan.active())
        engine = zlib.decompressobj()
        try:
            plain = engine.decompress(data, expected + 1)
        except zlib.error as error:
            raise ValueError(f"damaged: {error}") from None
        if not engine.eof or engine.unused_data:
            raise ValueError("the deflated bytes are cut off or go on")
        return self.unpack(plain, tokens=tokens)


def _code_bytes(block: Block) -> int:
    return -(-block.size * block.kind // 8)


def _pack_codes(codes: Bytes, kind: Kind) -> Bytes:
    """[tokens, size] codes -> [tokens, bytes], the first value in the lowest bits."""
    each = 8 // kind
    wide = np.zeros((len(codes), -(-codes.shape[1] // each) * each), np.uint8)
    wide[:, : codes.shape[1]] = codes
    lanes = wide.reshape(len(codes), -1, each) << (np.arange(each, dtype=np.uint8) * int(kind))
    return np.bitwise_or.reduce(lanes, axis=2)


def _unpack_codes(data: Bytes, block: Block) -> Bytes:
    each, kind = 8 // block.kind, int(block.kind)
    shifts = np.arange(each, dtype=np.uint8) * kind
    lanes = (data[:, :, None] >> shifts) & np.uint8((1 << kind) - 1)
    return np.ascontiguousarray(lanes.reshape(len(data), -1)[:, : block.size])
