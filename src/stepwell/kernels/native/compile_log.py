"""Which kernels this process compiled or loaded, and how long that took. Needs no compiler itself.

Whoever starts an engine asks to be told before a compilation begins, and reads the record after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stepwell.hardware.account import grown


@dataclass(frozen=True, slots=True)
class Made:
    """Machine code of one kernel. `compiled` False: it came from the disk cache."""

    kernel: str
    seconds: float
    compiled: bool


_made: list[Made] = []
_listeners: list[Callable[[str], None]] = []


def made() -> tuple[Made, ...]:
    """All so far, in order."""
    return tuple(_made)


@contextmanager
def telling(listener: Callable[[str], None]) -> Iterator[None]:
    """Inside, `listener(kernel)` is called when a kernel is not in the cache, before it is
    compiled: some seconds each."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def making(kernel: str) -> Iterator[Callable[[], None]]:
    """Record one kernel. What is given is to be called where the cache has it not."""
    start = time.perf_counter()
    compiled = False

    def begin() -> None:
        nonlocal compiled
        compiled = True
        for listener in _listeners:
            listener(kernel)

    with grown("kernels"):
        yield begin
    _made.append(Made(kernel, time.perf_counter() - start, compiled))
