"""What each kind of model is made of: `model_type` -> layers and weights.

One module for each way of building a layer; a model type that is in none of their tables is
refused. The truth is transformers' modelling code: `tests/plan` compares every tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stepwell.plan.architecture import LayerSpec, WeightPart
from stepwell.plan.families import dense
from stepwell.plan.fields import Fields

Built = tuple[tuple[LayerSpec, ...], tuple[WeightPart, ...]]

_BUILDERS: tuple[Callable[[Fields], Built], ...] = (dense.build,)
_TABLES: tuple[Mapping[str, Any], ...] = (dense.FAMILIES,)


def known_types() -> tuple[str, ...]:
    """Every `model_type` that can be planned."""
    return tuple(sorted(name for table in _TABLES for name in table))


def defaults_of(model_type: str) -> Mapping[str, Any]:
    """What a configuration of this type means where it leaves fields out."""
    for table in _TABLES:
        if model_type in table:
            return table[model_type].defaults
    return {}


def build(fields: Fields) -> Built:
    """Layers and weights. Raises UnknownArchitecture."""
    for builder, table in zip(_BUILDERS, _TABLES, strict=True):
        if fields.model_type in table:
            return builder(fields)
    raise fields.refused(f"not a kind of model that is known here ({', '.join(known_types())})")
