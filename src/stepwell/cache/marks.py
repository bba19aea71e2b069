"""Where what was marked begins in the chains that were computed: label -> keys.

A chain of keys cannot be read backwards: from a key nobody learns its tokens. So the first block
and the first chunk that may hold a label's tokens are noted when a sequence leaves its blocks; what
has to go with them is found by the links from a block to the one before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from stepwell.base.prefix import Mark

_MOST = 500_000


@dataclass(frozen=True, slots=True)
class Roots:
    """Keys of the first blocks and first chunks. `everything`: the tenant's could not all be kept,
    so that all it has may hold the labels."""

    blocks: frozenset[bytes] = frozenset()
    chunks: frozenset[bytes] = frozenset()
    everything: bool = False


@dataclass(slots=True)
class _Tenant:
    """`blocks`, `chunks`: by label. `seen`: what was noted. `lost`: some was not."""

    blocks: dict[str, set[bytes]] = field(default_factory=dict)
    chunks: dict[str, set[bytes]] = field(default_factory=dict)
    seen: set[tuple[tuple[str, ...], bytes, bytes | None]] = field(default_factory=set)
    lost: bool = False
    count: int = 0


class MarkIndex:
    """Bounded: a tenant that has more than `most` notes is not searched any more but dropped whole.

    `chunk_blocks`: blocks of a chunk of the lower tiers.
    """

    def __init__(self, *, most: int = _MOST) -> None:
        self.chunk_blocks = 1
        self._most = most
        self._tenants: dict[str, _Tenant] = {}

    def note(
        self, tenant: str, marks: Iterable[Mark], keys: Sequence[bytes], *, block_size: int
    ) -> None:
        """A chain of `keys` was computed whose tokens carry these marks."""
        for mark in marks:
            first = mark.start // block_size
            if first >= len(keys):
                continue
            last = (first // self.chunk_blocks + 1) * self.chunk_blocks - 1
            self._note(tenant, mark.labels, keys[first], keys[last] if last < len(keys) else None)

    def roots(self, tenant: str, labels: Iterable[str]) -> Roots:
        """What these labels may be in."""
        held = self._tenants.get(tenant)
        if held is None:
            return Roots()
        if held.lost:
            return Roots(everything=True)
        wanted = list(labels)
        return Roots(
            blocks=frozenset().union(*(held.blocks.get(label, ()) for label in wanted)),
            chunks=frozenset().union(*(held.chunks.get(label, ()) for label in wanted)),
        )

    def forgotten(self, tenant: str, labels: Iterable[str]) -> None:
        """All that was noted of these labels is gone; of the tenant, where some was lost."""
        held = self._tenants.get(tenant)
        if held is None:
            return
        if held.lost:
            del self._tenants[tenant]
            return
        for label in labels:
            for table in (held.blocks, held.chunks):
                held.count -= len(table.pop(label, ()))

    def _note(
        self, tenant: str, labels: tuple[str, ...], block: bytes, chunk: bytes | None
    ) -> None:
        held = self._tenants.setdefault(tenant, _Tenant())
        once = (labels, block, chunk)
        if held.lost or once in held.seen:
            return
        held.seen.add(once)
        held.count += 1
        for label in labels:
            for table, key in ((held.blocks, block), (held.chunks, chunk)):
                if key is not None:
                    keys = table.setdefault(label, set())
                    held.count += key not in keys
                    keys.add(key)
        if held.count > self._most:
            self._tenants[tenant] = _Tenant(lost=True)
