"""The mover: bytes arrive, every order gets exactly one report, in the right order and bounds."""

from __future__ import annotations

import time

import pytest

from stepwell.base.hierarchy import EvictChunk, Failure, TierName
from stepwell.tier.breaker import BreakerState
from stepwell.tier.mover import LaneConfig
from tests.tier.movers import (
    BLOCKS,
    SIZE,
    BatchGate,
    Clock,
    Gate,
    blocks,
    content,
    host,
    key,
    load,
    lookup,
    mover,
    put,
    report,
    reports,
    store,
    until,
)

HOST, DISK, REMOTE = TierName.HOST, TierName.DISK, TierName.REMOTE


@pytest.mark.parametrize("tier", [HOST, DISK])
def test_what_is_stored_comes_back_into_the_blocks(tier: TierName) -> None:
    moving = mover(host=host(), disk=Gate())
    size = put(moving, "a", tier)
    memory, views = blocks()

    moving.submit(load(1, "a", tier), views[::-1])
    done = report(moving)

    assert done.failure is None and done.order_id == 1
    third = SIZE // BLOCKS
    data = content("a")
    assert bytes(memory) == data[2 * third :] + data[third : 2 * third] + data[:third]
    assert size > SIZE
    assert moving.backlog(tier) == 0
    assert moving.close(5) == frozenset()


def test_many_chunks_through_several_threads() -> None:
    disk = Gate(host(16 << 20))
    moving = mover(host=host(16 << 20), disk=disk, lanes={DISK: LaneConfig(threads=3)})
    for number in range(200):
        moving.submit(store(number, number, (HOST, DISK)[number % 2]), blocks(content(number))[1])
    stored = reports(moving, 200)
    assert all(e.failure is None for e in stored)
    memories = []
    for number in range(200):
        memory, views = blocks()
        memories.append(memory)
        moving.submit(load(1000 + number, number, (HOST, DISK)[number % 2]), views)
    loaded = reports(moving, 200)

    assert sorted(e.order_id for e in loaded) == list(range(1000, 1200))
    assert all(e.failure is None for e in loaded)
    assert all(bytes(m) == content(n) for n, m in enumerate(memories))
    usage = moving.usage()
    assert usage.lanes[HOST].done == 200 and usage.lanes[HOST].open_orders == 0
    moving.close(5)


def test_a_missing_chunk_is_reported_missing() -> None:
    moving = mover(host=host())
    moving.submit(load(1, "nowhere"), blocks()[1])
    assert report(moving).failure is Failure.MISSING
    moving.close(5)


