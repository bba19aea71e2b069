"""Linear layers of a unit as the kernels read them: packed once when the store is built, and set up
empty, to be pointed at the packed bytes, whenever it is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stepwell.hardware.account import grown
from stepwell.kernels import registry
from stepwell.kernels.linear import PackedLinear, pack_linears
from stepwell.kernels.linear.layout import Panels
from stepwell.kernels.linear.quantize import WeightFormat
from stepwell.kernels.linear.units import PANELS

_LAYOUT = 2  # of packed weights: to be raised with every change of kernels/linear/layout.py


@dataclass(frozen=True, slots=True)
class Packing:
    """How the weights of linear layers are kept. `exceptions`: by the layer's name in the model;
    `coded`: matrices in bfloat16 in 12 bits a number, without loss."""

    format: WeightFormat = WeightFormat.BFLOAT16
    exceptions: Mapping[str, WeightFormat] = field(default_factory=dict)
    coded: bool = False

    @property
    def identity(self) -> str:
        """Differs where packed bytes do: the store holds them."""
        plain = registry.kernel_choice() == registry.REFERENCE
        named = sorted((name, str(kind)) for name, kind in self.exceptions.items())
        return repr((_LAYOUT, "plain" if plain else "packed", str(self.format), named, self.coded))

    def within(self, unit: str) -> dict[str, WeightFormat]:
        """The exceptions in a unit of that name, by their names in it; a slab of the output head
        has the format of the head."""
        start = f"{unit}."
        found = {
            name.removeprefix(start): kind
            for name, kind in self.exceptions.items()
            if name.startswith(start)
        }
        return found | ({"linear": self.exceptions[unit]} if unit in self.exceptions else {})


@dataclass(frozen=True, slots=True)
class StoredLinear:
    """A packed layer of a unit, without its bytes."""

    name: str
    rows: int
    columns: int
    format: str
    group: int


def pack_unit(module: nn.Module, packing: Packing, *, unit: str) -> list[StoredLinear]:
    """Pack the linear layers of a module that has its weights. Layers that could only be packed
    into an opaque layout stay plain: their bytes cannot come from a file."""
    plain = {name: child for name, child in module.named_modules() if type(child) is nn.Linear}
    pack_linears(module, format=packing.format, exceptions=packing.within(unit))
    found = []
    for name, child in list(module.named_modules()):
        if not isinstance(child, PackedLinear):
            continue
        if child.is_buffered:
            rows, columns, kind = child.out_features, child.in_features, str(child.format)
            found.append(StoredLinear(name, rows, columns, kind, int(child.group)))  # type: ignore[arg-type]
        else:
            module.set_submodule(name, plain[name])
    return found


def tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """What of a packed unit is stored: parameters, and buffers of packed layers; the smallest
    first, so that a resident prefix can be fine."""
    packed = {n for n, child in module.named_modules() if isinstance(child, PackedLinear)}
    found: list[tuple[str, Tensor]] = list(module.named_parameters())
    found += [(n, b) for n, b in module.named_buffers() if n.rpartition(".")[0] in packed]
    return sorted((item for item in found if item[1].numel()), key=lambda item: item[1].nbytes)


def empty(module: nn.Module, linears: Iterable[StoredLinear]) -> None:
    """Let go of the bytes of a packed unit."""
    set_up_empty(module, linears)
    for parameter in module.parameters():
        parameter.data = torch.empty(0, dtype=parameter.dtype)


def set_up_empty(module: nn.Module, linears: Iterable[StoredLinear]) -> None:
    """Put packed layers without bytes in the places of the linear ones."""
    rows = tuple(linears)
    if not rows:
        return
    with grown("kernels"):  # imports numba
        from stepwell.kernels.linear.panels import PanelLinear
    for row in rows:
        panels = torch.empty(0, 0, PANELS, 64, dtype=torch.uint8)
        scales = torch.empty(0, dtype=torch.float16)
        shape = (row.rows, row.columns)
        empty = Panels(WeightFormat(row.format), shape, row.group, panels, scales)
        module.set_submodule(row.name, PanelLinear(empty, None))
