"""One step on the device: the plan becomes a ragged batch, the model runs, logits come back.

All step buffers are allocated here, once, for the largest step; a step writes into them and hands
out views. The block table on the host has one row per running sequence (`Sequence.row`), and only
blocks that are new since the last step are written into it.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stepwell.cache.manager import CacheManager
from stepwell.engine.ahead import only_decodes
from stepwell.engine.scheduler import ScheduledSequence
from stepwell.kernels.paged_attention import PrefillSpan, RaggedBatch
from stepwell.model.attention import CONTEXT_ARGUMENT, PackedRows, StepContext
from stepwell.model.fused.forward import FusedForward, fused_stack
from stepwell.model.load import LoadedModel
from stepwell.model.pool import KVPool

if TYPE_CHECKING:
    from stepwell.model.fused.decode import Decoder


@dataclass(frozen=True, slots=True)
class StepLogits:
    """Logits of the rows that were asked for, float or half precision, [rows, vocabulary].

    `rows[i]` is the slice of rows of plan entry i: its sampling row last, if it samples.
    `likeliest`: each row's best token, where it is known already. Valid until the next step.
    """

    logits: Tensor
    rows: tuple[slice, ...]
    likeliest: list[int] | None = None


class ModelRunner:
    """Owns the step buffers. Uses, but does not own, the model and the pool."""

    def __init__(
        self,
        loaded: LoadedModel,
        pool: KVPool,
        *,
        max_step_tokens: int,
        max_sequences: int,
        max_model_len: int,
        max_ahead: int = 1,
    ) -> None:
        self._model = loaded.model
        stack = fused_stack(loaded.model)
        self._fused = None if stack is None else FusedForward(loaded.model, stack)
        if stack is not None:
            stack.reserve(max_step_tokens)
        self._pool = pool
        self._decoder = _decoder(loaded.model, self._fused, pool, max_sequences, max_ahead)
        self._device = pool.storage.device
        width = -(-max_model_len // pool.block_size)
        self._table = np.zeros((max_sequences, width), dtype=np.int32)
        self._filled = np.zeros(max_sequences, dtype=np.int64)
        self._batch_table = _buffer((max_sequences, width), torch.int32)
        self._tokens = _buffer((max_step_tokens,), torch.int64)
        self._positions = _buffer((max_step_tokens,), torch.int64)
        self._slots = _buffer((max_step_tokens,), torch.int64)
        self._starts = _buffer((max_sequences + 1,), torch.int32)
        self._contexts = _buffer((max_sequences,), torch.int32)
        self._states = [(-1, 0)] * max_sequences  # admission and packed tokens of the filled rows
        self._numbers = {module: number for number, module in enumerate(pool.layers)}

    @property
    def buffers(self) -> list[Tensor]:
        """The step buffers, the rows between fused kernels and around them, and tables of rotary
        embeddings."""
        own = [
            torch.from_numpy(self._table),
            self._batch_table,
            self._tokens,
            self._positions,
            self._slots,
            self._starts,
            self._contexts,
        ]
        own += [] if self._fused is None else self._fused.buffers
        return own + ([] if self._decoder is None else self._decoder.buffers)

    @property
    def nbytes(self) -> int:
        """Bytes of `buffers`."""
        return sum(buffer.nbytes for buffer in self.buffers)

    def can_decode(self, plan: Seq[ScheduledSequence]) -> bool:
        """Whether this step of decoding is one program, and several can be."""
        return self._decoder is not None and len(plan) <= self._decoder.rows.capacity

    def end_early(self) -> None:
        """Steps of decoding that another thread runs in one go end after the present one."""
        if self._decoder is not None:
            self._decoder.interrupt.ask()

    def go_on(self) -> None:
        """They run to their end again."""
        if self._decoder is not None:
            self._decoder.interrupt.clear()

    @torch.inference_mode()
    def decode(
        self, plan: Seq[ScheduledSequence], cache: CacheManager, *, steps: int = 1
    ) -> tuple[list[list[int]], Tensor]:
        """Steps of a plan that `can_decode`, each after the first with the likeliest tokens of the
        one before; the pool has room for all. Returns those tokens, by step (fewer if
        `end_early` was called) and entry of the plan, and the last step's logits."""
        assert self._decoder is not None
        batch = self._prepare(plan, cache)
        count, size = len(plan), self._pool.block_size
        table = batch.block_tables.numpy()
        contexts = self._contexts.numpy()[:count]
        batches = [batch]
        for step in range(1, steps):
            places = contexts.astype(np.int64) + (step - 1)  # of this step's token
            slots = table[np.arange(count), places // size].astype(np.int64) * size + places % size
            further = torch.from_numpy((places + 1).astype(np.int32))
            batches.append(replace(batch, context_lens=further, slots=torch.from_numpy(slots)))
        tokens, positions = (b.numpy()[:count] for b in (self._tokens, self._positions))
        chosen, logits = self._decoder.run(tokens, positions, batches, self._pool.layers)
        found: list[list[int]] = chosen.tolist()
        return found, logits

    @torch.inference_mode()
    def run(self, plan: Seq[ScheduledSequence], cache: CacheManager) -> StepLogits:
        """Compute the planned tokens: K and V land in the pool, logits come back."""
        if only_decodes(plan) and self.can_decode(plan):
            (likeliest,), logits = self.decode(plan, cache)
            rows = tuple(slice(i, i + 1) for i in range(len(plan)))
            return StepLogits(logits=logits, rows=rows, likeliest=likeliest)
        batch = self._prepare(plan, cache)
        context = StepContext(layers=self._pool.layers, batch=batch, packed=self._packed_rows(plan))
        total = sum(p.count for p in plan)
        keep, rows = _rows_to_keep(plan)
        if not keep and self._fused is None:
            keep = [total - 1]  # transformers has no way to ask for no logits at all
        tokens = self._to_device(self._tokens[:total])
        positions = self._to_device(self._positions[:total])
        rows_kept = torch.tensor(keep, dtype=torch.int64, device=self._device)
        if self._fused is not None:
            logits = self._fused.logits(tokens, positions, keep=rows_kept, context=context)
            return StepLogits(logits=logits, rows=rows)
        output = self._model(
            input_ids=tokens.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=rows_kept,
            **{CONTEXT_ARGUMENT: context},
        )
        return StepLogits(logits=output.logits[0], rows=rows)

    def _prepare(self, plan: Seq[ScheduledSequence], cache: CacheManager) -> RaggedBatch:
        tokens, positions, slots = (b.numpy() for b in (self._tokens, self._positions, self._slots))
        starts, contexts = self._starts.numpy(), self._contexts.numpy()
        size = self._pool.block_size
        cursor, num_decodes = 0, 0
        starts[0] = 0
        spans: list[PrefillSpan] = []
        for i, item in enumerate(plan):
            sequence, end = item.sequence, cursor + item.count
            row = self._refresh_row(item, cache)
            span = np.arange(item.start, item.start + item.count)
            tokens[cursor:end] = sequence.token_ids[item.start : item.start + item.count]
            positions[cursor:end] = span
            span -= sequence.packed_tokens  # places among the resident tokens
            slots[cursor:end] = self._table[row, span // size] * size + span % size
            starts[i + 1] = end
            contexts[i] = int(span[-1]) + 1
            if item.count == 1:
                num_decodes += 1
            else:
                spans.append(PrefillSpan(i, cursor, item.count, int(span[-1]) + 1))
            cursor = end
        picked = [p.sequence.row for p in plan]
        table = self._batch_table[: len(plan)]
        np.take(self._table, picked, axis=0, out=table.numpy())
        return RaggedBatch(
            query_starts=self._to_device(self._starts[: len(plan) + 1]),
            context_lens=self._to_device(self._contexts[: len(plan)]),
            block_tables=self._to_device(table),
            slots=self._to_device(self._slots[:cursor]),
            num_decodes=num_decodes,
            block_size=size,
            prefills=tuple(spans),
        )

    def _packed_rows(self, plan: Seq[ScheduledSequence]) -> list[PackedRows]:
        """What sequences with a packed front have beside the pool."""
        found, cursor = [], 0
        for item in plan:
            front = item.sequence.packed
            if front is not None and front.tokens:
                found.append(
                    PackedRows(cursor, cursor + item.count, item.start, front.open(), self._numbers)
                )
            cursor += item.count
        return found

    def _refresh_row(self, item: ScheduledSequence, cache: CacheManager) -> int:
        """Bring the host block table of this sequence up to date; returns its row."""
        sequence = item.sequence
        row, blocks = sequence.row, cache.blocks_of(sequence.sequence_id)
        state = (sequence.admission, sequence.packed_tokens)
        if self._states[row] != state:
            self._states[row], self._filled[row] = state, 0
        filled = int(self._filled[row])
        if filled < len(blocks):
            self._table[row, filled : len(blocks)] = blocks[filled:]
            self._filled[row] = len(blocks)
        return row

    def _to_device(self, buffer: Tensor) -> Tensor:
        return buffer if self._device.type == "cpu" else buffer.to(self._device, non_blocking=True)


def _decoder(
    model: Any, fused: FusedForward | None, pool: KVPool, sequences: int, steps: int
) -> Decoder | None:
    """Steps of decoding as programs, where model and pool can be read by compiled code."""
    if fused is None:
        return None
    from stepwell.model.fused.decode import Decoder

    if Decoder.refusal(model, fused) is not None or not fused.stack.finds_pages(pool.layers):
        return None
    return Decoder(model, fused, sequences=sequences, steps=steps)


def _buffer(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype, pin_memory=torch.cuda.is_available())


def _rows_to_keep(plan: Seq[ScheduledSequence]) -> tuple[list[int], tuple[slice, ...]]:
    """Which positions of the step need logits, and which of the kept rows are whose.

    A sequence that wants prompt logprobs needs every row that predicts a prompt token; one that
    samples needs its last row.
    """
    keep: list[int] = []
    rows: list[slice] = []
    cursor = 0
    for item in plan:
        first = len(keep)
        end = cursor + item.count
        if item.sequence.skips_prefix_cache:
            keep.extend(range(cursor, end))
        elif item.samples:
            keep.append(end - 1)
        rows.append(slice(first, len(keep)))
        cursor = end
    return keep, tuple(rows)
