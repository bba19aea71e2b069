"""The front of a long sequence, kept coded beside the pool, and attention over it.

A live sequence that outgrows its share of the pool goes on: its oldest chunks are coded (`kvtc`),
their blocks given back. Each step decodes them once (entropy coding), then layer by layer turns
coefficients into that layer's keys and values, attends, and forgets them; what pages and packed
part say is joined by their log-sum-exp. That costs arithmetic with every step, and no memory to
speak of. A chunk that the codec would not take is kept without loss.

Owns the coded bytes of one sequence. Does not own: which chunks are packed and when
(`engine/rolling.py`), the pool, the codec's mathematics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stepwell.codec.contract import Buffer, KeepExact
from stepwell.codec.kvtc.blocks import BlockRows
from stepwell.codec.kvtc.chunk import KvtcCodec
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.rate import RowCoder
from stepwell.codec.kvtc.rotary import Rotary
from stepwell.codec.lossless import LosslessCodec
from stepwell.codec.shape import BlockShape
from stepwell.kernels.paged_attention import AttentionSpec


@dataclass(frozen=True, slots=True)
class Packing:
    """How chunks of `blocks` blocks are packed: shared by all sequences of an engine."""

    codec: KvtcCodec
    exact: LosslessCodec
    shape: BlockShape
    blocks: int

    @property
    def tokens(self) -> int:
        """Tokens of a chunk."""
        return self.blocks * self.shape.tokens


@dataclass(slots=True)
class PackedFront:
    """Chunks from position 0 on. `kept_exact`: those that the codec would not take."""

    packing: Packing
    chunks: list[tuple[bool, list[bytes]]] = field(default_factory=list)
    kept_exact: int = 0

    @property
    def tokens(self) -> int:
        """Tokens packed."""
        return len(self.chunks) * self.packing.tokens

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(len(part) for _, parts in self.chunks for part in parts)

    def add(self, blocks: Sequence[Buffer]) -> None:
        """Pack the next chunk: the bytes of its blocks."""
        packing = self.packing
        try:
            parts, coded = packing.codec.encode(blocks, index=len(self.chunks)), True
        except KeepExact:
            parts, coded = packing.exact.encode(blocks), False
            self.kept_exact += 1
        self.chunks.append((coded, [bytes(part) for part in parts]))

    def open(self) -> OpenedFront:
        """For one step: everything but the transform undone."""
        return OpenedFront(self)


class OpenedFront:
    """The packed tokens of one sequence during one step."""

    def __init__(self, front: PackedFront) -> None:
        packing = front.packing
        self._coder: RowCoder = packing.codec.coder
        self._rows: BlockRows = packing.codec.rows
        self._keys: RowLayout = packing.codec.calibration.keys
        self._values: RowLayout = packing.codec.calibration.values
        self._exact: list[tuple[int, Tensor]] = []  # first token, blocks [n, numbers]
        self._sinks: Tensor | None = None
        self._sink_count = 0
        self.tokens = front.tokens
        planes: list[list[Tensor]] = []
        for number, (coded, parts) in enumerate(front.chunks):
            views = [memoryview(part) for part in parts]
            if coded:
                planes.append(self._open_coded(packing, views))
            else:
                planes.append([])
                self._exact.append((number * packing.tokens, _decode_exact(packing, views)))
        self._coefficients = _joined(planes, packing.tokens)
        self._factors: dict[Rotary, tuple[Tensor, Tensor]] = {}
        self._positions = torch.arange(self.tokens)

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, [tokens, heads, dim] float32 each, as attention wants
        them."""
        key, value = self._keys.parts[number], self._values.parts[number]
        keys = self._columns(self._keys, number, offset=0).view(-1, key.heads, key.dim)
        if key.rotary is not None:
            keys = key.rotary.apply_factors(keys, self._turns(number))
        offset = self._keys.width
        values = self._columns(self._values, number, offset=offset)
        values = values.view(-1, value.heads, value.dim)
        for first, blocks in self._exact:
            exact_keys, exact_values = self._rows.layer(blocks, number)
            keys[first : first + len(exact_keys)] = exact_keys
            values[first : first + len(exact_values)] = exact_values
        if self._sinks is not None:
            count = self._sink_count
            sinks = self._rows.exact_layer(self._sinks, number, count=count)
            keys[:count], values[:count] = sinks
        return keys, values

    def _open_coded(self, packing: Packing, parts: list[Buffer]) -> list[Tensor]:
        opened = packing.codec.open(parts, tokens=packing.tokens)
        if opened.sinks:
            self._sinks, self._sink_count = opened.exact, opened.sinks
            pad = [c.new_zeros(opened.sinks, c.shape[1]) for c in opened.coefficients]
            return [torch.cat(pair) for pair in zip(pad, opened.coefficients, strict=True)]
        return opened.coefficients

    def _columns(self, layout: RowLayout, number: int, *, offset: int) -> Tensor:
        if not self._coefficients:  # nothing is coded
            return torch.zeros(self.tokens, layout.parts[number].width)
        start = offset + sum(part.width for part in layout.parts[:number])
        return self._coder.columns(self._coefficients, start, start + layout.parts[number].width)

    def _turns(self, number: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, once for all layers of one embedding."""
        rotary = self._keys.parts[number].rotary
        assert rotary is not None
        if rotary not in self._factors:
            self._factors[rotary] = rotary.factors(self._positions)
        return self._factors[rotary]


def attend_packed(
    query: Tensor, keys: Tensor, values: Tensor, spec: AttentionSpec, *, first: int
) -> tuple[Tensor, Tensor]:
    """Attention of queries at positions `first`, first + 1 ... over keys at 0, 1 ..., which all lie
    before them. query [n, q_heads, dim], keys and values [tokens, kv_heads, dim] -> output
    [n, q_heads, value_dim] float32 and log-sum-exp [n, q_heads]; sinks are left to the other part.
    """
    count, q_heads, dim = query.shape
    heads = keys.shape[1]
    wide = query.float().view(count, heads, q_heads // heads, dim).permute(1, 2, 0, 3)
    scores = wide @ keys.permute(1, 2, 0)[:, None] * spec.scale  # [heads, group, n, tokens]
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    if spec.window is not None:
        position = first + torch.arange(count)[:, None]
        hidden = torch.arange(len(keys))[None] <= position - spec.window
        scores = scores.masked_fill(hidden, float("-inf"))
    lse = scores.logsumexp(-1)
    weights = torch.exp(scores - lse.masked_fill(lse.isneginf(), 0.0)[..., None])
    out = weights @ values.transpose(0, 1)[:, None]
    out = out.permute(2, 0, 1, 3).reshape(count, q_heads, -1)
    return out, lse.permute(2, 0, 1).reshape(count, q_heads)


def _decode_exact(packing: Packing, parts: list[Buffer]) -> Tensor:
    numbers = torch.empty(packing.blocks, packing.shape.numbers, dtype=packing.shape.dtype)
    packing.exact.decode(parts, [memoryview(numbers.view(torch.uint8).numpy().reshape(-1).data)])
    return numbers


def _joined(chunks: list[list[Tensor]], tokens: int) -> list[Tensor]:
    """Each plane's coefficients of all chunks, zero where a chunk is not coded."""
    widths = next(([c.shape[1] for c in planes] for planes in chunks if planes), [])
    return [
        torch.cat([planes[at] if planes else torch.zeros(tokens, width) for planes in chunks])
        for at, width in enumerate(widths)
    ]
