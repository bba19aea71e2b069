"""Policies by name. Belady is not among them: it needs the future (`simulate/`)."""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.cache.policy import PolicyFactory
from stepwell.cache.policy.lru import Lru

POLICIES: Mapping[str, PolicyFactory] = {"lru": Lru}
