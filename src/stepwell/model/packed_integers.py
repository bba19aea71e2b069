"""GPTQ and AWQ checkpoints: integers of few bits packed into int32, unpacked to weights.

A linear layer x @ w + bias with w [K, N] is stored as qweight, qzeros, scales and, for GPTQ, g_idx:

    w[k, n] = scales[g, n] * (q[k, n] - z[g, n])    g = g_idx[k], or k // group

GPTQ (AutoGPTQ and GPTQModel, `checkpoint_format` gptq): q lies along K, 32 / bits in an int32, the
lowest bits first; z along N, and what is stored is z - 1 (`gptq_v2`: z). AWQ (AutoAWQ, version
gemm, 4 bits): both along N, eight in an int32 in the order below.
Here the product is taken in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.base.errors import UnsupportedCheckpointFormat
from stepwell.model.plain_checkpoint import Shape, TensorSource

_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # place of column i among the eight of an int32
_PARTS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True, slots=True)
class Packing:
    """How a checkpoint packs. `zero_offset`: what is added to stored zero points."""

    bits: int
    group: int  # rows of w that share a scale; -1: all
    zero_offset: int
    along_columns: bool  # AWQ


class UnpackedTensors:
    """The tensors of a packed checkpoint as the model has them: `weight` [N, K] instead of the
    parts. Others are passed on."""

    def __init__(self, source: TensorSource, packing: Packing) -> None:
        self._source, self._packing = source, packing
        held = source.shapes
        owners = {n.removesuffix(".qweight") for n in held if n.endswith(".qweight")}
        shapes: dict[str, Shape] = {}
        for name, shape in held.items():
            owner, _, part = name.rpartition(".")
            if owner not in owners or part not in _PARTS:
                shapes[name] = shape
        for owner in owners:
            shapes[f"{owner}.weight"] = _weight_shape(held, owner, packing)
        self._owners, self.shapes = owners, shapes

    def read(self, name: str) -> Tensor:
        """A tensor; packed ones as float32."""
        owner, _, part = name.rpartition(".")
        if part != "weight" or owner not in self._owners:
            return self._source.read(name)
        stored = (part for part in _PARTS if f"{owner}.{part}" in self._source.shapes)
        return unpack(
            {part: self._source.read(f"{owner}.{part}") for part in stored}, self._packing
        )


def _weight_shape(held: Mapping[str, Shape], owner: str, packing: Packing) -> Shape:
    """[N, K] of a packed layer. Raises UnsupportedCheckpointFormat where its parts disagree."""
    per = 32 // packing.bits
    rows, columns = held[f"{owner}.qweight"]
    if packing.along_columns:
        inputs, outputs = rows, columns * per
    else:
        inputs, outputs = rows * per, columns
    groups = 1 if packing.group < 0 else -(-inputs // packing.group)
    wanted: dict[str, Shape] = {"scales": (groups, outputs), "qzeros": (groups, outputs // per)}
    if f"{owner}.g_idx" in held:
        wanted["g_idx"] = (inputs,)
    for part, shape in wanted.items():
        if held.get(f"{owner}.{part}") != shape:
            raise UnsupportedCheckpointFormat(
                f"{owner}.{part} has the shape {held.get(f'{owner}.{part}')}, not {shape}.",
                hint=f"Expected are {packing.bits} bits in groups of {packing.group}.",
            )
    return (outputs, inputs)


def unpack(parts: Mapping[str, Tensor], packing: Packing) -> Tensor:
    """The weight [N, K] in float32."""
    if packing.along_columns:
        levels = _columns(parts["qweight"], packing.bits, _AWQ_ORDER)
        zeros = _columns(parts["qzeros"], packing.bits, _AWQ_ORDER)
    else:
        levels = _columns(parts["qweight"].T, packing.bits).T
        zeros = _columns(parts["qzeros"], packing.bits)
    zeros = zeros + packing.zero_offset
    inputs = levels.shape[0]
    if "g_idx" in parts:
        group = parts["g_idx"].long()
    else:
        group = torch.arange(inputs) // (inputs if packing.group < 0 else packing.group)
    scales = parts["scales"].float()
    return (scales[group] * (levels - zeros[group])).T.contiguous()


def _columns(packed: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """[rows, columns] int32 -> [rows, columns * 32 / bits] integers, unsigned."""
    per = 32 // bits
    shifts = torch.arange(per, dtype=torch.int32) * bits
    if order is not None:
        shifts = shifts[torch.tensor(order)]
    values = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    return values.reshape(packed.shape[0], -1)
