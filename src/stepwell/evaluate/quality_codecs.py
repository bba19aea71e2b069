"""Codecs as the quality measurement sees them: a context's cache to real bytes and back.

What lies between sinks and window is cut into chunks; each is encoded, its bytes are counted, and
what the bytes decode to is what the model goes on with. Sinks and window are passed on exactly.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from stepwell.codec.buffers import total_bytes
from stepwell.codec.kvtc.artifact import dump_calibration
from stepwell.codec.kvtc.calibration import Calibration, Plane, sealed
from stepwell.codec.kvtc.control import choice_for_ratio
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.ours import HEADER
from stepwell.codec.kvtc.paper import PaperCoder
from stepwell.codec.registry import make_codec
from stepwell.codec.shape import BlockShape, LayerKV
from stepwell.evaluate.codec_paper import Paper, PaperSide
from stepwell.evaluate.quality_cache import Snapshot

CHUNK_TOKENS = 256
_STREAM_FIXED = 4 + 8 + 4 * 32  # a plane's length, the stream's head and its lanes' states


@dataclass(slots=True)
class Context:
    """One context on its way through all codecs; what several of them need is worked out once."""

    snapshot: Snapshot
    _known: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """`make()`, the first time."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


@dataclass(frozen=True, slots=True)
class Coded:
    """What the tokens start:stop became. `side`: of `size` bytes, those that are headers, scales,
    tables and states of the coder, not numbers."""

    restored: Snapshot
    size: int
    side: int


class CacheCodec(Protocol):
    """`artifact_bytes`: what both sides must have besides the chunks."""

    @property
    def artifact_bytes(self) -> int:
        """Zero for codecs that need no calibration."""
        ...

    def run(self, context: Context, start: int, stop: int) -> Coded:
        """Tokens start:stop of the context through bytes."""
        ...


@dataclass(frozen=True, slots=True)
class BlockCodec:
    """A codec of the registry: raw, lossless, fp8, int8, int4."""

    name: str
    artifact_bytes: int = 0

    def run(self, context: Context, start: int, stop: int) -> Coded:
        """Chunk by chunk, each a block of its own."""
        chunks, size, side = [], 0, 0
        for at in range(start, stop, CHUNK_TOKENS):
            part = context.snapshot.part(at, min(at + CHUNK_TOKENS, stop))
            numbers, shape = _block(part)
            codec = make_codec(self.name, shape=shape)
            encoded = codec.encode([_bytes(numbers)])
            back = torch.empty_like(numbers)
            codec.decode(encoded, [_bytes(back)])
            chunks.append(_unblock(back, shape))
            size += total_bytes(encoded)
            side += total_bytes(encoded[: -2 if len(encoded) == 4 else -1])
        return Coded(_joined(chunks), size, side)


def _block(part: Snapshot) -> tuple[Tensor, BlockShape]:
    layers = tuple(
        LayerKV(kv_heads=k.shape[0], key_dim=k.shape[2], value_dim=v.shape[2])
        for k, v in part.layers
    )
    shape = BlockShape(dtype=part.layers[0][0].dtype, tokens=part.tokens, layers=layers)
    return torch.cat([side.flatten() for pair in part.layers for side in pair]), shape


def _unblock(numbers: Tensor, shape: BlockShape) -> Snapshot:
    sides = [
        numbers[s.start : s.start + s.size].view(s.heads, s.tokens, s.dim) for s in shape.segments()
    ]
    return Snapshot(tuple(zip(sides[::2], sides[1::2], strict=True)))


def _bytes(numbers: Tensor) -> memoryview:
    return memoryview(numbers.view(torch.uint8).numpy().data)


def _joined(chunks: Sequence[Snapshot]) -> Snapshot:
    layers = zip(*(chunk.layers for chunk in chunks), strict=True)
    return Snapshot(
        tuple(
            (torch.cat([k for k, _ in pieces], 1), torch.cat([v for _, v in pieces], 1))
            for pieces in layers
        )
    )


