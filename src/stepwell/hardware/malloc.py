"""Freed memory stays in the process: the CPU's counterpart of a caching device allocator.

glibc gives large buffers back to the system when they are freed and fetches zeroed pages for the
next step's, a page fault for every 4 KiB. A step allocates the same buffers over and over, so with
the settings here the heap grows to the largest step once, and then asks the system for nothing.
Covers glibc only; elsewhere nothing changes. `read_malloc` says what malloc holds.
"""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from functools import cache
from typing import Any

from stepwell.base.decisions import Decision

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; glibc accepts no more
# Bytes by which the heap grows at least. Address space only: untouched pages cost nothing. oneDNN
# keeps some 2 MB for each new number of rows, so this covers the batch sizes a server meets.
_TOP_PAD = 256 << 20


def keep_freed_memory() -> Decision:
    """Tell malloc to keep what is freed, in one arena that all threads share."""
    name = "memory.malloc"
    if platform.libc_ver()[0] != "glibc":
        return Decision(name, "system's", "not glibc")
    mallopt = ctypes.CDLL(None).mallopt
    settings = (
        (_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD),
        (_M_TRIM_THRESHOLD, -1),
        (_M_TOP_PAD, _TOP_PAD),
        (_M_ARENA_MAX, 1),
    )
    if not all(mallopt(parameter, value) for parameter, value in settings):
        return Decision(name, "system's", "glibc refused the settings")
    return Decision(name, "kept", "freed buffers are reused by the next step, not refetched")


def give_back_freed_memory() -> None:
    """Return what is free to the system, also where `keep_freed_memory` has been called: for work
    that is done once, such as packing weights, whose buffers no step will use again."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True, slots=True)
class Malloc:
    """Bytes. `heaps`: taken from the system to be divided, `used`: of these, given out; `mapped`:
    of single large allocations."""

    heaps: int
    used: int
    mapped: int


def read_malloc() -> Malloc | None:
    """What malloc holds now; None where it is not glibc's, or older than 2.33."""
    function = _mallinfo()
    if function is None:
        return None
    info = function()
    return Malloc(heaps=info.arena, used=info.uordblks, mapped=info.hblkhd)


_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
           "fordblks", "keepcost")  # fmt: skip


class _MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


@cache
def _mallinfo() -> Any | None:
    try:
        function = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return None
    function.restype = _MallInfo
    function.argtypes = []
    return function
