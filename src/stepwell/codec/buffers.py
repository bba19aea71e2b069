"""Copying bytes between lists of buffers without holding the interpreter lock.

`np.copyto` lets go of the lock while it copies; assignment to a slice of a memoryview (or of an
array) was measured not to. Copies of some tens of microseconds get the lock back before another
thread has woken up, so many small copies do not queue for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stepwell.codec.contract import Buffer


def flat_views(parts: Sequence[Buffer]) -> list[Buffer]:
    """The parts as flat views of bytes, empty ones left out. ValueError if not contiguous."""
    views = []
    for part in parts:
        view = memoryview(part)
        if not view.c_contiguous:
            raise ValueError("buffers must be contiguous")
        if view.nbytes:
            views.append(view if view.format == "B" and view.ndim == 1 else view.cast("B"))
    return views


def total_bytes(parts: Sequence[Buffer]) -> int:
    """Bytes of all parts together."""
    return sum(part.nbytes for part in parts)


def pieces(
    first: Sequence[Buffer], second: Sequence[Buffer], *, limit: int
) -> Iterator[tuple[Buffer, Buffer]]:
    """Walk two lists of flat views side by side, in pairs of equal length of at most `limit`
    bytes. Ends with the shorter list."""
    others = iter(second)
    other, start = next(others, None), 0
    for view in first:
        done = 0
        while done < len(view):
            while other is not None and start == len(other):
                other, start = next(others, None), 0
            if other is None:
                return
            step = min(len(view) - done, len(other) - start, limit)
            yield view[done : done + step], other[start : start + step]
            done += step
            start += step


def copy_bytes(*, source: Buffer, target: Buffer) -> None:
    """Copy between flat views of the same, non-zero length."""
    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


def copy_parts(*, source: Sequence[Buffer], target: Sequence[Buffer]) -> None:
    """Copy between lists of flat views that may be cut differently. ValueError if their totals
    differ; nothing is copied then."""
    size = total_bytes(source)
    if size != total_bytes(target):
        raise ValueError(f"{size} bytes do not fill {total_bytes(target)}")
    for origin, destination in pieces(source, target, limit=size or 1):
        copy_bytes(source=origin, target=destination)
