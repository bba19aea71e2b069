"""Policies by name. Belady is not among them: it needs the future (`simulate/`)."""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.cache.policy import PolicyFactory
from stepwell.cache.policy.lru import Lru
from stepwell.cache.policy.s3fifo import S3Fifo
from stepwell.cache.policy.value import ValueDensity

POLICIES: Mapping[str, PolicyFactory] = {
    "value": ValueDensity,
    "lru": Lru,
    "s3fifo": S3Fifo,
}
"""The first is the default."""
