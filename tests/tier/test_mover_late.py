"""The mover over tiers that are late, hang or fail: a late thread touches nothing that has been
given back, and a sick tier holds up nobody."""

from __future__ import annotations

import threading
import time

import pytest

from stepwell.base.hierarchy import Failure, TierHealth, TierName
from stepwell.tier.breaker import BreakerConfig, BreakerState
from stepwell.tier.mover import LaneConfig, Mover
from tests.tier.movers import (
    SIZE,
    BatchGate,
    Clock,
    Gate,
    ZlibCodec,
    blocks,
    content,
    host,
    key,
    load,
    lookup,
    move,
    mover,
    put,
    report,
    reports,
    store,
    until,
)

HOST, DISK, REMOTE = TierName.HOST, TierName.DISK, TierName.REMOTE


# -- deadlines, and who owns the blocks ---------------------------------------------------------


def test_a_late_load_never_touches_blocks_that_were_given_back() -> None:
    disk, clock = Gate(), Clock()
    moving = mover(disk=disk, clock=clock)
    put(moving, "a", DISK)
    disk.open.clear()
    memory, views = blocks()
    moving.submit(load(1, "a", DISK, deadline=clock.now + 1), views)
    until(lambda: ("read", key("a")) in disk.calls)
    assert moving.poll() == []

    clock.now += 2
    (late,) = moving.poll()
    assert late.order_id == 1 and late.failure is Failure.DEADLINE
    assert moving.usage().lanes[DISK].late_threads == 1
    memory[:] = b"x" * SIZE  # the engine uses the blocks for somebody else

    before = disk.left
    disk.open.set()
    until(lambda: disk.left > before and moving.usage().lanes[DISK].busy_threads == 0)
    assert bytes(memory) == b"x" * SIZE
    assert moving.poll() == []
    moving.close(5)


def test_loads_behind_one_that_is_late_do_not_speak_against_the_tier() -> None:
    """One plan's loads share a deadline: one slow read among them is one failure, not ten."""
    disk, clock = Gate(), Clock()
    moving = mover(disk=disk, clock=clock)
    put(moving, "a", DISK)
    disk.open.clear()
    deadline = clock.now + 1
    for number in range(10):
        moving.submit(load(number, "a", DISK, deadline=deadline), blocks()[1])
        until(lambda: ("read", key("a")) in disk.calls)
        clock.now += 1e-3
    clock.now += 2
    assert [e.failure for e in moving.poll()] == [Failure.DEADLINE] * 10
    assert moving.usage().lanes[DISK].breaker is BreakerState.CLOSED
    disk.open.set()
    moving.close(5)


def test_a_batch_that_is_late_is_one_failure() -> None:
    remote, clock = BatchGate(), Clock()
    moving = mover(remote=remote, clock=clock)
    put(moving, "a", REMOTE)
    remote.open.clear()
    moving.submit(store(50, "first", REMOTE), blocks()[1])
    until(lambda: ("write", key("first")) in remote.calls)
    for number in range(10):
        moving.submit(load(number, "a", REMOTE, deadline=clock.now + 1), blocks()[1])
    remote.let_one_by()
    until(lambda: remote.batches == [10])
    assert report(moving).order_id == 50
    clock.now += 2
    assert [e.failure for e in moving.poll()] == [Failure.DEADLINE] * 10
    assert moving.usage().lanes[REMOTE].breaker is BreakerState.CLOSED
    remote.open.set()
    moving.close(5)


def test_a_late_store_never_reads_blocks_that_were_given_back() -> None:
    disk, clock = Gate(), Clock()
    moving = mover(disk=disk, clock=clock, lanes={DISK: LaneConfig(stall_seconds=5)})
    disk.open.clear()
    memory, views = blocks(content("a"))
    moving.submit(store(1, "a", DISK), views)
    until(lambda: ("write", key("a")) in disk.calls)
    memory[:] = b"x" * SIZE  # what a late reader would file under this key
    clock.now += 6
    events = moving.poll()

    assert [e.failure for e in events if not isinstance(e, TierHealth)] == [Failure.DEADLINE]
    assert [e.healthy for e in events if isinstance(e, TierHealth)] == [False]
    disk.open.set()
    until(lambda: ("delete", key("a")) in disk.calls)  # the books do not have it
    until(lambda: not disk.inner.contains([key("a")]))
    moving.close(5)


