"""Chunks that the books did not put where they are: found by a scan at the start, or by asking a
shared tier."""

from __future__ import annotations

from collections.abc import Iterable

from stepwell.base.hierarchy import TierName
from stepwell.cache.chunks import CODED, NO_ROW
from stepwell.cache.meta import unpack_meta
from stepwell.cache.plan import ChainRequest
from stepwell.cache.settings import KINDS
from stepwell.cache.store import ChunkStore
from stepwell.cache.tenants import Tenants


def adopt_scan(
    store: ChunkStore,
    tenants: Tenants,
    tier: TierName,
    found: Iterable[tuple[bytes, int, bytes]],
    now: float,
) -> int:
    """Enter what a tier of our own holds after a restart: (key, size, meta) of a scan. Chunks of
    another metadata version or beyond the capacity are evicted. Returns how many were entered."""
    chunks = [(unpack_meta(meta), key, size) for key, size, meta in found]
    known = [(meta, key, size) for meta, key, size in chunks if meta is not None]
    known.sort(key=lambda item: item[0].position)
    count, table = 0, store.table
    for meta, key, size in known:
        row = table.index.get(key)
        if row is None:
            parent = table.index.get(meta.parent, NO_ROW)
            if parent != NO_ROW and table.position[parent] != meta.position - 1:
                parent = NO_ROW
            row = table.add(
                key, parent=parent, position=meta.position,
                tenant=tenants.of_digest(meta.tenant), kind=meta.kind % len(KINDS), now=now,
            )  # fmt: skip
            table.foreign[row] = 1
        if (table.where[row] | table.arriving[row]) >> tier & 1:
            continue
        store.adopt(row, tier, size, now)
        table.exact[row] |= meta.exact << tier
        if meta.coded:
            table.flags[row] |= CODED
        count += 1
    store.refuse_unknown(tier, [key for meta, key, _ in chunks if meta is None])
    store.shrink(tier, now)
    return count


def adopt_found(
    store: ChunkStore,
    request: ChainRequest,
    tier: TierName,
    found: frozenset[bytes],
    *,
    tenant: int,
    now: float,
) -> None:
    """Enter what a shared tier says that it has of a request's chain. Sizes are guessed."""
    table, parent = store.table, NO_ROW
    for position, key in enumerate(request.keys):
        row = table.index.get(key)
        if row is None and key not in found:
            break
        if row is None:
            row = table.add(key, parent=parent, position=position, tenant=tenant, kind=0, now=now)
            table.foreign[row] = 1
        if key in found and not (table.where[row] | table.arriving[row]) >> tier & 1:
            store.adopt(row, tier, max(1, round(store.books[tier].expected)), now)
        parent = row if table.position[row] == position else NO_ROW
