"""FaultyTier: wraps any tier and makes it fail as real media do.

Faults are drawn from a seed, the call, the key and how often that call was made for that key, so
the same calls meet the same faults whatever order threads run in. (A counter per call and key is
kept for that: some hundred bytes for each key ever seen.)
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from stepwell.codec.buffers import flat_views, total_bytes
from stepwell.tier.contract import (
    Buffer,
    Doomed,
    PagedStore,
    ReadOutcome,
    StoredChunk,
    Tier,
    TierUsage,
    WriteOutcome,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Probabilities are per call and key, from 0 to 1; times in seconds.

    `fail_read`, `fail_write`, `fail_other`: OSError; a failed write has not happened.
    `hang`: a read, write, delete or contains blocks for `hang_seconds`, or until `release`.
    `full`: a write is refused.
    `corrupt_below`: a stored value is damaged before it is read, below the tier's verification: it
    must come out as CORRUPT. `corrupt_above`: a bit of a read that went well is flipped after
    verification: wrong bytes are returned as OK, which no tier may do. To show that a test would
    notice.
    `bytes_per_second`: reads and writes take at least that long, 0: as fast as they are.
    `latency_seconds`: added to each call.
    """

    seed: int = 0
    fail_read: float = 0.0
    fail_write: float = 0.0
    fail_other: float = 0.0
    hang: float = 0.0
    hang_seconds: float = float("inf")
    full: float = 0.0
    corrupt_below: float = 0.0
    corrupt_above: float = 0.0
    bytes_per_second: float = 0.0
    latency_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("fail_read", "fail_write", "fail_other", "hang", "full"):
            _check_probability(name, getattr(self, name))
        for name in ("corrupt_below", "corrupt_above"):
            _check_probability(name, getattr(self, name))
        if min(self.hang_seconds, self.bytes_per_second, self.latency_seconds) < 0:
            raise ValueError("times and rates cannot be negative")


@runtime_checkable
class Damageable(Protocol):
    """A tier whose stored bytes can be damaged below its verification."""

    def damage(self, key: bytes, *, at: int = 0) -> None:
        """Flip a bit of the stored byte `at` (modulo the size); unknown keys are ignored."""
        ...


class FaultyTier:
    """`inner` with faults. `faults` may be exchanged at any time; it applies to later calls.

    `injected` counts what was done, by the name of the fault.
    """

    def __init__(self, inner: Tier, faults: Faults | None = None) -> None:
        self.inner = inner
        self.injected: Counter[str] = Counter()
        self._faults = Faults()
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._calls: Counter[tuple[str, bytes]] = Counter()
        self.faults = faults or Faults()

    @property
    def faults(self) -> Faults:
        """What goes wrong at present."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        """Whatever hangs is released. Raises ValueError if the inner tier is to be damaged and
        cannot be."""
        if faults.corrupt_below and not isinstance(self.inner, Damageable):
            raise ValueError(f"{type(self.inner).__name__} has no `damage` to corrupt it below")
        self._faults = faults
        self._released.set()
        self._released = threading.Event()

    def release(self) -> None:
        """Let everything that hangs go on; later calls do not hang until `faults` is set again."""
        self._released.set()

    def read(self, key: bytes, out: Sequence[Buffer]) -> ReadOutcome:
        """As the inner tier, with faults."""
        faults = self._faults
        began = time.monotonic()
        draw = self._draw("read", key)
        self._suffer(draw, hang=faults.hang, fail=faults.fail_read)
        if self._happens(draw, "corrupt_below", faults.corrupt_below):
            assert isinstance(self.inner, Damageable)
            self.inner.damage(key, at=draw.randrange(1 << 30))
        outcome = self.inner.read(key, out)
        if outcome is ReadOutcome.OK:
            views = flat_views(out)
            if views and self._happens(draw, "corrupt_above", faults.corrupt_above):
                view = draw.choice(views)
                view[draw.randrange(len(view))] ^= 1 << draw.randrange(8)
            self._throttle(total_bytes(views), began)
        return outcome

    def write(self, key: bytes, parts: Sequence[Buffer], *, meta: bytes = b"") -> WriteOutcome:
        """As the inner tier, with faults."""
        faults = self._faults
        began = time.monotonic()
        draw = self._draw("write", key)
        self._suffer(draw, hang=faults.hang, fail=faults.fail_write)
        if self._happens(draw, "full", faults.full):
            return WriteOutcome.FULL
        outcome = self.inner.write(key, parts, meta=meta)
        if outcome is WriteOutcome.STORED:
            self._throttle(total_bytes(parts), began)
        return outcome

    def delete(self, keys: Iterable[bytes]) -> None:
        """As the inner tier, with faults."""
        keys = list(keys)
        self._other("delete", keys)
        self.inner.delete(keys)

    def erase(self, keys: Iterable[bytes], *, also: Doomed | None = None) -> None:
        """As the inner tier, with faults."""
        keys = list(keys)
        self._other("erase", keys)
        self.inner.erase(keys, also=also)

    def contains(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        """As the inner tier, with faults."""
        self._other("contains", keys)
        return self.inner.contains(keys)

    def size_of(self, key: bytes) -> int | None:
        """As the inner tier."""
        return self.inner.size_of(key)

    def footprint_of(self, key: bytes) -> int | None:
        """As the inner tier; None where that does not offer it."""
        return self.inner.footprint_of(key) if isinstance(self.inner, PagedStore) else None

    def scan(self) -> Iterator[StoredChunk]:
        """As the inner tier."""
        return self.inner.scan()

    def flush(self) -> None:
        """As the inner tier."""
        self.inner.flush()

    def usage(self) -> TierUsage:
        """As the inner tier."""
        return self.inner.usage()

    def close(self) -> None:
        """Release what hangs and close the inner tier."""
        self.release()
        self.inner.close()

    def _other(self, call: str, keys: Sequence[bytes]) -> None:
        if keys:
            draw = self._draw(call, keys[0])
            self._suffer(draw, hang=self._faults.hang, fail=self._faults.fail_other)

    def _draw(self, call: str, key: bytes) -> random.Random:
        with self._lock:
            self._calls[call, key] += 1
            count = self._calls[call, key]
        return random.Random(f"{self._faults.seed} {call} {key.hex()} {count}")

    def _suffer(self, draw: random.Random, *, hang: float, fail: float) -> None:
        if self._faults.latency_seconds:
            time.sleep(self._faults.latency_seconds)
        if self._happens(draw, "hang", hang):
            seconds = self._faults.hang_seconds
            self._released.wait(seconds if seconds < threading.TIMEOUT_MAX else None)
        if self._happens(draw, "fail", fail):
            raise OSError("injected fault")

    def _happens(self, draw: random.Random, name: str, probability: float) -> bool:
        happens = draw.random() < probability
        if happens:
            with self._lock:
                self.injected[name] += 1
        return happens

    def _throttle(self, size: int, began: float) -> None:
        if self._faults.bytes_per_second:
            wait = began + size / self._faults.bytes_per_second - time.monotonic()
            time.sleep(max(0.0, wait))


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability, not {value}")
