"""Which parts of the hierarchy the settings ask for, told without importing those parts."""

from __future__ import annotations

from stepwell.base.config import AUTO, ModelConfig, TiersConfig
from stepwell.base.units import parse_bytes


def any_tier(config: TiersConfig) -> bool:
    """Whether any lower tier is asked for."""
    return bool(host_bytes(config) or config.disk or config.remote)


def outlives_process(config: TiersConfig) -> bool:
    """Whether some tier may hold chunks of earlier processes or of others."""
    return bool(config.disk or config.remote)


def host_bytes(config: TiersConfig) -> int:
    """Of the host tier, 0 for none."""
    return parse_bytes(config.host) if config.host else 0


def limits_weights(config: ModelConfig) -> bool:
    """Whether weights may have to stream."""
    return config.weights_budget == AUTO or parse_bytes(config.weights_budget) > 0
