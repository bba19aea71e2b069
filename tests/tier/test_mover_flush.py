"""An idle lane flushes what it stored: once, in its own thread, and never at others' expense."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from stepwell.base.hierarchy import TierHealth, TierName
from stepwell.tier.disk import DiskOptions, DiskTier
from stepwell.tier.disk.index import INDEX_FILE
from stepwell.tier.host import HostTier
from stepwell.tier.mover import LaneConfig
from tests.tier.movers import (
    SIZE,
    Gate,
    blocks,
    content,
    host,
    load,
    move,
    mover,
    put,
    report,
    reports,
    store,
    until,
)

DISK, HOST = TierName.DISK, TierName.HOST
SOON = {DISK: LaneConfig(flush_seconds=0.05)}
QUIET = 0.3  # seconds in which several flushes would have come


class Counting(Gate):
    """Counts flushes, and the threads they come from."""

    def __init__(self) -> None:
        super().__init__()
        self.flushes: list[str] = []
        self.fault: OSError | None = None
        self.released = threading.Event()
        self.released.set()

    def flush(self) -> None:
        self.flushes.append(threading.current_thread().name)
        assert self.released.wait(100)
        if self.fault is not None:
            raise self.fault


class CountingHost(HostTier):
    """A host arena that counts flushes."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_stores_are_flushed_once_when_idle() -> None:
    disk = Counting()
    moving = mover(disk=disk, lanes=SOON)
    time.sleep(QUIET)
    assert not disk.flushes, "flushed before anything was stored"
    disk.open.clear()  # so that the second is there before the first has ended
    for number, name in enumerate("ab"):
        moving.submit(store(number, name, DISK), blocks(content(name))[1])
    disk.open.set()
    assert [event.failure for event in reports(moving, 2)] == [None, None]
    until(lambda: bool(disk.flushes))
    time.sleep(QUIET)
    assert len(disk.flushes) == 1
    assert disk.flushes[0].startswith("stepwell-mover-disk")

    put(moving, "c", DISK)
    until(lambda: len(disk.flushes) == 2)
    assert moving.close(5) == frozenset()


def test_loads_alone_flush_nothing() -> None:
    disk = Counting()
    moving = mover(disk=disk, lanes=SOON)
    put(moving, "a", DISK)
    until(lambda: bool(disk.flushes))
    moving.submit(load(1, "a", DISK), blocks()[1])
    assert report(moving).failure is None
    time.sleep(QUIET)
    assert len(disk.flushes) == 1
    moving.close(5)


def test_a_copy_from_the_host_tier_is_flushed_where_it_went() -> None:
    disk, arena = Counting(), CountingHost(capacity=4 << 20, page_bytes=4096)
    moving = mover(host=arena, disk=disk, lanes=SOON)
    size = put(moving, "a", HOST)
    moving.submit(move(1, "a", HOST, DISK, size))
    assert report(moving).failure is None
    until(lambda: bool(disk.flushes))
    time.sleep(QUIET)
    assert len(disk.flushes) == 1 and arena.flushes == 0
    moving.close(5)


def test_a_flush_that_fails_speaks_against_the_tier_and_is_not_repeated() -> None:
    disk = Counting()
    disk.fault = OSError(5, "Input/output error")
    moving = mover(disk=disk, lanes=SOON)
    put(moving, "a", DISK)
    until(lambda: bool(disk.flushes))
    time.sleep(QUIET)
    assert len(disk.flushes) == 1
    disk.fault = None
    put(moving, "b", DISK)
    until(lambda: len(disk.flushes) == 2)
    moving.close(5)


def test_a_flush_that_hangs_opens_the_breaker_and_keeps_nobody_waiting() -> None:
    disk = Counting()
    lanes = {DISK: LaneConfig(flush_seconds=0.02, stall_seconds=0.1)}
    moving = mover(host=host(), disk=disk, lanes=lanes)
    put(moving, "a", DISK)
    disk.released.clear()
    until(lambda: bool(disk.flushes))
    end = time.monotonic() + 60
    health: list[TierHealth] = []
    while not health:
        assert time.monotonic() < end
        moving.wait(0.05)
        health = [event for event in moving.poll() if isinstance(event, TierHealth)]
    assert health[0].tier is DISK and not health[0].healthy
    put(moving, "b", HOST)
    disk.released.set()
    moving.close(5)


def test_chunks_of_an_idle_disk_tier_are_in_its_index(tmp_path: Path) -> None:
    """Without a flush the rows would come with the next write, which may be never."""
    disk = DiskTier(tmp_path / "d", options=DiskOptions(capacity=64 << 20, free_floor=0))
    moving = mover(disk=disk, lanes=SOON)

    def rows() -> int:
        """In a copy of the index, since the tier has its own locked."""
        copy = tmp_path / "copy"
        copy.mkdir(exist_ok=True)
        for file in (tmp_path / "d").glob(f"{INDEX_FILE}*"):
            shutil.copy(file, copy)
        with closing(sqlite3.connect(copy / INDEX_FILE)) as db:
            return int(db.execute("SELECT count(*) FROM chunks").fetchone()[0])

    assert rows() == 0
    put(moving, "a", DISK)
    until(lambda: rows() == 1)
    assert disk.usage().used >= SIZE
    moving.close(5)
    disk.close()
