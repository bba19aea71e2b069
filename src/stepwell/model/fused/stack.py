"""The module that stands in for a model's list of decoder layers.

It is called once for all of them, with the arguments of one: hidden states of a ragged step, the
step's cosines and sines, and the attention context. Over the paged pool everything is one program;
with any other context (probes, sequences with a packed front) attention runs through the context,
between the two halves of each layer. Where weights stream, each layer is a program of its own
between `Streams.enter` and `leave`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stepwell.base.decisions import Decision
from stepwell.base.errors import ModelError
from stepwell.kernels import registry
from stepwell.kernels.paged_attention import AttentionSpec, PagedLayer, RaggedBatch
from stepwell.model.attention import CONTEXT_ARGUMENT, AttentionContext, LayerShape, StepContext
from stepwell.model.fused.pages import PagedCalls, StepCalls
from stepwell.model.fused.recognize import LayerParts, parts_of
from stepwell.model.fused.records import Builder, LayerCalls, Program, run_calls
from stepwell.model.fused.workspace import Workspace, bucket_for

_PROGRAMS_KEPT = 128  # one for each number of rows that steps had lately, some 60 KB each


class Streams(Protocol):
    """Whoever moves weights. Between the two calls the data of the layer's tensors stays where it
    is and what it is; outside of them it may be anywhere."""

    def enter(self, layer: nn.Module) -> None:
        """Wait for a layer's weights. Raises WeightStoreError."""
        ...

    def leave(self, layer: nn.Module) -> None:
        """The layer entered last has been computed."""
        ...