class KvtcCodec:
    """`kvtc` at a nominal ratio, by one calibration: the bytes of `Calibration.encode_rows`, but
    all ratios share the projection, and only coefficients that the ratio codes are turned back."""

    def __init__(self, calibration: Calibration, ratio: float) -> None:
        self._calibration = calibration
        self.choices = [choice_for_ratio(plane, ratio) for plane in calibration.planes]

    @property
    def artifact_bytes(self) -> int:
        """Of the calibration file, which serves all ratios."""
        return len(dump_calibration(self._calibration))

    def run(self, context: Context, start: int, stop: int) -> Coded:
        """Chunk by chunk; turned back all at once."""
        known = self._calibration
        rows = _rows(context, known.keys, known.values)
        planes = [_coefficients(context, plane, rows) for plane in known.planes]
        decoded: list[list[Tensor]] = [[] for _ in planes]
        size, side = 0, 0
        for at in range(start, stop, CHUNK_TOKENS):
            end, parts = min(at + CHUNK_TOKENS, stop), []
            for number, (rung, step) in enumerate(self.choices):
                coder = known.planes[number].coder
                data = coder.encode(planes[number][at:end], rung=rung, step=step)
                decoded[number].append(coder.decode(data, tokens=end - at))
                parts += [len(data).to_bytes(4, "little"), data]
                side += HEADER.size + _STREAM_FIXED
            body = b"".join(parts)
            chunk = sealed(body)
            size, side = size + len(chunk), side + len(chunk) - len(body)
        backs = []
        for plane, found, (rung, _) in zip(known.planes, decoded, self.choices, strict=True):
            reach = plane.ladder[rung].reach
            backs.append(plane.basis.backward(torch.cat(found)[:, :reach]))
        restored = _scatter(context, known.keys, known.values, torch.cat(backs, dim=1), start)
        return Coded(restored, size, side)


class PaperCodec:
    """`kvtc-paper` at a nominal ratio: keys and values apart, DEFLATE level 6."""

    def __init__(self, paper: Paper, keys: RowLayout, values: RowLayout, ratio: float) -> None:
        self._layouts = (keys, values)
        self._sides = (paper.keys, paper.values)
        self._coders = [
            PaperCoder(plan=side.plan(ratio), rank=side.basis.rank) for side in self._sides
        ]
        self.artifact_bytes = paper.matrix_bytes(ratio)

    def run(self, context: Context, start: int, stop: int) -> Coded:
        """Chunk by chunk. Side bytes: shifts and scales as they are before DEFLATE."""
        rows, sides, size, side_bytes = _rows(context, *self._layouts), [], 0, 0
        for side, coder in zip(self._sides, self._coders, strict=True):
            coefficients = _coefficients(context, side, rows)
            parts = []
            for at in range(start, stop, CHUNK_TOKENS):
                chunk = coefficients[at : min(at + CHUNK_TOKENS, stop)]
                data = zlib.compress(coder.pack(chunk), coder.level)
                parts.append(coder.decode(data, tokens=len(chunk)))
                size += len(data)
                side_bytes += 4 * len(coder.plan.active()) * len(chunk)
            sides.append(side.basis.backward(torch.cat(parts)))
        restored = torch.cat(sides, dim=1)
        return Coded(_scatter(context, *self._layouts, restored, start), size, side_bytes)


def _rows(context: Context, keys: RowLayout, values: RowLayout) -> Tensor:
    rows: Tensor = context.once("rows", lambda: context.snapshot.rows(keys, values))
    return rows


def _coefficients(context: Context, plane: Plane | PaperSide, rows: Tensor) -> Tensor:
    """Of all the context's tokens, for every ratio of this plane."""
    found: Tensor = context.once(
        id(plane), lambda: plane.basis.forward(rows[:, plane.start : plane.stop])
    )
    return found


def _scatter(
    context: Context, keys: RowLayout, values: RowLayout, rows: Tensor, start: int
) -> Snapshot:
    """Rows of the tokens from `start` on, turned again, in the cache's dtype."""
    dtype = context.snapshot.layers[0][0].dtype
    positions = torch.arange(start, start + len(rows))
    found = [
        layout.scatter(part, positions=positions)
        for layout, part in ((keys, rows[:, : keys.width]), (values, rows[:, keys.width :]))
    ]
    return Snapshot(
        tuple((k.to(dtype), v.to(dtype)) for k, v in zip(found[0], found[1], strict=True))
    )


def restore(context: Context, codec: CacheCodec, *, sinks: int, window: int) -> Coded:
    """The whole context with its middle through the codec; sinks and window are exact. A context
    that leaves nothing between them is passed on as it is, with no bytes."""
    snapshot = context.snapshot
    start, stop = min(sinks, snapshot.tokens), max(sinks, snapshot.tokens - window)
    if start >= stop or stop > snapshot.tokens:
        return Coded(snapshot, 0, 0)
    coded = codec.run(context, start, stop)
    parts = [snapshot.part(0, start), coded.restored, snapshot.part(stop, snapshot.tokens)]
    return Coded(_joined(parts), coded.size, coded.side)
