"""What every tier is: a bounded map from chunk keys to bytes that never returns wrong bytes.

A value goes in as parts (gathered, never joined) and comes out into buffers of the caller
(scattered, never copied in between). Tiers are called from mover threads: `read`, `write`,
`delete` and `contains` may run at the same time in several threads. They may block; deadlines are
the mover's affair.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Buffer = memoryview
Doomed = Callable[[bytes, bytes], bool]
"""Of a key and its meta: whether it is to be erased."""
KEY_BYTES = 32


class ReadOutcome(enum.Enum):
    """What became of one key of a read. Buffers hold garbage unless it is OK."""

    OK = "ok"
    MISSING = "missing"
    CORRUPT = "corrupt"  # and now quarantined: it will be MISSING from here on


class WriteOutcome(enum.Enum):
    """What became of a write."""

    STORED = "stored"
    PRESENT = "present"  # the key was there already: same key, same bytes
    FULL = "full"  # nothing was written; the brain is to evict first


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """One entry of a scan. `size`: bytes of the value. `meta`: what `write` was given."""

    key: bytes
    size: int
    meta: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TierUsage:
    """Bytes and chunks of a tier at this moment. `used` counts what it takes from `capacity`,
    frames and dead space included. Counters run since the tier was opened."""

    capacity: int
    used: int
    chunks: int
    quarantined: int = 0
    reads: int = 0
    writes: int = 0
    corrupt: int = 0


class Tier(Protocol):
    """One byte store. Raises OSError (or a subclass) when the medium fails; never returns
    unverified bytes."""

    def read(self, key: bytes, out: Sequence[Buffer]) -> ReadOutcome:
        """Fill `out`, whose lengths sum to the value's size (else CORRUPT), and verify."""
        ...

    def write(self, key: bytes, parts: Sequence[Buffer], *, meta: bytes = b"") -> WriteOutcome:
        """Store the value; findable only when whole."""
        ...

    def delete(self, keys: Iterable[bytes]) -> None:
        """Forget these; unknown ones are ignored."""
        ...

    def erase(self, keys: Iterable[bytes], *, also: Doomed | None = None) -> None:
        """Forget these, and what `also` says yes to, so that no byte of them is left in what this
        tier can overwrite; nor of anything that was deleted before. It may take long, and ends
        before other writes of these keys begin. Raises OSError: then it is to be called again."""
        ...

    def contains(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        """Which of these would a read find."""
        ...

    def size_of(self, key: bytes) -> int | None:
        """Bytes of the value, None if it is not here."""
        ...

    def scan(self) -> Iterator[StoredChunk]:
        """Everything, in no order. A shared tier may give nothing."""
        ...

    def flush(self) -> None:
        """Return when all that was written before this call survives a power cut (where the
        medium can promise that)."""
        ...

    def usage(self) -> TierUsage:
        """Bytes and counts, cheap enough for every step."""
        ...

    def close(self) -> None:
        """Flush and let go of files, sockets and memory. Calling it twice is harmless."""
        ...


@runtime_checkable
class PagedStore(Protocol):
    """What a tier must offer that takes more of its capacity than the bytes of its values: else
    the brain believes in room that is not there, and never evicts."""

    def footprint_of(self, key: bytes) -> int | None:
        """Bytes of capacity that the value takes, None if it is not here."""
        ...


def footprint(tier: Tier, key: bytes, *, size: int) -> int:
    """What a value of `size` bytes takes of the tier's capacity."""
    taken = tier.footprint_of(key) if isinstance(tier, PagedStore) else None
    return size if taken is None else taken


@runtime_checkable
class BatchReader(Protocol):
    """What a tier may offer on top, where asking for several keys at once saves waiting."""

    def read_batch(
        self, keys: Sequence[bytes], outs: Sequence[Sequence[Buffer]]
    ) -> list[ReadOutcome]:
        """Like `read` of each key; one outcome per key, in order."""
        ...

    def sizes_of(self, keys: Sequence[bytes]) -> list[int | None]:
        """Like `size_of` of each key, in order."""
        ...
