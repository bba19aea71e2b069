"""A model without weights, cut into what is streamed and what stays.

Streamed in units: each decoder layer, and the output head in slabs of rows. The input embedding is
read by rows (`embedding.py`). The rest (norms, rotary factors) is small and stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.base.errors import UnsupportedArchitecture
from stepwell.hardware.account import grown
from stepwell.model.attention import ATTENTION_NAME
from stepwell.model.quick_imports import import_meta_operators

_SLAB_ROWS = 256  # slabs are multiples of this, so that their products are cut like the whole one


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tensor's values are: a name in the checkpoint, and which of its rows."""

    name: str
    rows: slice | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """A module that is read and computed as one. `name`: of the module in the model, for a slab of
    the module that it is a part of. `origins`: by the tensor's name in the module."""

    name: str
    module: nn.Module
    origins: dict[str, Origin]


@dataclass(frozen=True, slots=True)
class Skeleton:
    """`rest`: parameters that stay, by their names in model and checkpoint. `whole_bytes`: of all
    weights, tied ones once."""

    model: Any
    units: tuple[Unit, ...]
    layers: int
    embedding: nn.Embedding
    embedding_name: str
    rest: tuple[str, ...]
    parameters: int
    whole_bytes: int


class Slab(nn.Module):
    """Some rows of the output head: a linear layer in a module of its own, so that it can be
    replaced."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] -> [..., rows]."""
        return self.linear(x)


class SlabbedHead(nn.Module):
    """The output head as several slabs, one after the other: x -> [..., vocabulary]."""

    def __init__(self, slabs: Sequence[nn.Module]) -> None:
        super().__init__()
        self.slabs = nn.ModuleList(slabs)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] -> [..., vocabulary]."""
        return torch.cat([slab(x) for slab in self.slabs], dim=-1)


def make_skeleton(hf_config: Any, *, dtype: torch.dtype) -> Skeleton:
    """Build the model on no device and cut it. Raises UnsupportedArchitecture."""
    model = _without_weights(hf_config, dtype=dtype)
    names = dict(model.named_parameters())
    parameters = sum(p.numel() for p in names.values())
    whole = sum(p.numel() * p.element_size() for p in names.values())
    prefix, layers = _decoder_layers(model, hf_config.get_text_config().num_hidden_layers)
    units = [_layer_unit(f"{prefix}.{i}", layer) for i, layer in enumerate(layers)]
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise _unsupported(hf_config, "its input embedding is not a table of rows")
    embedding_name = _name_of(names, embedding.weight)
    slabs = _slab_head(model, names, limit=_unit_bytes(layers[0]) // 2)
    if slabs is None:
        raise _unsupported(hf_config, "its output head is not one linear layer")
    units += slabs
    streamed = {origin.name for unit in units for origin in unit.origins.values()}
    return Skeleton(
        model=model.eval(),
        units=tuple(units),
        layers=len(layers),
        embedding=embedding,
        embedding_name=embedding_name,
        rest=tuple(n for n in names if n not in streamed and n != embedding_name),
        parameters=parameters,
        whole_bytes=whole,
    )


def _without_weights(hf_config: Any, *, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    with grown("imports"), _parameters_on_meta():  # of what torch needs for meta tensors
        return AutoModelForCausalLM.from_config(
            hf_config, dtype=dtype, attn_implementation=ATTENTION_NAME, trust_remote_code=False
        )


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters lose their memory as modules register them; buffers, such as rotary frequencies,
    are computed as ever. Process-wide while it lasts: nothing else may build modules."""
    import_meta_operators()
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _decoder_layers(model: nn.Module, count: int) -> tuple[str, nn.ModuleList]:
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not lists:
        raise UnsupportedArchitecture(
            f"no list of {count} decoder layers was found in {type(model).__name__}.",
            hint="Load it whole: model.weights_budget = 0.",
        )
    return max(lists, key=lambda item: _unit_bytes(item[1]))


def _layer_unit(prefix: str, layer: nn.Module) -> Unit:
    origins = {name: Origin(f"{prefix}.{name}") for name, _ in layer.named_parameters()}
    return Unit(name=prefix, module=layer, origins=origins)


def _slab_head(model: Any, names: dict[str, nn.Parameter], *, limit: int) -> list[Unit] | None:
    """Put slabs of at most `limit` bytes in the head's place; None where it is no plain linear."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return None
    own = next(name for name, module in model.named_modules() if module is head)
    rows, width = head.weight.shape
    most = max(1, limit // (width * head.weight.element_size() * _SLAB_ROWS)) * _SLAB_ROWS
    units = []
    for start in range(0, rows, most):
        part = slice(start, min(start + most, rows))
        linear = nn.Linear(
            width, part.stop - part.start, bias=head.bias is not None, device="meta",
            dtype=head.weight.dtype,
        )  # fmt: skip
        linear.requires_grad_(requires_grad=False)
        origins = {
            f"linear.{name}": Origin(_name_of(names, parameter), part)
            for name, parameter in head.named_parameters()
        }
        units.append(Unit(name=own, module=Slab(linear), origins=origins))
    model.set_output_embeddings(SlabbedHead([unit.module for unit in units]))
    return units


def _name_of(names: dict[str, nn.Parameter], parameter: Tensor) -> str:
    """The checkpoint's name: of tied parameters, the first."""
    return next(name for name, candidate in names.items() if candidate is parameter)


def _unit_bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _unsupported(hf_config: Any, why: str) -> UnsupportedArchitecture:
    return UnsupportedArchitecture(
        f"{hf_config.model_type!r} cannot be streamed: {why}.",
        hint="Load it whole: model.weights_budget = 0.",
    )
