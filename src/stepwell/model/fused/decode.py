"""Steps of decoding as one program each, or several as one: embedding, layers, norm, head, the
choice of the likeliest token, and again with that.

Between two programs Python runs, and finds nothing of its own in the caches: weights have streamed
through them. What takes a third of a millisecond of work then takes two or three. Tokens of rows
that take the likeliest one need no Python in between.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from stepwell.kernels.argmax import cpu as argmax
from stepwell.kernels.gather import cpu as gather
from stepwell.kernels.native import program as native
from stepwell.kernels.native.interrupt import Interrupt
from stepwell.kernels.paged_attention import PagedLayer, RaggedBatch
from stepwell.model.fused.ends import DecodeRows, Integers, StepEnds, ends_refusal
from stepwell.model.fused.records import Builder, Program, run_calls
from stepwell.model.fused.workspace import Workspace

if TYPE_CHECKING:
    from stepwell.model.fused.forward import FusedForward

_CAPACITY = 64  # sequences of a step; beyond that, Python between steps is a small part
_PROGRAMS_KEPT = 32  # one for each number of sequences that steps had lately


class Decoder:
    """Owns the rows of decoding and the programs over them. The workspace is the stack's."""

    def __init__(self, model: Any, forward: FusedForward, *, sequences: int, steps: int) -> None:
        self._model = model
        self._forward = forward
        self._stack = forward.stack
        head = model.lm_head
        self.interrupt = Interrupt()
        self.rows = DecodeRows(head, capacity=min(sequences, _CAPACITY), steps=steps)
        self._tables: tuple[Tensor, Tensor] | None = None
        self._workspace: Workspace | None = None
        self._programs: OrderedDict[int, Program] = OrderedDict()

    @staticmethod
    def refusal(model: Any, forward: FusedForward) -> str | None:
        """Why steps of this model stay in pieces, or None."""
        if forward.stack.streams_weights:
            return "weights are streamed"
        if not forward.has_tables:
            return "its rotary embedding depends on more than the position"
        reason = ends_refusal(model)
        if reason is None and model.lm_head.needs_rounded:
            size = (model.lm_head.in_features, model.lm_head.group)
            if size not in forward.stack.reserve(1).rounded:
                return "the head rounds its input as no layer does"
        return reason

    @property
    def buffers(self) -> list[Tensor]:
        """What is allocated here."""
        rows = self.rows
        arrays = (rows.tokens, rows.positions, rows.chosen, rows.found)
        return [rows.logits, *map(torch.from_numpy, arrays)]

    def finds_pages(self, layers: Mapping[nn.Module, PagedLayer]) -> bool:
        """Whether compiled code reads and writes this pool."""
        return self._stack.finds_pages(layers)

    def run(
        self,
        tokens: Integers,
        positions: Integers,
        batches: Sequence[RaggedBatch],
        layers: Mapping[nn.Module, PagedLayer],
    ) -> tuple[Integers, Tensor]:
        """One step for each batch, the first with these tokens int64 [T] at these positions, each
        next one with the likeliest ones of the step before, a position further.

        Returns the likeliest tokens int64 [steps, T] of the steps that have run (all, unless
        `interrupt` has been asked), and the last one's logits [T, vocabulary], valid until the
        next call. Raises IndexError where a token or slot is outside its table.
        """
        count, steps, rows = len(tokens), len(batches), self.rows
        with self._stack.lock:
            program = self._program_for(count, last=int(positions.max()) + steps)
            rows.tokens[:count], rows.positions[:count] = tokens, positions
            calls, records = _repeat(program, steps, stride=rows.chosen.strides[0])
            prepared = [self._stack.prepare(batch, layers, count) for batch in batches]
            for own, step in zip(calls, prepared, strict=True):
                program.put(step, own)
            calls[:-1, -1, native.WAIT] = native.WAIT_OR_END
            done = run_calls(
                calls.reshape(-1, native.COLUMNS), threads=torch.get_num_threads(),
                interrupt=self.interrupt,
            ) // calls.shape[1]  # fmt: skip
            for step in prepared:
                step.check()
            if sum(int(records[:, at + gather.OUTSIDE].sum()) for at in program.gathers):
                raise IndexError("a token is outside the embedding")
            logits = rows.logits[:count, : self._model.lm_head.out_features]
            return rows.chosen[:done, :count], logits

    def _program_for(self, count: int, *, last: int) -> Program:
        """The program over so many rows, up to position `last`."""
        tables = self._forward.tables(last)
        workspace = self._stack.reserve(count)
        if tables is not self._tables or workspace is not self._workspace:
            self._tables, self._workspace = tables, workspace
            self._programs.clear()
        known = self._programs.get(count)
        if known is None:
            base = self._model.model
            ends = StepEnds(
                embedding=base.embed_tokens.weight,
                cos=tables[0][0],
                sin=tables[1][0],
                norm=(base.norm.weight, base.norm.variance_epsilon),
                head=self._model.lm_head,
                rows=self.rows,
            )
            known = Builder(workspace, rows=count).build(self._stack.parts, ends)
            self._programs[count] = known
            if len(self._programs) > _PROGRAMS_KEPT:
                self._programs.popitem(last=False)
        self._programs.move_to_end(count)
        return known


def _repeat(program: Program, steps: int, *, stride: int) -> tuple[Integers, Integers]:
    """The program's calls [steps, calls, COLUMNS] and records [steps, size], each step's choice
    `stride` bytes further."""
    records = np.repeat(program.fresh[None], steps, axis=0)
    further = np.arange(steps, dtype=np.int64)
    records[:, program.choice + argmax.CHOSEN] += further * stride
    calls = np.repeat(program.calls[None], steps, axis=0)
    own = program.calls[:, native.KERNEL] != 0
    moved = records.ctypes.data - program.records.ctypes.data + further * records.strides[0]
    calls[:, own, native.RECORD] += moved[:, None]
    return calls, records