def test_a_damaged_chunk_is_corrupt_then_missing() -> None:
    arena = host()
    moving = mover(host=arena)
    put(moving, "a", HOST)
    arena.damage(key("a"), at=SIZE // 2)
    for number, failure in ((1, Failure.CORRUPT), (2, Failure.MISSING)):
        moving.submit(load(number, "a"), blocks()[1])
        assert report(moving).failure is failure
    moving.close(5)


@pytest.mark.parametrize("tier", [HOST, DISK])
def test_a_value_of_another_layout_is_refused_and_deleted(tier: TierName) -> None:
    arena, disk = host(), Gate()
    first = mover(host=arena, disk=disk)
    put(first, "a", tier)
    first.close(5)
    second = mover(host=arena, disk=disk, layout=bytes(16))
    memory, views = blocks()

    second.submit(load(1, "a", tier), views)

    assert report(second).failure is Failure.CORRUPT
    usage = second.usage().lanes[tier]
    assert usage.refused_headers == 1 and usage.breaker is BreakerState.CLOSED
    assert not arena.contains([key("a")]) and not disk.inner.contains([key("a")])
    if tier is DISK:
        assert bytes(memory) == bytes(SIZE)  # the header is checked before a block is touched
    second.close(5)


def test_storing_twice_is_no_failure_and_full_is_full() -> None:
    moving = mover(host=host(100_000))
    put(moving, "a", HOST)
    put(moving, "a", HOST)
    for number in (1, 2, 3):
        moving.submit(store(number, number), blocks()[1])
    failures = [e.failure for e in reports(moving, 3)]
    assert failures == [None, None, Failure.FULL]
    moving.submit(EvictChunk(key=key("a"), tier=HOST))
    moving.submit(store(4, 4), blocks()[1])
    assert report(moving).failure is None
    moving.close(5)


# -- order, cancelling, bounds --------------------------------------------------------------------


def test_loads_go_before_stores_and_by_deadline() -> None:
    disk = Gate()
    moving = mover(disk=disk)
    disk.open.clear()
    moving.submit(store(0, "first", DISK), blocks()[1])
    until(lambda: len(disk.calls) == 1)
    now = time.monotonic()
    moving.submit(store(1, "store", DISK), blocks()[1])
    moving.submit(load(2, "later", DISK, deadline=now + 60), blocks()[1])
    moving.submit(load(3, "sooner", DISK, deadline=now + 50), blocks()[1])
    moving.submit(EvictChunk(key=key("evicted"), tier=DISK))
    disk.open.set()
    reports(moving, 4)

    assert disk.calls[1:] == [
        ("delete", key("evicted")),
        ("read", key("sooner")),
        ("read", key("later")),
        ("write", key("store")),
    ]
    moving.close(5)


def test_cancelling_what_has_not_begun_and_what_has() -> None:
    disk = Gate()
    moving = mover(disk=disk)
    put(moving, "a", DISK)
    disk.open.clear()
    memory, views = blocks()
    moving.submit(load(1, "a", DISK), views)
    until(lambda: ("read", key("a")) in disk.calls)
    moving.submit(load(2, "b", DISK), blocks()[1])
    moving.submit(store(3, "c", DISK), blocks()[1])
    moving.cancel([1, 2, 3, 77])

    assert [(e.order_id, e.failure) for e in moving.poll()] == [
        (n, Failure.CANCELLED) for n in (1, 2, 3)
    ]
    memory[:] = b"x" * SIZE
    disk.open.set()
    moving.close(5)
    assert moving.poll() == [] and bytes(memory) == b"x" * SIZE
    assert [call for call, _ in disk.calls] == ["write", "read"]


def test_a_store_that_runs_is_not_cancelled() -> None:
    disk = Gate()
    moving = mover(disk=disk)
    disk.open.clear()
    moving.submit(store(1, "a", DISK), blocks()[1])
    until(lambda: len(disk.calls) == 1)
    moving.cancel([1])
    assert moving.poll() == []
    disk.open.set()
    assert report(moving).failure is None
    moving.close(5)


def test_stores_over_the_bound_are_refused_at_once_and_loads_are_not() -> None:
    disk = Gate()
    moving = mover(disk=disk, lanes={DISK: LaneConfig(store_backlog=2 * SIZE)})
    disk.open.clear()
    for number in (1, 2, 3):
        moving.submit(store(number, number, DISK), blocks()[1])
    for number in range(10, 20):
        moving.submit(load(number, number, DISK), blocks()[1])

    assert [(e.order_id, e.failure) for e in moving.poll()] == [(3, Failure.FULL)]
    assert moving.backlog(DISK) == 12 * SIZE
    disk.open.set()
    ended = reports(moving, 12)
    assert len(ended) == 12 and moving.backlog(DISK) == 0
    moving.submit(store(4, 4, DISK), blocks()[1])
    assert report(moving).failure is None
    moving.close(5)


def test_order_ids_may_be_used_again_and_nothing_piles_up() -> None:
    moving = mover(host=host())
    for _ in range(2000):
        moving.submit(load(1, "a"), blocks()[1])
        assert report(moving).failure is Failure.MISSING
    assert len(moving._desk._deadlines) < 1000
    moving.close(5)


def test_wrong_use_is_refused() -> None:
    moving = mover(host=host())
    with pytest.raises(ValueError, match="no lane for DISK"):
        moving.submit(load(1, "a", DISK), blocks()[1])
    with pytest.raises(ValueError, match="no lane for DISK"):
        moving.submit(EvictChunk(key=key("a"), tier=DISK))
    with pytest.raises(ValueError, match="needs buffers"):
        moving.submit(load(1, "a"))
    with pytest.raises(ValueError, match="takes no buffers"):
        moving.submit(lookup(1, ["a"], HOST), blocks()[1])
    assert moving.poll() == []
    moving.close(5)
    with pytest.raises(RuntimeError):
        moving.submit(lookup(1, ["a"], HOST))


# -- batches --------------------------------------------------------------------------------------


def test_loads_go_in_batches_where_the_tier_takes_them() -> None:
    remote, clock = BatchGate(), Clock()
    lane = LaneConfig(batch_bytes=4 * SIZE + 1)
    moving = mover(remote=remote, clock=clock, lanes={REMOTE: lane})
    for number in range(9):
        put(moving, number, REMOTE, number=number)
    remote.inner.damage(key(3), at=1000)
    remote.inner.delete([key(5)])
    remote.open.clear()
    moving.submit(store(50, "first", REMOTE), blocks()[1])
    until(lambda: ("write", key("first")) in remote.calls)
    memories = {}
    for number in range(9):
        memories[number], views = blocks()
        deadline = clock.now + (1 if number == 7 else 100)
        moving.submit(load(100 + number, number, REMOTE, deadline=deadline), views)
    moving.submit(lookup(200, [1], REMOTE, deadline=clock.now + 200), None)
    remote.open.set()
    ended = {e.order_id: e for e in reports(moving, 11)}

    failures = {n: ended[100 + n].failure for n in range(9)}
    assert failures == {n: None for n in range(9)} | {3: Failure.CORRUPT, 5: Failure.MISSING}
    for number, memory in memories.items():
        if failures[number] is None:
            assert bytes(memory) == content(number)
    assert ended[200].found == {key(1)}
    assert remote.batches == [4, 4]  # the ninth goes alone
    assert next(k for call, k in remote.calls if call == "read") == key(7)
    moving.close(5)


def test_in_a_late_batch_each_order_has_its_own_deadline() -> None:
    remote, clock = BatchGate(), Clock()
    moving = mover(remote=remote, clock=clock)
    for name in "abc":
        put(moving, name, REMOTE)
    remote.open.clear()
    moving.submit(store(50, "first", REMOTE), blocks()[1])
    until(lambda: ("write", key("first")) in remote.calls)
    memories = {}
    for number, name in enumerate("abc"):
        memories[name], views = blocks()
        deadline = clock.now + 10 * (number + 1)
        moving.submit(load(number, name, REMOTE, deadline=deadline), views)
    remote.let_one_by()
    until(lambda: remote.batches == [3])
    assert report(moving).order_id == 50
    clock.now += 15  # the first is too late while the batch is under way
    (late,) = moving.poll()
    moving.cancel([1])
    (cancelled,) = moving.poll()
    remote.open.set()
    done = report(moving)

    assert (late.order_id, late.failure) == (0, Failure.DEADLINE)
    assert (cancelled.order_id, cancelled.failure) == (1, Failure.CANCELLED)
    assert (done.order_id, done.failure) == (2, None)
    assert [bytes(memories[n]) for n in "abc"] == [bytes(SIZE), bytes(SIZE), content("c")]
    moving.close(5)
