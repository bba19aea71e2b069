"""`kvtc` as a codec of the tiers: the blocks of one chunk to bytes and back.

    part  bytes
       0  version u8, zero u8, exact tokens u16, position of the first token u32, tokens u32,
          measured error f32, identity of calibration and target 8
       1  the exact tokens' numbers, layer by layer, as they are
       2  the other tokens' rows as the calibration codes them (calibration.py)

The first tokens of a sequence draw attention whatever they say ("sinks") and are outliers; they
stay exact (KVTC, arXiv:2511.01815, section 3.1). So do a session's last tokens, but that is the
brain's affair (`cache/`): it asks for an exact value instead.

The error in the head is what decoding was seen to give, a share of the calibration's energy. A
chunk whose error exceeds the limit, or that holds a number which is not finite, is not taken
(KeepExact): text unlike the calibration's costs bytes, never quality.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.codec.buffers import copy_parts, total_bytes
from stepwell.codec.contract import Buffer, CodecSpec, DecodeError, KeepExact
from stepwell.codec.kvtc.artifact import dump_calibration
from stepwell.codec.kvtc.blocks import BlockRows
from stepwell.codec.kvtc.calibration import Calibration
from stepwell.codec.kvtc.rate import RowCoder
from stepwell.codec.kvtc.statistics import SINK_TOKENS
from stepwell.codec.shape import BlockShape

_VERSION = 2  # 2: levels by coefficient, a prefix is a coarser chunk
_HEAD = struct.Struct("<BBHIIf8s")
_SPEC = CodecSpec(name="kvtc", version=_VERSION, lossless=False)
_MAX_POSITION = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class KvtcTarget:
    """`ratio`: 16-bit bytes over coded bytes of the tokens that are coded. `error`: instead of a
    ratio, what may be lost: a share of the cache's energy; 0: by ratio. `limit`: a chunk whose
    error exceeds what calibration expects at that ratio by this factor is kept exact. `sinks`:
    first tokens of a sequence that are never coded."""

    ratio: float = 16.0
    error: float = 0.0
    limit: float = 2.0
    sinks: int = SINK_TOKENS


@dataclass(frozen=True, slots=True)
class OpenedChunk:
    """`first`: position of its first token. `exact`: numbers of the first `sinks` tokens, as
    `BlockRows.exact` gives them. `coefficients`: of the other tokens, by plane."""

    first: int
    sinks: int
    exact: Tensor
    coefficients: list[Tensor]


class KvtcCodec:
    """One calibration and target, for blocks of one shape. ValueError where they do not fit."""

    def __init__(self, calibration: Calibration, *, shape: BlockShape, target: KvtcTarget) -> None:
        if not 0 <= target.sinks <= shape.tokens:
            raise ValueError(f"at most the {shape.tokens} tokens of a block can be exact")
        self.calibration = calibration
        self.rows = BlockRows(shape, keys=calibration.keys, values=calibration.values)
        self.coder = RowCoder(calibration, ratio=target.ratio, error=target.error)
        self._shape = shape
        self._block_bytes, self._block_numbers = shape.nbytes, shape.numbers
        self._target = target
        whole = dump_calibration(calibration) + repr(target).encode()
        self.identity = hashlib.sha256(whole).digest()[:8]

    @property
    def spec(self) -> CodecSpec:
        """kvtc; lossy."""
        return _SPEC

    @property
    def expected_error(self) -> float:
        """Share of the energy, at the target's ratio."""
        return self.coder.expected_error

    def encode(self, parts: Sequence[Buffer], *, index: int = 0) -> Sequence[Buffer]:
        """Head, exact tokens, coded tokens. Raises KeepExact."""
        blocks, odd = divmod(total_bytes(parts), self._block_bytes)
        if odd or not blocks:
            raise KeepExact("no whole number of blocks")
        tokens = blocks * self._shape.tokens
        first = index * tokens
        sinks = self._target.sinks if first == 0 else 0
        if sinks == tokens:
            raise KeepExact("nothing but sinks")
        numbers = torch.empty(blocks, self._block_numbers, dtype=self._shape.dtype)
        copy_parts(source=parts, target=[_bytes(numbers)])
        rows = self.rows.gather(numbers, first=first)[sinks:]
        if not bool(torch.isfinite(rows).all()):
            raise KeepExact("a number that is not finite")
        coded, error = self.coder.encode(rows)
        if not error <= self._target.limit * self.expected_error:
            raise KeepExact(f"error {error:.3g}, expected {self.expected_error:.3g}")
        exact = self.rows.exact(numbers, count=sinks)
        head = _HEAD.pack(_VERSION, 0, sinks, first, tokens, error, self.identity)
        return [memoryview(head), _bytes(exact), memoryview(coded)]

    def decode(self, parts: Sequence[Buffer], out: Sequence[Buffer]) -> None:
        """Raises DecodeError for whatever `encode` does not write for so many bytes."""
        blocks, odd = divmod(total_bytes(out), self._block_bytes)
        if odd or not blocks:
            raise DecodeError("no whole number of blocks")
        opened = self.open(parts, tokens=blocks * self._shape.tokens)
        rows = torch.zeros(blocks * self._shape.tokens, self.coder.width)
        rows[opened.sinks :] = self.coder.all_columns(opened.coefficients)
        numbers = self.rows.scatter(rows, first=opened.first)
        if opened.sinks:
            self.rows.put_exact(numbers, opened.exact, count=opened.sinks)
        copy_parts(source=[_bytes(numbers)], target=out)

    def open(self, parts: Sequence[Buffer], *, tokens: int) -> OpenedChunk:
        """A chunk without its transform undone. Raises DecodeError as `decode`."""
        if len(parts) != 3 or len(parts[0]) != _HEAD.size:
            raise DecodeError("not a chunk")
        sinks, first = self._read_head(parts[0], tokens=tokens)
        if len(parts[1]) != sinks * (self._block_bytes // self._shape.tokens):
            raise DecodeError("sizes do not add up")
        try:
            coefficients = self.coder.open(parts[2], tokens=tokens - sinks)
        except ValueError as fault:
            raise DecodeError(str(fault)) from None
        exact = torch.empty(0, dtype=self._shape.dtype)
        if sinks:
            exact = torch.frombuffer(bytearray(parts[1]), dtype=self._shape.dtype)
        return OpenedChunk(first, sinks, exact, coefficients)

    def sample(self, *, blocks: int) -> list[Buffer]:
        """A chunk as calibration saw them, from the middle of a sequence: for measuring speed."""
        rows = self.coder.sample(tokens=blocks * self._shape.tokens)
        numbers = self.rows.scatter(rows, first=len(rows))
        return [_bytes(block) for block in numbers]

    def _read_head(self, head: Buffer, *, tokens: int) -> tuple[int, int]:
        """How many tokens are exact, and the first position."""
        version, zero, sinks, first, count, error, identity = _HEAD.unpack(head)
        if version != _VERSION or zero or identity != self.identity:
            raise DecodeError("of another version, calibration or target")
        if count != tokens or first % tokens or first > _MAX_POSITION:
            raise DecodeError("not a chunk of so many tokens")
        if sinks != (self._target.sinks if first == 0 else 0) or sinks >= tokens:
            raise DecodeError("not so many exact tokens")
        if not (math.isfinite(error) and error >= 0):
            raise DecodeError("an error that is none")
        return sinks, first


def _bytes(numbers: Tensor) -> Buffer:
    """The memory of a contiguous tensor."""
    return memoryview(numbers.view(-1).view(torch.uint8).numpy().data)
