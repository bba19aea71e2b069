"""The disk tier: reserve, write, publish, commit; look up, read, verify.

Two locks. `_lock` guards the books and is held for moments only. `_commit_lock` lets one thread at
a time commit, compact or touch the index; it is taken first when both are needed. Bytes are read,
written and hashed under neither.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stepwell.codec.buffers import flat_views, total_bytes
from stepwell.tier.contract import (
    Buffer,
    Doomed,
    ReadOutcome,
    StoredChunk,
    TierUsage,
    WriteOutcome,
)
from stepwell.tier.disk.books import Books, Location, Row, unpack_location
from stepwell.tier.disk.commit import NO_ROOM, Committer
from stepwell.tier.disk.compaction import compact_segments, make_room
from stepwell.tier.disk.erase import erase_chunks
from stepwell.tier.disk.lock import DirectoryLock, check_format, prepare_directory
from stepwell.tier.disk.medium import Medium
from stepwell.tier.disk.options import DiskOptions, aligned
from stepwell.tier.disk.recovery import OnProgress, Recovery
from stepwell.tier.disk.segment import Segment, SegmentFiles, place_of
from stepwell.tier.disk.space import Space
from stepwell.tier.frame import (
    HEADER_BYTES,
    FrameFault,
    build_header,
    check_body,
    parse_header,
)

log = logging.getLogger("stepwell.tier.disk")

_COMMIT_ROWS = 1024
_SCAN_ROWS = 1024


@dataclass(frozen=True, slots=True)
class _Slot:
    """Room that a write has taken."""

    segment: Segment
    offset: int
    size: int
    sequence: int


class DiskTier:
    """A `Tier` in one directory. `recovery` says what opening found."""

    def __init__(
        self,
        directory: Path,
        *,
        options: DiskOptions,
        medium: Medium | None = None,
        on_progress: OnProgress = lambda done, total: None,
    ) -> None:
        """Open, recovering what is there. `on_progress` hears of a scan or a rebuild.

        Raises TierInUse, TierUnusable, OSError.
        """
        self.directory = directory
        self.options = options
        self.medium = medium or Medium()
        self.files = SegmentFiles(directory, medium=self.medium)
        self._lock = threading.Lock()
        self._written = threading.Condition(self._lock)
        self._commit_lock = threading.RLock()
        self._writing: set[bytes] = set()
        self._reads = self._writes = self._corrupt = 0
        self._closed = False
        prepare_directory(directory)
        self._guard = DirectoryLock(directory)
        try:
            remade = check_format(directory, medium=self.medium)
            recovery = Recovery(directory, self.files, self.medium, on_progress)
            self.index, self.recovery = recovery.run()
            self.books: Books = recovery.books
            self._adopt()
        except BaseException:
            self.files.close()
            self._guard.release()
            raise
        if self.recovery.reasons or (remade and self.books.where):
            log.warning("disk_recovered %s", self.recovery)

    # Tier

    def read(self, key: bytes, out: Sequence[Buffer]) -> ReadOutcome:
        """See `Tier`. The frame goes straight into `out` and is verified there."""
        views = flat_views(out)
        while True:
            with self._lock:
                self._check_open()
                at = self.books.find(key)
                self._reads += 1
            if at is None:
                return ReadOutcome.MISSING
            fault = self.fetch(key, at, views)
            if fault is None:
                return ReadOutcome.OK
            if self.quarantine(key, at, reason=fault.value):
                return ReadOutcome.CORRUPT
            # Moved or deleted meanwhile: look again.

    def write(self, key: bytes, parts: Sequence[Buffer], *, meta: bytes = b"") -> WriteOutcome:
        """See `Tier`. Raises ValueError for what no frame can hold."""
        views = flat_views(parts)
        slot = self._reserve(key, aligned(HEADER_BYTES + len(meta) + total_bytes(views)))
        if isinstance(slot, WriteOutcome):
            return slot
        number = slot.segment.number
        try:
            place = place_of(number, slot.offset)
            header = build_header(key=key, parts=views, meta=meta, stamp=slot.sequence, place=place)
            with self.files.using(number) as fd:
                self.medium.write(fd, [header + meta, *views], slot.offset)
        except BaseException as error:
            self._abandon(key, slot)
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                return WriteOutcome.FULL
            raise
        size = total_bytes(views)
        at = Location(slot.sequence, slot.offset, size, number, len(meta))
        with self._lock:
            self.books.add(Row(key, at, bytes(meta)))
            self._writes += 1
            self._writing.discard(key)
            self._written.notify_all()
        self._commit_if_due()
        return WriteOutcome.STORED

    def delete(self, keys: Iterable[bytes]) -> None:
        """See `Tier`. A segment in which nothing lives any more is unlinked at once."""
        emptied = False
        with self._lock:
            for key in keys:
                at = self.books.forget(key)
                if at is not None:
                    emptied = emptied or not self.books.segments[at.segment].live
            due = emptied or len(self.books.pending.gone) >= _COMMIT_ROWS
        if due:
            with self._full_is_no_error():
                self._commit()

    def erase(self, keys: Iterable[bytes], *, also: Doomed | None = None) -> None:
        """See `Tier`. Overwrites whatever is dead in every segment."""
        with self._commit_lock:
            self._check_open()
            erase_chunks(self, keys, also)

    def contains(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        """See `Tier`."""
        with self._lock:
            return frozenset(key for key in keys if key in self.books.where)

    def size_of(self, key: bytes) -> int | None:
        """See `Tier`."""
        with self._lock:
            at = self.books.find(key)
        return None if at is None else at.size

    def scan(self) -> Iterator[StoredChunk]:
        """See `Tier`. Oldest first; commits before it begins."""
        for row in self.rows():
            yield StoredChunk(row.key, row.location.size, row.meta)

    def flush(self) -> None:
        """See `Tier`."""
        self._commit()

    def usage(self) -> TierUsage:
        """See `Tier`. `capacity` is without what is kept back for compaction and the index."""
        with self._lock:
            return TierUsage(
                capacity=self.options.usable,
                used=self.space.used(),
                chunks=len(self.books.where),
                quarantined=self._corrupt,
                reads=self._reads,
                writes=self._writes,
                corrupt=self._corrupt,
            )

    def close(self) -> None:
        """See `Tier`. Lets go of the directory even if the last commit fails."""
        with self._commit_lock:
            if self._closed:
                return
            try:
                self._commit()
            finally:
                self._closed = True
                self.index.close()
                self.files.close()
                self._guard.release()

    def forget_cached(self) -> None:
        """Make what is on the disk cold, so that the next reads measure the disk. For probes and
        benches; what is not flushed stays in memory."""
        with self._lock:
            numbers = list(self.books.segments)
        for number in numbers:
            with suppress(FileNotFoundError), self.files.using(number) as fd:
                self.medium.forget_cached(fd)

    # What the administration and compaction build on

    def compact(self, budget_bytes: int) -> int:
        """Copy at most `budget_bytes` of live frames out of the deadest segments; bytes freed."""
        with self._commit_lock:
            before = self.space.used()
            compact_segments(self, budget=budget_bytes)
            self._commit()
            self._committer.call(self.index.shrink)
            self._committer.measure()
            return before - self.space.used()

    def rows(self) -> Iterator[Row]:
        """Every chunk with its meta, oldest first; chunks that go meanwhile are left out."""
        self._commit()
        last = 0
        while True:
            with self._commit_lock:
                after = partial(self.index.rows_after, last, limit=_SCAN_ROWS)
                rows = self._committer.call(after)
            if not rows:
                return
            for row in rows:
                last = row.location.sequence
                with self._lock:
                    at = self.books.find(row.key)
                if at is not None and at.sequence == last:
                    yield Row(row.key, at, row.meta)

    def fetch(self, key: bytes, at: Location, out: Sequence[Buffer]) -> FrameFault | None:
        """Read and verify one frame; None means that `out` holds its payload. Raises OSError."""
        head = bytearray(HEADER_BYTES + at.meta_size)
        try:
            with self.files.using(at.segment) as fd:
                got = self.medium.read(fd, [head, *out], at.offset)
        except FileNotFoundError:
            return FrameFault.SHORT
        if total_bytes(out) != at.size:
            return FrameFault.LENGTH
        if got != len(head) + at.size:
            return FrameFault.SHORT
        header = parse_header(head, place=place_of(at.segment, at.offset))
        if isinstance(header, FrameFault):
            return header
        return check_body(header, key=key, meta=memoryview(head)[HEADER_BYTES:], parts=out)

    def locations(self) -> list[tuple[bytes, Location]]:
        """Every key with its place, in no order."""
        with self._lock:
            return [(key, unpack_location(packed)) for key, packed in self.books.where.items()]

    def dead_bytes(self) -> int:
        """Bytes that compaction would free."""
        with self._lock:
            return sum(segment.dead for segment in self.books.segments.values())

    def quarantine(self, key: bytes, at: Location, *, reason: str) -> bool:
        """Forget a frame that is not what its row says. False if the key is elsewhere by now."""
        with self._lock:
            if self.books.find(key) != at:
                return False
            self.books.forget(key, reason=reason)
            self._corrupt += 1
        log.warning("disk_quarantine key=%s %s reason=%s", key.hex()[:16], at, reason)
        return True

    def commit(self) -> None:
        """Group commit now; what `flush` does. Raises OSError."""
        self._commit()

    def writes_ended(self, segments: Sequence[Segment], *, timeout: float) -> bool:
        """Wait for writes that are under way there; the caller holds `lock`. False: too long."""
        return self._written.wait_for(lambda: not any(s.in_flight for s in segments), timeout)

    @property
    def lock(self) -> threading.Lock:
        """Guards the books."""
        return self._lock

    # Inside

    def _reserve(self, key: bytes, size: int) -> _Slot | WriteOutcome:
        """Room for a frame, unless the key is here or there is none."""
        for tried in (False, True):
            with self._written:
                while key in self._writing:
                    self._written.wait()
                self._check_open()
                if key in self.books.where:
                    return WriteOutcome.PRESENT
                if self.space.fits(size):
                    try:
                        segment, offset = self.space.take(size)
                    except OSError as error:
                        if error.errno in NO_ROOM:
                            return WriteOutcome.FULL
                        raise
                    sequence = self.books.next_sequence
                    self.books.next_sequence += 1
                    self._writing.add(key)
                    return _Slot(segment, offset, size, sequence)
            if not tried and self.options.usable > size:
                with self._commit_lock, self._full_is_no_error():
                    make_room(self, size)
        return WriteOutcome.FULL

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the disk tier is closed")

    def _abandon(self, key: bytes, slot: _Slot) -> None:
        """A write failed: its space is free again, or dead. No torn frame can be found."""
        with self._lock:
            self.space.give_back(slot.segment, slot.offset, slot.size)
            self._writing.discard(key)
            self._written.notify_all()

    def _commit_if_due(self) -> None:
        """The group commit of a write. One thread does it; the others go on, unless they are far
        ahead of it."""
        with self._lock:
            pending, rows = self.books.pending_bytes, len(self.books.pending.rows)
        far = pending >= 2 * self.options.commit_bytes
        late = time.monotonic() - self._committer.last >= self.options.commit_seconds
        if not (far or late or pending >= self.options.commit_bytes or rows >= _COMMIT_ROWS):
            return
        if not self._commit_lock.acquire(blocking=far):
            return
        try:
            with self._full_is_no_error():
                self._commit()
        finally:
            self._commit_lock.release()

    @contextmanager
    def _full_is_no_error(self) -> Iterator[None]:
        """A commit that finds no room is done later; what it covers can be read all the same."""
        try:
            yield
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            log.warning("disk_commit_postponed: %s", error)

    def _commit(self) -> None:
        with self._commit_lock:
            if not self._closed:
                self._committer.commit()

    def _adopt(self) -> None:
        """Commit what recovery learned; go on writing where the last process stopped."""
        self._committer = Committer(
            self.directory,
            books=self.books,
            index=self.index,
            files=self.files,
            medium=self.medium,
            lock=self._lock,
        )
        self.space = Space(
            self.directory,
            options=self.options,
            books=self.books,
            files=self.files,
            medium=self.medium,
            index_bytes=lambda: self._committer.index_bytes,
        )
        last = max(self.books.segments.values(), key=lambda s: s.number, default=None)
        if last is not None and last.tail < self.options.segment_limit:
            self.books.active = last
        try:
            self._commit()
        except OSError:
            self.index.close()
            raise
