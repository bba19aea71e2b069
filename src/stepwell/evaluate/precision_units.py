"""The linear layers of a model, what they weigh in each format, and which of them go together.

Layers that read the same input (query, key and value; gate and up) are one unit: kernels join their
weights into one matrix, which then has one format.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from stepwell.base.errors import ConfigError
from stepwell.kernels.linear.quantize import WeightFormat, group_for, stored_bytes

_JOINED = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up",
}  # fmt: skip
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Linear:
    """One layer: its module's name, the module, and the shape [rows, columns] of its weight."""

    name: str
    module: nn.Linear

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.module.out_features, self.module.in_features

    def nbytes(self, format: WeightFormat) -> int:
        """Bytes of its weight as stored, scales counted; in bfloat16 where no group divides it."""
        rows, columns = self.shape
        if not self.takes(format):
            format = WeightFormat.BFLOAT16
        group = 1 if format.is_exact else group_for(columns, format)
        return stored_bytes(rows, columns, format=format, group=group)

    def takes(self, format: WeightFormat) -> bool:
        """Whether some group divides its rows."""
        with contextlib.suppress(ConfigError):
            return format.is_exact or group_for(self.shape[1], format) > 0
        return False


@dataclass(frozen=True, slots=True)
class Unit:
    """Layers that get one format together."""

    name: str
    members: tuple[Linear, ...]

    def nbytes(self, format: WeightFormat) -> int:
        """Bytes of all members."""
        return sum(linear.nbytes(format) for linear in self.members)


def linear_layers(model: nn.Module) -> list[Linear]:
    """All plain linear layers, the output head among them. ConfigError where there are none."""
    found = [Linear(name, m) for name, m in model.named_modules() if type(m) is nn.Linear]
    if not found:
        raise ConfigError(
            "the model has no plain linear layer.",
            hint="A checkpoint that is quantized already cannot be compared with its origin here.",
            param="model",
        )
    return found


def share_of_bfloat16(
    layers: Iterable[Linear],
    format: WeightFormat,
    exceptions: Mapping[str, WeightFormat] | None = None,
) -> float:
    """Bytes of these layers in a format, but for the exceptions, over their bytes in bfloat16."""
    layers, kept = list(layers), exceptions or {}
    size = sum(linear.nbytes(kept.get(linear.name, format)) for linear in layers)
    return size / sum(linear.nbytes(WeightFormat.BFLOAT16) for linear in layers)


def make_units(layers: Sequence[Linear], *, at_most: int) -> list[Unit]:
    """Units in the order in which they run. Where they are more than `at_most`, neighbouring
    decoder layers are taken together, kind by kind: one measurement for all of them."""
    depth = 1 + max(
        (number for linear in layers if (number := _number(linear.name)) >= 0), default=0
    )
    span = 1
    while True:
        groups: dict[str, list[Linear]] = {}
        for linear in layers:
            groups.setdefault(_unit_name(linear.name, span, depth), []).append(linear)
        if len(groups) <= max(1, at_most) or span >= depth:
            return [Unit(name, tuple(members)) for name, members in groups.items()]
        span += 1


def _number(name: str) -> int:
    match = _LAYER.search(name)
    return int(match.group(1)) if match else -1


def _unit_name(name: str, span: int, depth: int) -> str:
    """`model.layers.7.self_attn.q_proj` -> `layers 6-7 qkv` with a span of 2."""
    kind = name.rpartition(".")[2]
    number = _number(name)
    if number < 0:
        return kind
    first = number // span * span
    last = min(first + span, depth) - 1
    where = f"layer {first}" if span == 1 else f"layers {first}-{last}"
    return f"{where} {_JOINED.get(kind, kind)}"
