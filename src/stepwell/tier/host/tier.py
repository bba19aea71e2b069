"""HostTier: a bounded map from keys to bytes in main memory.

The index and the books change under one lock, which is never held while bytes are copied. Reading
pins the entry instead: the pages of an entry that is deleted meanwhile come back when its last
reader has left, so no reader ever sees pages that belong to somebody else. A write becomes
findable after its last byte.

What is hashed on a read is the destination, after the copy: the check covers what the caller got.
Copies go in pieces that stay in the core's cache until they are hashed.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import xxhash

from stepwell.codec.buffers import copy_bytes, flat_views, pieces, total_bytes
from stepwell.tier.contract import (
    KEY_BYTES,
    Buffer,
    Doomed,
    ReadOutcome,
    StoredChunk,
    TierUsage,
    WriteOutcome,
)
from stepwell.tier.frame import MAX_META_BYTES
from stepwell.tier.host.pages import PagePool, Run

DEFAULT_PAGE_BYTES = 64 << 10
_PIECE_BYTES = 512 << 10  # copied, then hashed while still in the second-level cache
_TOUCH_BYTES = 4 << 10


@dataclass(slots=True, eq=False)
class _Entry:
    """A value. `runs` belong to it until it is dead and unread; guarded by the tier's lock.
    `erased`: they are overwritten before they are given back."""

    runs: tuple[Run, ...]
    size: int
    meta: bytes
    digest: bytes
    readers: int = 0
    dead: bool = False
    erased: bool = False


class HostTier:
    """One allocation, made and touched here, of `capacity` bytes in pages of `page_bytes`.

    A value takes whole pages for its payload and meta together, at least one. Raises OSError when
    the memory cannot be had, or when used after close().
    """

    def __init__(self, *, capacity: int, page_bytes: int = DEFAULT_PAGE_BYTES) -> None:
        """`capacity` is rounded down to whole pages. ValueError if that leaves none."""
        pages = capacity // page_bytes if page_bytes > 0 else 0
        if pages <= 0:
            raise ValueError(f"{capacity} bytes hold no page of {page_bytes}")
        self._page = page_bytes
        self._arena = _allocate(pages * page_bytes)
        self._lock = threading.Lock()
        self._pages = PagePool(pages)
        self._entries: dict[bytes, _Entry] = {}
        self._closed = False
        self._usage = TierUsage(capacity=pages * page_bytes, used=0, chunks=0)

    def read(self, key: bytes, out: Sequence[Buffer]) -> ReadOutcome:
        """Copy the value into `out` and verify it there."""
        views = flat_views(out)
        with self._lock:
            self._check_open()
            self._count(reads=1)
            entry = self._entries.get(key)
            if entry is None:
                return ReadOutcome.MISSING
            if entry.size != total_bytes(views):
                self._quarantine(key, entry)
                return ReadOutcome.CORRUPT
            entry.readers += 1
        try:
            hasher = xxhash.xxh3_128(entry.meta)
            for stored, target in pieces(self._views(entry), views, limit=_PIECE_BYTES):
                copy_bytes(source=stored, target=target)
                hasher.update(target)
            good = hasher.digest() == entry.digest
        finally:
            self._leave(entry)
        if not good:
            with self._lock:
                self._quarantine(key, entry)
            return ReadOutcome.CORRUPT
        return ReadOutcome.OK

    def write(self, key: bytes, parts: Sequence[Buffer], *, meta: bytes = b"") -> WriteOutcome:
        """Copy the parts into free pages; FULL if there are too few."""
        if len(key) != KEY_BYTES or len(meta) > MAX_META_BYTES:
            raise ValueError(f"keys have {KEY_BYTES} bytes, meta at most {MAX_META_BYTES}")
        views = flat_views(parts)
        size = total_bytes(views)
        with self._lock:
            self._check_open()
            if key in self._entries:
                return WriteOutcome.PRESENT
            runs = self._pages.take(max(1, -(-(size + len(meta)) // self._page)))
            if runs is None:
                return WriteOutcome.FULL
        entry = _Entry(runs=runs, size=size, meta=bytes(meta), digest=b"")
        outcome = None
        try:
            hasher = xxhash.xxh3_128(meta)
            for source, stored in pieces(views, self._views(entry), limit=_PIECE_BYTES):
                hasher.update(source)
                copy_bytes(source=source, target=stored)
            self._overwrite(entry.runs, after=size)  # what the last page held before
            entry.digest = hasher.digest()
            outcome = self._publish(key, entry)
            return outcome
        finally:
            # It raised, or somebody else was faster with the same key. Once published, its pages
            # are whose who deletes it, which may have happened by now.
            if outcome is not WriteOutcome.STORED:
                with self._lock:
                    self._pages.give(entry.runs)

    def footprint_of(self, key: bytes) -> int | None:
        """Its pages in bytes: meta and what the last page leaves empty count too."""
        with self._lock:
            entry = self._entries.get(key)
            return None if entry is None else sum(run.count for run in entry.runs) * self._page

    def delete(self, keys: Iterable[bytes]) -> None:
        """Forget these; their pages come back once nobody reads them."""
        with self._lock:
            for key in keys:
                entry = self._entries.pop(key, None)
                if entry is not None:
                    self._bury(entry)

    def erase(self, keys: Iterable[bytes], *, also: Doomed | None = None) -> None:
        """Forget these, and overwrite every page that holds no value. While that lasts, no page is
        free: writes are refused with FULL. What is being read goes when its readers are done."""
        with self._lock:
            doomed = {key for key in keys if key in self._entries}
            if also is not None:
                doomed |= {key for key, entry in self._entries.items() if also(key, entry.meta)}
            for key in doomed:
                entry = self._entries.pop(key)
                entry.erased = True
                self._bury(entry)
            free = self._pages.take(self._pages.free) or ()
        try:
            self._overwrite(free)
        finally:
            with self._lock:
                self._pages.give(free)

    def contains(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        """Which of these are here."""
        with self._lock:
            return frozenset(key for key in keys if key in self._entries)

    def size_of(self, key: bytes) -> int | None:
        """Bytes of the payload."""
        with self._lock:
            entry = self._entries.get(key)
            return None if entry is None else entry.size

    def scan(self) -> Iterator[StoredChunk]:
        """Everything that is here at this moment."""
        with self._lock:
            found = [StoredChunk(key, e.size, e.meta) for key, e in self._entries.items()]
        return iter(found)

    def flush(self) -> None:
        """Nothing here survives a power cut."""

    def usage(self) -> TierUsage:
        """Whole pages count as used, those of values being written or still being read too."""
        with self._lock:
            used = self._usage.capacity - self._pages.free * self._page
            return replace(self._usage, used=used, chunks=len(self._entries))

    def close(self) -> None:
        """Let go of the memory; readers in flight finish first."""
        with self._lock:
            self._closed = True
            self._entries.clear()
        self._arena = memoryview(b"")  # unmapped when the last view of it is gone

    def damage(self, key: bytes, *, at: int = 0) -> None:
        """Flip a bit of the stored byte `at`, below verification: for fault injection only."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or not entry.size:
                return
            page, offset = divmod(at % entry.size, self._page)
            pages = [p for run in entry.runs for p in range(run.start, run.start + run.count)]
            self._arena[pages[page] * self._page + offset] ^= 1

    def _publish(self, key: bytes, entry: _Entry) -> WriteOutcome:
        with self._lock:
            self._check_open()
            if key in self._entries:
                return WriteOutcome.PRESENT
            self._entries[key] = entry
            self._count(writes=1)
            return WriteOutcome.STORED

    def _views(self, entry: _Entry) -> list[Buffer]:
        page, left, arena = self._page, entry.size, self._arena
        views = []
        for run in entry.runs:
            size = min(run.count * page, left)
            if size:
                views.append(arena[run.start * page : run.start * page + size])
            left -= size
        return views

    def _leave(self, entry: _Entry) -> None:
        with self._lock:
            entry.readers -= 1
            if entry.dead and not entry.readers:
                self._give(entry)

    def _quarantine(self, key: bytes, entry: _Entry) -> None:
        self._count(corrupt=1)
        if self._entries.get(key) is entry:
            del self._entries[key]
            self._bury(entry)

    def _bury(self, entry: _Entry) -> None:
        entry.dead = True
        if not entry.readers:
            self._give(entry)

    def _give(self, entry: _Entry) -> None:
        if entry.erased:
            self._overwrite(entry.runs)
        self._pages.give(entry.runs)

    def _overwrite(self, runs: Sequence[Run], *, after: int = 0) -> None:
        """Zeros into these pages, from byte `after` of them all on."""
        page, passed = self._page, 0
        for run in runs:
            size = run.count * page
            start = run.start * page + min(size, max(0, after - passed))
            end = run.start * page + size
            if start < end:
                first = ctypes.c_char.from_buffer(self._arena, start)
                ctypes.memset(ctypes.addressof(first), 0, end - start)
            passed += size

    def _count(self, *, reads: int = 0, writes: int = 0, corrupt: int = 0) -> None:
        usage = self._usage
        self._usage = replace(
            usage,
            reads=usage.reads + reads,
            writes=usage.writes + writes,
            corrupt=usage.corrupt + corrupt,
        )

    def arena(self) -> tuple[int, int] | None:
        """Address and length of the memory, None once closed."""
        with self._lock:
            if self._closed:
                return None
            memory = (ctypes.c_char * len(self._arena)).from_buffer(self._arena)
            return ctypes.addressof(memory), len(self._arena)

    def _check_open(self) -> None:
        if self._closed:
            raise OSError("the host tier is closed")


def _allocate(size: int) -> Buffer:
    """Anonymous memory on huge pages where the system gives them, every page touched now."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel without them: only slower
    view = memoryview(memory)
    view[::_TOUCH_BYTES] = bytes(len(view[::_TOUCH_BYTES]))
    return view