class FusedStack(nn.Module):
    """Owns the workspace and the programs; `layers` keep their weights, which `streams` moves."""

    def __init__(
        self, layers: nn.ModuleList, parts: Sequence[LayerParts], *, streams: Streams | None = None
    ) -> None:
        super().__init__()
        self.layers = layers
        self._streams = streams
        self.parts = tuple(parts)
        self._workspace: Workspace | None = None
        self._programs: OrderedDict[int, Program] = OrderedDict()
        self._pages: PagedCalls | None = None
        self.lock = threading.Lock()  # one pass at a time: the workspace is shared

    @property
    def workspace(self) -> list[Tensor]:
        """Rows between kernels."""
        return [] if self._workspace is None else self._workspace.tensors

    @property
    def streams_weights(self) -> bool:
        """Whether weights move between layers."""
        return self._streams is not None

    def reserve(self, rows: int) -> Workspace:
        """Allocate for passes of up to so many rows, so that none does while serving."""
        if self._workspace is None or self._workspace.capacity < rows:
            self._workspace = Workspace(self.parts, capacity=bucket_for(rows))
            self._programs.clear()
            self._pages = None
        return self._workspace

    def forward(
        self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **kwargs: Any
    ) -> Tensor:
        """hidden_states [1, T, H] bfloat16 -> [1, T, H]."""
        context: AttentionContext | None = kwargs.get(CONTEXT_ARGUMENT)
        if context is None:
            return self._run_plain(hidden_states, position_embeddings, **kwargs)
        rows = hidden_states.shape[1]
        with self.lock:
            self.reserve(rows)
            program = self._program_for(rows)
            self._take("hidden", hidden_states[0])
            for name, table in zip(("cos", "sin"), position_embeddings, strict=True):
                self._take(name, table[0])
            program.reset()
            if isinstance(context, StepContext) and self._finds(context):
                self._run_paged(program, context, rows)
            else:
                self._run_in_pieces(program, context, rows)
            return self._rows("hidden", rows).clone().unsqueeze(0)

    def _run_plain(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **kwargs: Any
    ) -> Tensor:
        """As transformers does it, with one of its own attention functions."""
        if len({parts.shape.window for parts in self.parts}) > 1:
            raise ModelError("the layers of a fused model have several masks, of which one came.")
        for layer in self.layers:
            hidden_states = layer(hidden_states, position_embeddings=position_embeddings, **kwargs)
        return hidden_states

    def _rows(self, name: str, rows: int) -> Tensor:
        assert self._workspace is not None
        return self._workspace.rows[name][:rows]

    def _take(self, name: str, source: Tensor) -> None:
        self._rows(name, len(source)).copy_(source)

    def _program_for(self, rows: int) -> Program:
        known = self._programs.get(rows)
        if known is None:
            assert self._workspace is not None
            known = Builder(self._workspace, rows=rows).build(self.parts)
            self._programs[rows] = known
            if len(self._programs) > _PROGRAMS_KEPT:
                self._programs.popitem(last=False)
        self._programs.move_to_end(rows)
        return known

    def _finds(self, context: StepContext) -> bool:
        """Whether all of a pass can be one program."""
        return not context.packed and self._knows(context.layers)

    def finds_pages(self, layers: Mapping[nn.Module, PagedLayer]) -> bool:
        """Whether compiled code reads and writes this pool."""
        with self.lock:
            return self._knows(layers)

    def _knows(self, layers: Mapping[nn.Module, PagedLayer]) -> bool:
        if self._pages is None or not self._pages.fits(layers):
            self._pages = PagedCalls(self.parts, layers)
        return self._pages.usable

    def prepare(
        self, batch: RaggedBatch, layers: Mapping[nn.Module, PagedLayer], rows: int
    ) -> StepCalls:
        """What a step over a pool that is known adds to a program of so many rows. Hold `lock`."""
        if not self._knows(layers):
            raise ModelError("no compiled code reads this pool.")
        assert self._pages is not None
        names = ("query", "key", "value", "attended")
        return self._pages.prepare(batch, *(self._rows(name, rows) for name in names))

    def _run_paged(self, program: Program, context: StepContext, rows: int) -> None:
        step = self.prepare(context.batch, context.layers, rows)
        calls = program.calls.copy()
        program.put(step, calls)
        threads = torch.get_num_threads()
        if self._streams is None:
            run_calls(calls, threads=threads)
        else:
            for parts, place in zip(self.parts, program.layers, strict=True):
                self._enter(parts, program, place)
                run_calls(calls[place.first : place.last], threads=threads)
                self._streams.leave(parts.layer)
        step.check()

    def _enter(self, parts: LayerParts, program: Program, place: LayerCalls) -> None:
        """Make sure of the layer's weights, and of where they are."""
        if self._streams is not None:
            self._streams.enter(parts.layer)
            program.point(place)

    def _run_in_pieces(self, program: Program, context: AttentionContext, rows: int) -> None:
        threads = torch.get_num_threads()
        for parts, place in zip(self.parts, program.layers, strict=True):
            self._enter(parts, program, place)
            run_calls(program.calls[place.first : place.attend], threads=threads)
            query, key, value = (  # copies: a context may keep them, and the rows are used again
                self._rows(name, rows).view(rows, heads, -1).clone()
                for name, heads in (
                    ("query", parts.shape.q_heads),
                    ("key", parts.shape.kv_heads),
                    ("value", parts.shape.kv_heads),
                )
            )
            spec = AttentionSpec(scale=parts.scale, window=parts.shape.window)
            out = context.attend(parts.attention, query, key, value, spec)
            self._take("attended", out.flatten(1))
            run_calls(program.calls[place.after : place.last], threads=threads)
            if self._streams is not None:
                self._streams.leave(parts.layer)


def fuse_layers(
    model: nn.Module, shapes: Mapping[nn.Module, LayerShape], *, streams: Streams | None = None
) -> Decision:
    """Put a FusedStack in the place of the model's decoder layers, if all can be fused.

    Call it once linears are packed and layers probed. Nothing changes where the Decision says no.
    """
    name = "model.layers"
    if registry.kernel_choice() == registry.REFERENCE:
        return Decision(name, "as loaded", f"{registry.VARIABLE}=reference")
    base: Any = getattr(model, "model", None)
    layers = getattr(base, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not layers:
        return Decision(name, "as loaded", "the model has no list of layers where it is expected")
    parts: list[LayerParts] = []
    for number, layer in enumerate(layers):
        found = parts_of(layer, shapes)
        if isinstance(found, str):
            return Decision(name, "as loaded", f"layer {number}: {found}")
        parts.append(found)
    if len({(p.shape.q_heads, p.shape.kv_heads, p.shape.key_dim) for p in parts}) > 1:
        return Decision(name, "as loaded", "layers differ in their heads")
    base.layers = nn.ModuleList([FusedStack(layers, parts, streams=streams)])
    how = "as one program of kernels" if streams is None else "as a program of kernels each"
    return Decision(name, "fused", f"{len(parts)} layers run {how}")
