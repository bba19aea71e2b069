"""What is compared with the unquantized model: formats of weights and of KV, and what they are
measured on."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepwell.base.errors import ConfigError, unknown_name
from stepwell.kernels.linear.quantize import WeightFormat
from stepwell.kernels.paged_attention import KVFormat
from stepwell.model.load import find_checkpoint
from stepwell.model.weight_recipe import Recipe, load_recipe


class How(enum.StrEnum):
    """What an arm's figures were measured on; see `precision_arms`."""

    ENGINE = "engine"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One setting to compare with the unquantized model."""

    weights: WeightFormat
    how: How
    kv: KVFormat = KVFormat.MODEL
    recipe: Recipe | None = None

    @property
    def label(self) -> str:
        """For progress and as a key."""
        kv = "" if self.kv is KVFormat.MODEL else f", kv {self.kv}"
        return f"{self.weights}{kv} ({self.how})"

    @property
    def exceptions(self) -> Mapping[str, WeightFormat]:
        """Layers in higher precision."""
        return {} if self.recipe is None else self.recipe.exceptions


def make_formats(names: Sequence[str]) -> tuple[WeightFormat, ...]:
    """Those of `--weights`. Raises ConfigError for a name that is none, and for no name."""
    for name in names:
        if name not in list(WeightFormat):
            message, hint = unknown_name("weight format", name, list(WeightFormat))
            raise ConfigError(message, hint=hint, param="weights")
    if not names:
        known = ", ".join(WeightFormat)
        raise ConfigError("no format.", hint=f"Known: {known}.", param="weights")
    return tuple(WeightFormat(name) for name in dict.fromkeys(names))


def make_hows(names: Sequence[str], *, device: str) -> tuple[How, ...]:
    """Those of `--on`. Raises ConfigError for a name that is none, for none, and for the engine's
    kernels elsewhere than on the CPU."""
    for name in names:
        if name not in list(How):
            message, hint = unknown_name("way to measure", name, list(How))
            raise ConfigError(message, hint=hint, param="on")
    hows = tuple(how for how in How if how in names)
    if not hows or (How.ENGINE in hows and device != "cpu"):
        reason = "the kernels for low bits are for the CPU" if hows else "nothing to measure on"
        raise ConfigError(f"{reason}.", hint="Give --on simulated.", param="on")
    return hows


def make_kvs(names: Sequence[str], *, hows: Sequence[How]) -> tuple[KVFormat, ...]:
    """Those of `--kv`. Raises ConfigError for a name that is none, for none, and for low bits
    without the engine's kernels."""
    for name in names:
        if name not in list(KVFormat):
            message, hint = unknown_name("kv format", name, list(KVFormat))
            raise ConfigError(message, hint=hint, param="kv")
    if not names:
        raise ConfigError("no kv format.", hint=f"Known: {', '.join(KVFormat)}.", param="kv")
    if How.SIMULATED in hows and set(names) != {KVFormat.MODEL}:
        raise ConfigError("KV in low bits is not simulated.", hint="Give --on engine.", param="kv")
    return tuple(KVFormat(name) for name in dict.fromkeys(names))


def make_arms(
    model: str,
    formats: Sequence[WeightFormat],
    kvs: Sequence[KVFormat] = (KVFormat.MODEL,),
    *,
    hows: Sequence[How],
    with_recipes: bool,
) -> tuple[Arm, ...]:
    """For each format of weights and of KV, with what `stepwell evaluate sensitivity` left for the
    checkpoint. There is nothing to simulate of weights as they are."""
    folder = find_checkpoint(model)
    return tuple(
        Arm(
            weights=format,
            how=how,
            kv=kv,
            recipe=load_recipe(folder, format) if with_recipes else None,
        )
        for format in formats
        for kv in kvs
        for how in hows
        if how is How.ENGINE or not format.is_exact
    )
