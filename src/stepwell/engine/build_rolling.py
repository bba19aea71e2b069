"""From settings to rolling compression, where it is asked for."""

from __future__ import annotations

from stepwell.base.config import Config
from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError
from stepwell.cache.manager import CacheManager
from stepwell.codec.lossless import LosslessCodec
from stepwell.engine.codecs import block_shape, make_kvtc
from stepwell.engine.rolling import Rolling
from stepwell.model.load import LoadedModel
from stepwell.model.packed import Packing
from stepwell.model.pool import KVPool

_CHUNK_TOKENS = 64
"""Packed at once: fewer pay more for headers and calls, more overshoot the window."""


def make_rolling(
    config: Config, loaded: LoadedModel, pool: KVPool, cache: CacheManager
) -> tuple[Rolling | None, list[Decision]]:
    """None where it is off. Raises ConfigError for an accelerator, a pool that is too small, and
    where the model was never calibrated."""
    if config.cache.rolling == "off":
        return None, []
    if pool.storage.device.type != "cpu":
        raise ConfigError("cache.rolling needs model.device = cpu.", param="cache.rolling")
    shape = block_shape(pool)
    codec, decision = make_kvtc(config.tiers, loaded, shape)
    packing = Packing(
        codec=codec,
        exact=LosslessCodec(shape.dtype, shape=shape),
        shape=shape,
        blocks=max(1, _CHUNK_TOKENS // pool.block_size),
    )
    rolling = Rolling(
        packing,
        cache,
        block_bytes=pool.views,
        window=config.tiers.exact_window,
        max_step_tokens=config.scheduler.max_step_tokens,
    )
    why = f"longer sequences keep {rolling.resident_tokens} tokens in the pool, older ones coded"
    return rolling, [decision, Decision("cache.rolling", config.cache.rolling, why)]
