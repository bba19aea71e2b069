"""A process that dies at the N-th step of a scripted workload on a disk tier.

    python -m tests.faults.disk_victim DIRECTORY SEED STEP [HOW]

It prints, unbuffered, `want NAME` before a write, `done NAME` after it, `gone NAME` before a
delete, `flushed` after a flush. STEP 0: never dies by itself, and prints how many steps there were.
HOW: `kill` (SIGKILL to itself) before the step, or `half`: half of a write gets out first.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepwell.tier.disk.medium import Medium
from tests.tier.disk_helpers import KIB, MIB, open_tier, put
from tests.values import key


class DyingMedium(Medium):
    """Counts every call that changes the disk, and dies at one of them."""

    def __init__(self, *, at: int, half: bool) -> None:
        self.at, self.half, self.steps = at, half, 0

    def _due(self) -> bool:
        self.steps += 1
        return self.steps == self.at

    def _step(self) -> None:
        if self._due():
            die()

    def open(self, path: Path, *, create: bool) -> int:
        if create:
            self._step()
        return super().open(path, create=create)

    def write(self, fd: int, parts: Sequence[Any], offset: int) -> None:
        if self._due():
            if self.half:
                joined = b"".join(parts)
                os.pwrite(fd, joined[: len(joined) // 2], offset)
            die()
        super().write(fd, parts, offset)

    def sync(self, fd: int) -> None:
        self._step()
        super().sync(fd)

    def sync_directory(self, path: Path) -> None:
        self._step()
        super().sync_directory(path)

    def truncate(self, fd: int, size: int) -> None:
        self._step()
        super().truncate(fd, size)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def replace(self, source: Path, target: Path) -> None:
        self._step()
        super().replace(source, target)

    def commit(self, connection: sqlite3.Connection) -> None:
        self._step()
        super().commit(connection)
        self._step()


def die() -> None:
    """As kill -9 does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def say(*words: object) -> None:
    """Out of the process at once."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def run(directory: Path, *, seed: int, at: int, half: bool) -> None:
    """The script: writes, deletes of old names, flushes, compactions, a reopening."""
    source = random.Random(seed)
    medium = DyingMedium(at=at, half=half)
    name = seed * 1_000_000
    held: list[int] = []
    for _ in range(2):
        tier = open_tier(directory, medium=medium, capacity=4 * MIB, commit_bytes=96 * KIB)
        say("open")
        for _ in range(60):
            name += 1
            say("want", name)
            say("done" if put(tier, name).value == "stored" else "full", name)
            held.append(name)
            if len(held) > 25:
                victims = [held.pop(source.randrange(12)) for _ in range(2)]
                say("gone", *victims)
                tier.delete(map(key, victims))
            if source.random() < 0.1:
                tier.flush()
                say("flushed")
            if source.random() < 0.1:
                tier.compact(200 * KIB)
        tier.close()
        say("flushed")
    say("steps", medium.steps)


if __name__ == "__main__":
    run(
        Path(sys.argv[1]),
        seed=int(sys.argv[2]),
        at=int(sys.argv[3]),
        half=sys.argv[4:] == ["half"],
    )
