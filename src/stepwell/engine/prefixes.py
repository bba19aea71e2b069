"""Prefixes that are kept, and KV that must be forgotten: on the device and in lower tiers.

Owns no state of its own: pins and marks are the brain's (`cache/device_pins.py`, `cache/pins.py`,
`cache/marks.py`). What is forgotten on the device is overwritten here, before anybody gets the
blocks again. Not reached: scratch memory of the mover and staging slots (reused, never scanned),
coded fronts of rolling sequences, and other replicas, which must be told themselves.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stepwell.base.prefix import Erased, Erasure, PinState, PrefixPin, PrefixStats
from stepwell.cache.manager import CacheManager
from stepwell.model.pool import KVPool

if TYPE_CHECKING:
    from stepwell.engine.tiers import Tiers


class Prefixes:
    """On the engine's thread, between two steps."""

    def __init__(self, *, cache: CacheManager, pool: KVPool, tiers: Tiers | None) -> None:
        self._cache = cache
        self._pool = pool
        self._tiers = tiers
        self._erased_blocks = self._erased_chunks = 0

    def pin(self, pin: PrefixPin) -> PinState:
        """Keep the whole blocks of these tokens, those that are there and those that come. Computes
        nothing: a request with the same tokens does."""
        cache, size = self._cache, self._cache.block_size
        keys = cache.keys_of(pin.token_ids, tenant=pin.tenant)
        kept = cache.pool.pin(pin.name, keys, worth=pin.worth)
        chunks = 0
        if self._tiers is not None:
            chunks = self._tiers.pin_prefix(pin.name, keys, time.monotonic())
        return PinState(
            tokens=len(keys) * size,
            kept=kept * size,
            on_device=len(cache.pool.find(keys)) * size,
            in_tiers=chunks,
            bytes=len(keys) * self._pool.block_bytes,
        )

    def unpin(self, name: str) -> None:
        """Unknown names are ignored."""
        self._cache.pool.unpin(name)
        if self._tiers is not None:
            self._tiers.hierarchy.unpin_prefix(name, time.monotonic())

    def forget(self, erasure: Erasure) -> Erased:
        """From here on nobody is given what the labels name. The device's bytes are overwritten
        when this returns, but for those that live sequences go on using; lower tiers' when
        `stats().erasing` is 0."""
        done = self._cache.forget(erasure.tenant, erasure.labels)
        chunks = 0
        if self._tiers is not None:
            chunks = self._tiers.forget(erasure.tenant, done.roots, time.monotonic())
        self.clean()
        self._erased_blocks += done.blocks
        self._erased_chunks += chunks
        return Erased(
            blocks=done.blocks, chunks=chunks, live=done.live, everything=done.roots.everything
        )

    def clean(self) -> None:
        """Overwrite the blocks that nobody may get as they are."""
        blocks = self._cache.pool.take_unclean()
        if blocks:
            self._pool.overwrite(blocks)
            self._cache.pool.cleaned(blocks)

    def stats(self) -> PrefixStats:
        """Counters and gauges of this moment."""
        pool = self._cache.pool
        return PrefixStats(
            pins=len(pool.pins),
            pinned_blocks=pool.num_kept,
            pin_evictions=pool.pin_evictions,
            erasing=0 if self._tiers is None else self._tiers.hierarchy.erasing,
            erased_blocks=self._erased_blocks,
            erased_chunks=self._erased_chunks,
        )
