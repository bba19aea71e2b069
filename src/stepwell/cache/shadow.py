"""Shadow caches: what LRU with half, the same and twice the room would have hit, while serving.

Spatial sampling (SHARDS, Waldspurger et al., FAST'15): one key in 64 is followed, in caches of a
64th of the size, so the price is a few bytes a chunk. Keys only; nothing is stored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from stepwell.base.tier_stats import ShadowResult

_ONE_IN = 64
SCALES = (0.5, 1.0, 2.0)


class ShadowCaches:
    """`capacity`: chunks of the real cache. Hits count a chunk wherever it is in its chain."""

    def __init__(self, capacity: int) -> None:
        self._sizes = [max(1, round(capacity * scale / _ONE_IN)) for scale in SCALES]
        self._caches: list[OrderedDict[bytes, None]] = [OrderedDict() for _ in SCALES]
        self._hits = [0] * len(SCALES)
        self._lookups = 0

    def use(self, keys: Sequence[bytes]) -> None:
        """A request uses this chain."""
        followed = [key for key in keys if not key[0] % _ONE_IN]
        if not followed:
            return
        self._lookups += len(followed)
        for at, (cache, size) in enumerate(zip(self._caches, self._sizes, strict=True)):
            self._hits[at] += sum(key in cache for key in followed)
            for key in reversed(followed):
                cache[key] = None
                cache.move_to_end(key)
            while len(cache) > size:
                cache.popitem(last=False)

    def results(self) -> tuple[ShadowResult, ...]:
        """One a scale."""
        return tuple(
            ShadowResult(policy="lru", scale=scale, lookups=self._lookups, hits=hits)
            for scale, hits in zip(SCALES, self._hits, strict=True)
        )
