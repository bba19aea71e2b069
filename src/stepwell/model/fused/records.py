"""The calls of a program over some layers and a number of rows, and what each kernel is told.

Records lie in one array: those that only depend on weights and workspace as they are when a program
is built, and one row a layer for writing K,V and for attention, which each step fills anew. Where
weights move between steps, `Program.point` writes their addresses anew before a layer runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stepwell.kernels.argmax import cpu as argmax
from stepwell.kernels.gather import cpu as gather
from stepwell.kernels.linear import activations, cpu_tiles
from stepwell.kernels.linear import cpu_kernel as linear_kernel
from stepwell.kernels.linear.activations import Rounded
from stepwell.kernels.linear.panels import PanelLinear
from stepwell.kernels.native import program
from stepwell.kernels.native.interrupt import Interrupt
from stepwell.kernels.norm import cpu as norm
from stepwell.kernels.rotary import cpu as rotary
from stepwell.model.fused.ends import StepEnds
from stepwell.model.fused.pages import StepCalls
from stepwell.model.fused.recognize import LayerParts
from stepwell.model.fused.workspace import Workspace

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LayerCalls:
    """Where one layer's calls are: [first, attend) before attention, [attend, after) writing K,V
    and attention itself, [after, last) behind it. `weights`: what of the layer its records point
    to, `places[i]` of the records to `weights[i]`."""

    first: int
    attend: int
    after: int
    last: int
    places: Integers
    weights: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """`calls` as `program.run` takes them, but for the addresses of the per-step records; `fresh`
    are the records as each run must find them, `records` those that it works on. `gathers` and
    `choice` are places in the records, of a program that has `StepEnds`."""

    calls: Integers
    layers: tuple[LayerCalls, ...]
    fresh: Integers
    records: Integers
    modules: tuple[Any, ...]  # compiled code, kept alive
    gathers: tuple[int, ...]  # where the records of a step's beginning are
    choice: int  # and that of its end

    def reset(self) -> None:
        """Make the records ready for a run."""
        self.records[:] = self.fresh

    def put(self, step: StepCalls, calls: Integers) -> None:
        """Write a step's own calls into a copy of `calls`."""
        places = [layer.attend for layer in self.layers]
        calls[places, :2] = step.writes
        calls[[place + 1 for place in places], :2] = step.attends

    def point(self, layer: LayerCalls) -> None:
        """Take the addresses of a layer's weights as they are now; after `reset`."""
        self.records[layer.places] = [weight.data_ptr() for weight in layer.weights]


