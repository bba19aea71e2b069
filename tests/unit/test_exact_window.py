"""Lossy tiers: what must be exact there, when it may be coded after all, and never twice."""

from __future__ import annotations

from dataclasses import replace

from stepwell.base.hierarchy import (
    EvictChunk,
    Failure,
    LoadChunk,
    MoveChunk,
    Order,
    StoreChunk,
    TierName,
    TransferReport,
)
from stepwell.cache.hierarchy import Hierarchy
from stepwell.cache.plan import ChainRequest
from stepwell.cache.settings import HierarchySettings, TierSpec

HOST, DISK = TierName.HOST, TierName.DISK
SIZE, TOKENS, WINDOW = 1000, 16, 2


def make(*, host: bool = False, shared: bool = False) -> Hierarchy:
    """A lossy disk, and perhaps a host tier that loses nothing."""
    tiers = [TierSpec(name=DISK, capacity_bytes=10**6, lossy=True, shared=shared)]
    if host:
        tiers.append(TierSpec(name=HOST, capacity_bytes=10**6))
    brain = Hierarchy(
        tiers, chunk_tokens=TOKENS, chunk_bytes=SIZE,
        settings=HierarchySettings(window_chunks=WINDOW),
    )  # fmt: skip
    for tokens in (10, 100, 1000) * 4:
        brain.computed(tokens=tokens, context=0, seconds=1e-3 * tokens, now=0.0)
    for tier in [spec.name for spec in tiers]:
        for size in (1000, 10_000, 100_000) * 4:
            brain.transferred(tier, size=size, seconds=1e-8 * size, now=0.0)
    return brain


def keys(count: int) -> list[bytes]:
    return [f"k{i}".encode() for i in range(count)]


def report(brain: Hierarchy, orders: list[Order], failure: Failure | None = None) -> None:
    for order in orders:
        if not isinstance(order, EvictChunk):
            brain.report(
                TransferReport(
                    order_id=order.order_id, now=1.0, seconds=1e-3, queued=0.0, size=SIZE,
                    failure=failure,
                )
            )  # fmt: skip
    brain.check()


def turn(
    brain: Hierarchy, count: int, *, on_device: int = 0, failure: Failure | None = None
) -> tuple[list[LoadChunk], list[Order]]:
    """One request over `count` chunks, of which the device has some: its loads, its stores."""
    request = ChainRequest(
        request_id="r", keys=keys(count), tokens=count * TOKENS + 1, device_chunks=on_device
    )
    loads = brain.begin(brain.plan(request, now=1.0), 1.0)
    report(brain, list(loads))
    brain.close("r", keys(count), count, 1.0)
    orders = brain.take_orders()
    report(brain, orders, failure)
    return loads, orders


def stored(orders: list[Order]) -> dict[int, bool]:
    """Chunk index -> exact, of the stores."""
    return {order.index: order.exact for order in orders if isinstance(order, StoreChunk)}


def test_the_last_chunks_of_a_session_are_stored_exactly() -> None:
    _, orders = turn(make(), 5)
    assert stored(orders) == {0: False, 1: False, 2: False, 3: True, 4: True}


def test_what_leaves_the_window_is_coded_from_the_device() -> None:
    brain = make()
    turn(brain, 5)
    _, orders = turn(brain, 7, on_device=5)
    assert stored(orders) == {3: False, 4: False, 5: True, 6: True}
    anew = [order for order in orders if isinstance(order, StoreChunk) and order.index in (3, 4)]
    assert all(order.replaces for order in anew)
    _, again = turn(brain, 7, on_device=7)
    assert stored(again) == {}, "nothing is left to code"


def test_what_was_coded_once_is_not_coded_again() -> None:
    brain = make()
    turn(brain, 6)
    loads, _ = turn(brain, 6)
    assert len(loads) == 6
    for index in (0, 4):  # 0 was coded, 4 was in the window
        brain._store.evict(brain._store.table.index[keys(6)[index]], DISK, 2.0)
    brain.take_orders()
    _, orders = turn(brain, 8, on_device=6)
    assert stored(orders) == {0: True, 4: False, 5: False, 6: True, 7: True}


def test_what_was_computed_again_has_lost_nothing() -> None:
    brain = make()
    turn(brain, 6)
    turn(brain, 6)  # loaded: coded
    row = brain._store.table.index[keys(6)[0]]
    brain._store.evict(row, DISK, 2.0)
    brain.take_orders()
    loads, orders = turn(brain, 6)  # its first chunk is nowhere: all is computed
    assert not [load for load in loads if load.index == 0]
    assert stored(orders)[0] is False


def test_a_copy_on_its_way_down_is_coded_unless_it_is_recent() -> None:
    brain = make(host=True)
    turn(brain, 5)
    store, moved = brain._store, {}
    for index, key in enumerate(keys(5)):
        store.move(store.table.index[key], HOST, DISK, now=2.0)
        (order,) = brain.take_orders()
        assert isinstance(order, MoveChunk) and order.index == index
        moved[index] = order.exact
        report(brain, [order])
    assert moved == {0: False, 1: False, 2: False, 3: True, 4: True}


def test_a_replacement_that_fails_leaves_nothing_behind() -> None:
    brain = make()
    turn(brain, 5)
    turn(brain, 7, on_device=5, failure=Failure.FULL)
    evicted = {order.key for order in brain.take_orders() if isinstance(order, EvictChunk)}
    assert {keys(7)[3], keys(7)[4]} <= evicted
    brain.check()


def test_others_may_be_reading_a_shared_tier() -> None:
    brain = make(shared=True)
    turn(brain, 5)
    _, orders = turn(brain, 7, on_device=5)
    assert stored(orders) == {5: True, 6: True}


def test_a_scan_remembers_what_is_exact_and_what_was_coded() -> None:
    brain = make()
    _, orders = turn(brain, 5)
    found = [(o.key, SIZE, o.meta) for o in orders if isinstance(o, StoreChunk)]
    other = make()
    assert other.adopt(DISK, found, 0.0) == 5
    _, orders = turn(other, 7, on_device=5)
    assert stored(orders) == {3: False, 4: False, 5: True, 6: True}


def test_a_copy_that_was_coded_is_remembered_while_others_compute() -> None:
    """The host's copy came from the lossy disk. That a request computes the chunk again says
    nothing about that copy: on its way down it is not coded a second time."""
    brain = make(host=True)
    turn(brain, 6)
    store = brain._store
    rows = [store.table.index[key] for key in keys(6)]
    for row in rows:  # down, coded; up again from there
        store.move(row, HOST, DISK, now=2.0)
        report(brain, brain.take_orders())
        store.evict(row, HOST, 2.0)
        brain.take_orders()
        store.move(row, DISK, HOST, now=2.0)
        report(brain, brain.take_orders())
    brain.begin(
        replace(
            brain.plan(ChainRequest(request_id="x", keys=keys(6), tokens=97), now=3.0), spans=()
        ),
        3.0,
    )
    store.evict(rows[0], DISK, 3.0)
    brain.take_orders()
    store.move(rows[0], HOST, DISK, now=3.0)
    (order,) = brain.take_orders()
    assert isinstance(order, MoveChunk) and order.exact
