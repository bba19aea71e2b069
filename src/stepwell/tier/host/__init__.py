"""The host tier: chunks in one bounded allocation of main memory.

Owns: the arena, its pages and the index over them. It survives nothing: it is as old as the
process.
"""

from __future__ import annotations

from stepwell.tier.host.pages import PagePool, Run
from stepwell.tier.host.tier import DEFAULT_PAGE_BYTES, HostTier

__all__ = ["DEFAULT_PAGE_BYTES", "HostTier", "PagePool", "Run"]