class Builder:
    """Collects the calls of a program over rows [0, rows) of a workspace."""

    def __init__(self, workspace: Workspace, *, rows: int) -> None:
        self._workspace = workspace
        self._rows = rows
        self._calls: list[tuple[Any, int, int]] = []  # kernel, offset of its record, wait
        self._records: list[Integers] = []
        self._size = 0
        self._layers: list[LayerCalls] = []
        self._weights: list[tuple[int, Tensor]] = []  # of the layer at hand: place in the records
        self._last_rounded: tuple[str, tuple[int, int]] | None = None  # rows, (columns, group)
        self._gathers: list[int] = []
        self._choice = 0

    def build(self, layers: Sequence[LayerParts], ends: StepEnds | None = None) -> Program:
        """The program of these layers, in their order; with `ends`, of a whole step."""
        if ends is not None:
            self._begin(ends)
        for parts in layers:
            first = len(self._calls)
            self._before(parts)
            attend = len(self._calls)
            self._calls += [(None, 0, 1), (None, 0, 1)]  # write K,V; attend: the step's
            after = len(self._calls)
            self._behind(parts)
            places = np.array([place for place, _ in self._weights], dtype=np.int64)
            weights = tuple(weight for _, weight in self._weights)
            self._weights.clear()
            last = len(self._calls)
            self._layers.append(LayerCalls(first, attend, after, last, places, weights))
        if ends is not None:
            self._end(ends)
        fresh = np.concatenate(self._records)
        records = fresh.copy()
        base = records.ctypes.data
        calls = np.array(
            [(k.address if k else 0, base + 8 * at, wait) for k, at, wait in self._calls],
            dtype=np.int64,
        )
        kernels = tuple(k for k, _, _ in self._calls if k)
        gathers, choice = tuple(self._gathers), self._choice
        return Program(calls, tuple(self._layers), fresh, records, kernels, gathers, choice)

    def _begin(self, ends: StepEnds) -> None:
        """Rows of the embedding, and of the rotary tables."""
        sources = (
            (ends.embedding, ends.rows.tokens, "hidden"),
            (ends.cos, ends.rows.positions, "cos"),
            (ends.sin, ends.rows.positions, "sin"),
        )
        for table, places, target in sources:
            record = gather.fields(table, places[: self._rows], self._tensor(target))
            self._gathers.append(self._size)
            self._add(gather.compiled_kernel(), record)
        self._wait()

    def _end(self, ends: StepEnds) -> None:
        """norm -> head -> the best of each row."""
        rows = ends.rows
        self._norm(ends.norm, "hidden")
        kind = ends.head.kind_for(self._rows)
        rounded = self._round(ends.head, "normed") if kind == cpu_tiles.DOT_BYTES else None
        logits, found = rows.logits[: self._rows], rows.found[: self._rows]
        record = ends.head.fields(kind, self._tensor("normed"), logits, rounded=rounded)
        self._add(linear_kernel.compiled_kernel(kind), record)
        self._wait()
        logits = logits[:, : ends.head.out_features]
        self._add(argmax.compiled_kernel(), argmax.fields(logits, found))
        self._wait()
        places = (array[: self._rows] for array in (rows.chosen[0], rows.tokens, rows.positions))
        chosen, tokens, positions = places
        record = argmax.choice_fields(found, chosen=chosen, tokens=tokens, positions=positions)
        self._choice = self._size
        self._add(argmax.compiled_choice(), record)
        self._wait()

    def _before(self, parts: LayerParts) -> None:
        """norm -> q, k, v -> rotary."""
        shape = parts.shape
        self._norm(parts.norm("input_layernorm"), "hidden")
        targets = [("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")]
        self._linears([(parts.linear(name), out) for name, out in targets], "normed")
        self._rotate("query", shape.q_heads, parts.head_norm("q_norm"))
        self._rotate("key", shape.kv_heads, parts.head_norm("k_norm"))
        self._wait()

    def _behind(self, parts: LayerParts) -> None:
        """o and the residual -> norm -> gate, up -> down and the residual."""
        added, gated = cpu_tiles.ADDED, cpu_tiles.GATED
        self._linears([(parts.linear("o_proj"), "middle")], "attended", (added, "hidden"))
        self._norm(parts.norm("post_attention_layernorm"), "middle")
        self._linears([(parts.linear("gate_proj"), "gate")], "normed")
        up = parts.linear("up_proj")
        self._linears([(up, "product")], "normed", (gated, "gate"))
        self._linears([(parts.linear("down_proj"), "hidden")], "product", (added, "middle"))

    def _tensor(self, name: str) -> Tensor:
        return self._workspace.rows[name][: self._rows]

    def _add(self, kernel: Any, record: Integers) -> None:
        self._calls.append((kernel, self._size, 0))
        self._records.append(record)
        self._size += len(record)

    def _wait(self) -> None:
        kernel, at, _ = self._calls[-1]
        self._calls[-1] = (kernel, at, 1)

    def _norm(self, weight: tuple[Tensor, float], source: str) -> None:
        record = norm.fields(
            self._tensor(source), weight[0], self._tensor("normed"), epsilon=weight[1]
        )
        self._weights.append((self._size + norm.WEIGHT, weight[0]))
        self._add(norm.compiled_kernel(), record)
        self._wait()
        self._forget_rounded("normed")

    def _rotate(self, name: str, heads: int, weight: tuple[Tensor, float] | None) -> None:
        rows = self._tensor(name).view(self._rows, heads, -1)
        scale, epsilon = weight or (None, 0.0)
        cos, sin = self._tensor("cos"), self._tensor("sin")
        record = rotary.fields(rows, cos, sin, norm=scale, epsilon=epsilon)
        if scale is not None:
            self._weights.append((self._size + rotary.NORM, scale))
        self._add(rotary.compiled_kernel(), record)

    def _linears(
        self,
        pairs: Sequence[tuple[PanelLinear, str]],
        source: str,
        ending: tuple[int, str] | None = None,
    ) -> None:
        """Layers of one input, each into its rows."""
        rows = self._tensor(source)
        for module, target in pairs:
            kind = module.kind_for(self._rows)
            record = module.fields(
                kind,
                rows,
                self._tensor(target),
                rounded=self._round(module, source) if kind == cpu_tiles.DOT_BYTES else None,
                ending=ending[0] if ending else cpu_tiles.PLAIN,
                other=self._tensor(ending[1]) if ending else None,
            )
            self._point_at(module)
            self._add(linear_kernel.compiled_kernel(kind), record)
            self._forget_rounded(target)
        self._wait()

    def _point_at(self, module: PanelLinear) -> None:
        """The record that is added next is of this layer."""
        found = [(linear_kernel.WEIGHTS, module.panels), (linear_kernel.BIAS, module.padded_bias)]
        if module.group:
            found.append((linear_kernel.SCALES, module.scales))
        self._weights += [(self._size + field, tensor) for field, tensor in found]

    def _round(self, module: PanelLinear, source: str) -> Rounded:
        """The input rounded to int8: by a call that is added, unless the last one rounded it."""
        size = (module.in_features, module.group)
        rounded = self._workspace.rounded[size]
        if self._last_rounded != (source, size):
            if self._calls:
                self._wait()  # whoever still reads what was rounded before
            record = activations.fields(self._tensor(source), rounded)
            self._add(activations.compiled_kernel(), record)
            self._wait()
            self._last_rounded = (source, size)
        return rounded

    def _forget_rounded(self, written: str) -> None:
        if self._last_rounded is not None and self._last_rounded[0] == written:
            self._last_rounded = None


def run_calls(calls: Integers, *, threads: int, interrupt: Interrupt | None = None) -> int:
    """Run part of a program; as `program.run`."""
    return program.run(np.ascontiguousarray(calls), threads=threads, interrupt=interrupt)