def test_a_store_takes_its_bytes_before_the_tier_hangs() -> None:
    disk = Gate()
    moving = mover(disk=disk)
    disk.open.clear()
    memory, views = blocks(content("a"))
    moving.submit(store(1, "a", DISK), views)
    until(lambda: ("write", key("a")) in disk.calls)
    memory[:] = b"x" * SIZE
    disk.open.set()
    assert report(moving).failure is None
    memory, views = blocks()
    moving.submit(load(2, "a", DISK), views)
    assert report(moving).failure is None and bytes(memory) == content("a")
    moving.close(5)


def test_a_load_that_has_not_begun_expires_without_touching_the_tier() -> None:
    disk, clock = Gate(), Clock()
    moving = mover(disk=disk, clock=clock)
    disk.open.clear()
    moving.submit(store(1, "first", DISK), blocks()[1])
    until(lambda: len(disk.calls) == 1)
    moving.submit(load(2, "second", DISK, deadline=clock.now + 1), blocks()[1])
    clock.now += 1.5
    (late,) = moving.poll()

    assert late.failure is Failure.DEADLINE and late.seconds == 0 and late.queued == 1.5
    disk.open.set()
    assert report(moving).order_id == 1
    assert ("read", key("second")) not in disk.calls
    assert moving.usage().lanes[DISK].breaker is BreakerState.CLOSED
    moving.close(5)


def test_a_deadline_wakes_a_sleeping_engine() -> None:
    disk, woken = Gate(), threading.Event()
    moving = mover(disk=disk, on_ready=woken.set)
    disk.open.clear()
    began = time.monotonic()
    moving.submit(load(1, "a", DISK, deadline=began + 0.1), blocks()[1])
    assert woken.wait(60)  # the gate stays shut: nothing else wakes it
    assert time.monotonic() - began >= 0.1
    (late,) = moving.poll()
    assert late.failure is Failure.DEADLINE
    disk.open.set()
    moving.close(5)


@pytest.mark.parametrize("tier", [HOST, DISK])
def test_a_load_that_is_being_copied_keeps_its_blocks_until_it_reports(tier: TierName) -> None:
    """Past its deadline and cancelled, but the thread is at the blocks: the report must wait."""
    codec, clock = ZlibCodec(), Clock()
    moving = mover(host=host(), disk=Gate(), codec=codec, clock=clock)
    size = put(moving, "a", tier)
    codec.open.clear()
    memory, views = blocks()
    moving.submit(load(1, "a", tier, deadline=clock.now + 1, size=size), views)
    assert codec.decoding.wait(10)
    clock.now += 2
    assert moving.poll() == []
    moving.cancel([1])
    assert moving.poll() == []
    codec.open.set()
    done = report(moving)
    assert done.failure is None and bytes(memory) == content("a")
    assert not moving.wait(0.05)
    moving.close(5)


# -- sickness -------------------------------------------------------------------------------------


def test_failures_switch_a_tier_off_and_a_probe_switches_it_on() -> None:
    disk, clock = Gate(), Clock()
    config = LaneConfig(breaker=BreakerConfig(failures=3, cooldown=1.0))
    moving = mover(host=host(), disk=disk, clock=clock, lanes={DISK: config})
    put(moving, "a", DISK)
    disk.error = OSError("broken")
    for number in range(3):
        moving.submit(load(number, "a", DISK), blocks()[1])
        events = reports(moving)
        assert events[0].failure is Failure.IO
    health = events[-1] if isinstance(events[-1], TierHealth) else reports(moving, 0)[-1]
    assert isinstance(health, TierHealth) and not health.healthy and "broken" in health.because

    calls = len(disk.calls)
    moving.submit(load(10, "a", DISK), blocks()[1])
    moving.submit(store(11, "b", DISK), blocks()[1])
    assert [e.failure for e in moving.poll()] == [Failure.SICK, Failure.SICK]
    assert len(disk.calls) == calls

    disk.error = None
    clock.now += 1.5
    until(lambda: moving.wait(0.01))
    (well,) = moving.poll()
    assert isinstance(well, TierHealth) and well.healthy
    memory, views = blocks()
    moving.submit(load(12, "a", DISK), views)
    assert report(moving).failure is None and bytes(memory) == content("a")
    assert moving.usage().lanes[DISK].breaker is BreakerState.CLOSED
    moving.close(5)


