"""NullTier: holds nothing. For measuring what a tier costs, and for off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from stepwell.tier.contract import Buffer, Doomed, ReadOutcome, StoredChunk, TierUsage, WriteOutcome


class NullTier:
    """Every write is refused with FULL, every read is MISSING."""

    def read(self, key: bytes, out: Sequence[Buffer]) -> ReadOutcome:
        """MISSING."""
        return ReadOutcome.MISSING

    def write(self, key: bytes, parts: Sequence[Buffer], *, meta: bytes = b"") -> WriteOutcome:
        """FULL: a tier that says STORED must have it."""
        return WriteOutcome.FULL

    def delete(self, keys: Iterable[bytes]) -> None:
        """Nothing to do."""

    def erase(self, keys: Iterable[bytes], *, also: Doomed | None = None) -> None:
        """Nothing to do."""

    def contains(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        """None of them."""
        return frozenset()

    def size_of(self, key: bytes) -> int | None:
        """None."""
        return None

    def scan(self) -> Iterator[StoredChunk]:
        """Nothing."""
        return iter(())

    def flush(self) -> None:
        """Nothing to do."""

    def usage(self) -> TierUsage:
        """All zeros."""
        return TierUsage(capacity=0, used=0, chunks=0)

    def close(self) -> None:
        """Nothing to do."""
