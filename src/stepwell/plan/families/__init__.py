"""What each kind of model is made of: `model_type` -> layers and weights.

One module for each way of building a layer; a model type that is in none of their tables is
refused. The truth is transformers' modelling code: `tests/plan` compares every tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stepwell.plan.architecture import LayerSpec, WeightPart
from stepwell.plan.families import dense, hybrid, latent, older, routed
from stepwell.plan.fields import Fields

Built = tuple[tuple[LayerSpec, ...], tuple[WeightPart, ...]]

_BUILDERS: dict[str, Callable[[Fields], Built]] = {
    model_type: module.build
    for module in (dense, routed, latent, hybrid, older)
    for model_type in module.FAMILIES
}


def known_types() -> Iterable[str]:
    """Every `model_type` that can be planned."""
    return sorted(_BUILDERS)


def build(fields: Fields) -> Built:
    """Layers and weights. Raises UnknownArchitecture."""
    builder = _BUILDERS.get(fields.model_type)
    if builder is None:
        raise fields.refused(f"not a kind of model that is known: {', '.join(known_types())}")
    return builder(fields)
