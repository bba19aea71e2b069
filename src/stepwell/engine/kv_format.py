"""Which format the pool keeps K and V in, and what goes with it.

Refuses by name what does not work over a low-bit pool: it must not be found out while serving.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stepwell.base.config import AUTO, Config, TiersConfig
from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError
from stepwell.kernels.paged_attention import KVFormat
from stepwell.kernels.paged_attention.low_bit import refusal
from stepwell.model.attention import LayerShape
from stepwell.model.pool import block_bytes

_NAME = "model.kv"


def check_kv(config: Config, device: torch.device) -> None:
    """Before anything is loaded. Raises ConfigError for a device, rolling compression or a tier's
    codec that low-bit K,V do not go with."""
    form = KVFormat(config.model.kv)
    if form is KVFormat.MODEL:
        return
    if device.type != "cpu":
        raise ConfigError(
            f"{_NAME} = {form} needs model.device = cpu, not {device.type}.",
            hint="Its kernels are compiled for the CPU only; leave model.kv at `model`.",
            param=_NAME,
        )
    if config.cache.rolling != "off":
        raise ConfigError(
            f"cache.rolling codes 16-bit K,V and does not go with {_NAME} = {form}.",
            hint="Use one of the two.",
            param="cache.rolling",
        )
    _check_codecs(config.tiers, form)


def _check_codecs(tiers: TiersConfig, form: KVFormat) -> None:
    for tier in ("host", "disk", "remote"):
        name = getattr(tiers, f"{tier}_codec")
        if name not in ("raw", AUTO):
            raise ConfigError(
                f"tiers.{tier}_codec = {name} does not go with {_NAME} = {form}: it codes numbers "
                "of the model's precision, not levels.",
                hint="`raw` moves the pool's low-bit bytes as they are.",
                param=f"tiers.{tier}_codec",
            )


def choose_kv(
    config: Config, shapes: Mapping[Any, LayerShape], dtype: torch.dtype
) -> tuple[KVFormat, Decision]:
    """The pool's format. Raises ConfigError for layers or blocks of sizes that it does not take."""
    form, size = KVFormat(config.model.kv), config.cache.block_size
    layers = list(shapes.values())
    plain = block_bytes(layers, block_size=size, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    if form is KVFormat.MODEL:
        why = f"{_NAME}: {plain // size:,} bytes a token in {name}"
        return form, Decision(_NAME, form.value, why)
    for shape in layers:
        reason = refusal(form, block_size=size, dims=(shape.key_dim, shape.value_dim))
        if reason is not None:
            raise ConfigError(f"{_NAME} = {form}: {reason}.", hint=_hint(reason), param=_NAME)
    small = block_bytes(layers, block_size=size, dtype=dtype, form=form)
    why = f"{_NAME}: {small // size:,} bytes a token with its scales, {small / plain:.1%} of {name}"
    return form, Decision(_NAME, form.value, why)


def _hint(reason: str) -> str:
    if "block_size" in reason:
        return "Set cache.block_size to 16 or a larger power of two."
    return "Use `int8`, which takes multiples of 16, or `model`."
