"""The nouns of one step over a paged KV pool, and the signature that every version implements."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class KVFormat(enum.StrEnum):
    """How a pool keeps K and V. The values are those of the setting `model.kv`."""

    MODEL = "model"  # numbers of the model's dtype
    INT8 = "int8"
    INT4 = "int4"


@dataclass(frozen=True, slots=True)
class LowBit:
    """What a layer of a low-bit pool has beside its levels; the layout is in `low_bit`."""

    format: KVFormat  # INT8 or INT4
    dtype: torch.dtype  # what K and V were before: queries and outputs are of it
    scales: Tensor  # bfloat16 [num_blocks, kv_heads, tiles, groups of K then of V, 16 tokens]


@dataclass(frozen=True, slots=True)
class PagedLayer:
    """One layer's view of the block pool. The engine owns the pool; kernels only borrow it.

    The inner dimensions are contiguous. The block stride is free, so that one block can hold
    all layers in one piece of memory (which is what makes a chunk one copy).
    """

    key: Tensor  # [num_blocks, kv_heads, block_size, key_dim]; low-bit: uint8 levels
    value: Tensor  # [num_blocks, kv_heads, block_size, value_dim]; low-bit: uint8 levels
    low_bit: LowBit | None = None

    @property
    def format(self) -> KVFormat:
        """How K and V are kept."""
        return KVFormat.MODEL if self.low_bit is None else self.low_bit.format

    @property
    def dtype(self) -> torch.dtype:
        """Of K and V as the model gives them."""
        return self.key.dtype if self.low_bit is None else self.low_bit.dtype

    @property
    def kv_heads(self) -> int:
        return self.key.shape[1]

    @property
    def block_size(self) -> int:
        """Tokens in one block."""
        tile = 1 if self.low_bit is None else self.low_bit.scales.shape[4]
        return self.key.shape[2] * tile

    @property
    def key_dim(self) -> int:
        return self._dim(self.key)

    @property
    def value_dim(self) -> int:
        return self._dim(self.value)

    def _dim(self, side: Tensor) -> int:
        if self.low_bit is None:
            return side.shape[3]
        levels = math.prod(side.shape[2:]) // self.block_size  # bytes of one head's token
        return levels * (2 if self.low_bit.format is KVFormat.INT4 else 1)


@dataclass(frozen=True, slots=True)
class PrefillSpan:
    """One sequence of a step that brings several new tokens, as host-side numbers."""

    sequence: int  # row of block_tables
    query_start: int  # row of its first new token
    query_length: int  # new tokens, at least 1
    context_len: int  # tokens in the pool once this step's are written, new ones included


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class RaggedBatch:
    """One step: S sequences bring T new tokens. Sequences with exactly one new token come first.

    The engine builds one per step (`build` derives every field) and all layers share it; kernels
    key what they derive from it by its identity, so its tensors must not be changed in place.
    """

    query_starts: Tensor  # int32 [S + 1], cumulative new tokens
    context_lens: Tensor  # int32 [S], tokens in the pool once this step's are written
    block_tables: Tensor  # int32 [S, max_blocks]; entries past the context are never read
    slots: Tensor  # int64 [T] = block id * block_size + offset: where each new token's K,V go
    num_decodes: int  # the first num_decodes sequences have exactly one new token
    block_size: int
    prefills: tuple[PrefillSpan, ...]  # the other sequences

    @classmethod
    def build(
        cls,
        query_lengths: Sequence[int],
        context_lens: Sequence[int],
        *,
        block_tables: Sequence[Sequence[int]],
        block_size: int,
        device: torch.device | str = "cpu",
    ) -> RaggedBatch:
        """A batch from host-side numbers; the one-token sequences must come first."""
        decodes = next((i for i, n in enumerate(query_lengths) if n != 1), len(query_lengths))
        starts = [0]
        slots: list[int] = []
        for new, context, table in zip(query_lengths, context_lens, block_tables, strict=True):
            starts.append(starts[-1] + new)
            slots += [
                table[at // block_size] * block_size + at % block_size
                for at in range(context - new, context)
            ]
        width = max((len(table) for table in block_tables), default=0)
        rows = [[*table, *([0] * (width - len(table)))] for table in block_tables]
        spans = (
            PrefillSpan(sequence=i, query_start=starts[i], query_length=n, context_len=c)
            for i, (n, c) in enumerate(zip(query_lengths, context_lens, strict=True))
            if i >= decodes
        )
        return cls(
            query_starts=torch.tensor(starts, dtype=torch.int32, device=device),
            context_lens=torch.tensor(context_lens, dtype=torch.int32, device=device),
            block_tables=torch.tensor(rows, dtype=torch.int32, device=device).view(
                len(rows), width
            ),
            slots=torch.tensor(slots, dtype=torch.int64, device=device),
            num_decodes=decodes,
            block_size=block_size,
            prefills=tuple(spans),
        )


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What an attention layer computes, besides the softmax of scaled products.

    `window` counts visible tokens, the query's own included: i sees j iff i - window < j <= i.
    """

    scale: float  # factor on the products, usually key_dim ** -0.5
    window: int | None = None
    softcap: float | None = None  # scores become softcap * tanh(scores / softcap)
    sinks: Tensor | None = None  # [q_heads]: a further logit that only enters the denominator

    @property
    def plain(self) -> bool:
        """Whether no step lies between the scores and the softmax (a window is only a mask)."""
        return self.softcap is None and self.sinks is None


class PagedAttention(Protocol):
    """Causal attention of the new tokens over their sequences' pages.

    `query` is [T, q_heads, key_dim]; query heads h * G .. (h + 1) * G - 1 share kv head h.
    Returns the output [T, q_heads, value_dim] in the query's dtype and the natural-log sum of
    exponentials [T, q_heads] in float32 (the sink counts in it); versions may leave the latter
    out unless `with_lse`. A row that sees no key is 0 with -inf. The step's own K,V must already
    be in the pool (`write_kv`); block ids must be of the pool, and are not checked.
    """

    def __call__(
        self,
        query: Tensor,
        layer: PagedLayer,
        batch: RaggedBatch,
        spec: AttentionSpec,
        *,
        with_lse: bool,
    ) -> tuple[Tensor, Tensor | None]: ...


def visible_from(position: int, window: int | None) -> int:
    """The first key position that the query at `position` sees."""
    return 0 if window is None else max(0, position - window + 1)


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold `tokens` tokens."""
    return math.ceil(tokens / block_size)
