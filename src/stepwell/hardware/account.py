"""What the operating system and malloc say of this process's memory, without a dependency.

Owns readings, and what single stages of a start added. Who holds what is `engine/account.py`'s.
Linux with glibc; elsewhere `read_process_memory` gives None.
"""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stepwell.hardware.malloc import read_malloc

_PAGE = os.sysconf("SC_PAGE_SIZE")
_START_OF_HEAP = 44  # field 47 of proc(5)'s stat, counted after the command's name


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes at one moment. `resident`: in memory (RSS); `shared`: those of them that belong to
    files (code, libraries) or to memory made to be shared; `heap`: resident bytes of malloc's
    heap, which lies at `heap_range`; `heap_used`: what malloc has given out of it."""

    resident: int
    shared: int
    heap: int
    heap_used: int
    heap_range: tuple[int, int]

    def kept(self, *, untouched: int = 0) -> int:
        """Freed by the program, kept by malloc for the next request for memory. `untouched`: bytes
        of the heap that were given out and are not in memory; those not named make it less."""
        return max(0, self.heap - (self.heap_used - untouched))

    @property
    def held(self) -> int:
        """Anonymous memory in use: all but files and what malloc keeps."""
        return self.resident - self.shared - self.kept()


def read_process_memory() -> ProcessMemory | None:
    """This process now, in about a millisecond for each gigabyte of heap; None where neither
    /proc nor glibc can tell."""
    malloc = read_malloc()
    try:
        fields = Path("/proc/self/statm").read_text().split()
        heap = _heap()
    except (OSError, AttributeError, IndexError, ValueError):
        return None
    if malloc is None or heap is None:
        return None
    resident, shared = (int(field) * _PAGE for field in fields[1:3])
    return ProcessMemory(resident, shared, resident_of([heap]), malloc.used, heap)


def proportional_bytes() -> int | None:
    """Resident memory with pages of several processes divided among them (PSS). Takes some tens of
    milliseconds, as the kernel looks at every page."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")]
    return found[0] if found else None


def resident_of(ranges: Iterable[tuple[int, int]]) -> int:
    """Bytes of these (address, length) that are in memory; those that were allocated and never
    touched are not. A page at the edge of a range counts with the bytes inside it, and bytes of
    several ranges once. 0 where the system cannot tell."""
    return sum(_resident(start, end) for start, end in _joined(ranges))


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(start, end), sorted, without overlaps."""
    found: list[tuple[int, int]] = []
    for start, end in sorted((at, at + length) for at, length in ranges if length > 0):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _resident(start: int, end: int) -> int:
    first = start // _PAGE * _PAGE
    pages = -(-(end - first) // _PAGE)
    states = ctypes.create_string_buffer(pages)
    if _libc().mincore(first, pages * _PAGE, states):
        return 0
    raw = states.raw
    total = raw.count(b"\x01") * _PAGE
    if raw[0] & 1:
        total -= start - first
    if raw[-1] & 1:
        total -= first + pages * _PAGE - end
    return total


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.sbrk.argtypes, libc.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
    return libc


def _heap() -> tuple[int, int] | None:
    """Address and length of the memory below the program break."""
    fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
    start, end = int(fields[_START_OF_HEAP]), _libc().sbrk(0)
    return (start, end - start) if start else None


_grown: Counter[str] = Counter()
_depth = 0  # of blocks


@contextmanager
def grown(part: str) -> Iterator[None]:
    """Count what this process holds more at the end of the block than at its beginning under
    `part`; the outermost block counts. For stages of a start, which run one after the other: other
    threads' memory is counted too."""
    global _depth
    before = None if _depth else read_process_memory()
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    after = None if before is None else read_process_memory()
    if before is not None and after is not None:
        _grown[part] += after.held - before.held


def growth() -> dict[str, int]:
    """Bytes by part since this process began."""
    return dict(_grown)