def test_loads_behind_a_hung_thread_open_the_breaker() -> None:
    disk, clock = Gate(), Clock()
    config = LaneConfig(breaker=BreakerConfig(failures=3, window=60.0))
    moving = mover(disk=disk, clock=clock, lanes={DISK: config})
    disk.open.clear()
    moving.submit(load(0, "a", DISK, deadline=clock.now + 1), blocks()[1])
    until(lambda: len(disk.calls) == 1)
    moving.submit(store(50, "s", DISK), blocks()[1])
    events = []
    for number in range(1, 4):
        clock.now += 2
        events += moving.poll()
        moving.submit(load(number, "a", DISK, deadline=clock.now + 1), blocks()[1])
    events += moving.poll()

    failures = {e.order_id: e.failure for e in events if not isinstance(e, TierHealth)}
    late, sick = Failure.DEADLINE, Failure.SICK
    assert failures == {0: late, 1: late, 2: late, 3: sick, 50: sick}
    disk.open.set()
    moving.close(5)


def test_a_hung_tier_holds_up_neither_others_nor_close() -> None:
    disk = Gate()
    moving = mover(host=host(), disk=disk, lanes={DISK: LaneConfig(threads=2)})
    disk.open.clear()
    memory, views = blocks(content("s"))
    for number in range(4):
        moving.submit(store(number, number, DISK), views)
    for number in range(4, 8):
        moving.submit(load(number, number, DISK), blocks()[1])
    put(moving, "a", HOST)
    hung = moving.close(0.3)

    assert disk.left == 0, "it waited until a call had ended"
    assert hung == {DISK}
    ended = moving.poll()
    assert sorted(e.order_id for e in ended) == list(range(8))
    assert {e.failure for e in ended} == {Failure.CANCELLED}
    memory[:] = b"x" * SIZE
    disk.open.set()
    until(lambda: moving.close(1) == frozenset())
    assert moving.poll() == []
    assert not list(disk.inner.scan())  # reported as cancelled, so deleted again


def test_close_carries_out_what_was_to_be_stored() -> None:
    disk = Gate()
    moving = mover(host=host(), disk=disk, remote=Gate())
    size = put(moving, "m", DISK)
    for number in range(20):
        moving.submit(store(number, number, DISK), blocks(content(number))[1])
    moving.submit(move(30, "m", DISK, REMOTE, size))
    assert moving.close(10) == frozenset()
    ended = moving.poll()
    assert len(ended) == 21 and all(e.failure is None for e in ended)
    assert disk.inner.contains([key(n) for n in range(20)]) == {key(n) for n in range(20)}


def test_a_tier_with_a_bug_is_a_failed_transfer() -> None:
    disk = Gate()
    moving = mover(disk=disk)
    disk.error = ZeroDivisionError("bug")
    moving.submit(load(1, "a", DISK), blocks()[1])
    moving.submit(store(2, "a", DISK), blocks()[1])
    moving.submit(lookup(3, ["a"], DISK))
    assert {e.failure for e in reports(moving, 3)} == {Failure.IO}
    moving.close(5)


def test_the_callback_runs_without_locks() -> None:
    moving: list[Mover] = []
    seen = threading.Event()

    def on_ready() -> None:
        moving[0].backlog(HOST)
        moving[0].usage()  # takes the lock
        seen.set()

    moving.append(mover(host=host(), on_ready=on_ready))
    moving[0].submit(load(1, "a"), blocks()[1])
    assert seen.wait(5)
    assert report(moving[0]).failure is Failure.MISSING
    moving[0].close(5)
