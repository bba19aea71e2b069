"""Transfers through staging memory: bytes arrive, blocks are held as long as they are in use, and
no longer. The device here is a fake one; `tests/gpu/test_tiers_cuda.py` runs the tests that take
`device` on a real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import stepwell.engine.staging.staged as staged  # noqa: E402
from stepwell.base.errors import ConfigError  # noqa: E402
from stepwell.base.hierarchy import EvictChunk, Failure, LookupReport, TierHealth  # noqa: E402
from stepwell.engine.staging import check_device  # noqa: E402
from stepwell.tier.breaker import BreakerConfig  # noqa: E402
from stepwell.tier.mover import LaneConfig  # noqa: E402
from tests.engine.staging_rig import (  # noqa: E402
    DISK,
    HOST,
    REMOTE,
    Device,
    Rig,
    disk_tier,
    fake,
    some_blocks,
)
from tests.tier.movers import (  # noqa: E402
    SIZE,
    Gate,
    content,
    host,
    key,
    lookup,
    move,
    until,
)

GARBAGE = content("garbage")


@pytest.fixture
def device() -> Iterator[Device]:
    """Late and in odd order."""
    made = fake(delay=0.002)
    yield made
    made.close(5)


def test_what_is_stored_comes_back_from_every_tier(device: Device, tmp_path: Path) -> None:
    """Thirty chunks through two slots; blocks are overwritten as soon as they are free."""
    disk = disk_tier(tmp_path)
    rig = Rig(device, host=host(8 << 20), disk=disk, remote=Gate())
    tiers = (HOST, DISK, REMOTE)
    for number in range(30):
        blocks = some_blocks(number)
        rig.store(number, number, tiers[number % 3], blocks)
        rig.until_read_out(number)
        rig.write(blocks, GARBAGE)
    assert rig.until(*range(30)) == [None] * 30
    disk.forget_cached()

    for number in range(30):
        blocks = some_blocks(-number)
        rig.load(100 + number, number, tiers[number % 3], blocks)
        assert rig.until(100 + number) == [None]
        assert rig.read(blocks) == content(number)
    assert rig.rung
    assert rig.close() == frozenset()
    disk.close()


def test_copies_wait_for_what_compute_was_told_before(device: Device) -> None:
    """A store right behind the writing of its blocks, a load into blocks that are still written."""
    rig = Rig(device, host=host(8 << 20), in_flight=4)
    for number in range(15):
        blocks = list(range(3 * number, 3 * number + 3))
        rig.store(number, number, HOST, blocks)
    assert rig.until(*range(15)) == [None] * 15
    for number in range(15):
        blocks = list(range(3 * number, 3 * number + 3))
        rig.write(blocks, GARBAGE)
        rig.load(100 + number, 14 - number, HOST, blocks)
    assert rig.until(*range(100, 115)) == [None] * 15
    for number in range(15):
        assert rig.read(list(range(3 * number, 3 * number + 3))) == content(14 - number)
    rig.close()


def test_blocks_of_a_store_are_free_before_the_tier_has_them(device: Device) -> None:
    disk = Gate()
    disk.open.clear()
    rig = Rig(device, disk=disk)
    blocks = some_blocks(1)
    rig.store(1, "a", DISK, blocks)
    rig.until_read_out(1)
    rig.write(blocks, GARBAGE)
    assert 1 not in rig.reports
    disk.open.set()
    assert rig.until(1) == [None]

    rig.load(2, "a", DISK, blocks)
    assert rig.until(2) == [None]
    assert rig.read(blocks) == content("a")
    rig.close()


def test_stores_beyond_the_slots_wait_and_beyond_the_backlog_are_refused(device: Device) -> None:
    disk = Gate()
    disk.open.clear()
    rig = Rig(device, host=host(), disk=disk, in_flight=2, store_backlog=3 * SIZE)
    for number in range(6):
        rig.store(number, number, DISK, list(range(3 * number, 3 * number + 3)))
        if number < 2:
            rig.until_read_out(number)
    assert rig.until(5) == [Failure.FULL]
    rig.store(10, 10, HOST, some_blocks(10, start=30))
    assert rig.until(10) == [None], "another tier's slots are its own"
    assert rig.read_out == [0, 1, 10]
    disk.open.set()
    assert rig.until(*range(5)) == [None] * 5

    for number in range(5):
        rig.load(20 + number, number, DISK, [30, 31, 32])
        assert rig.until(20 + number) == [None]
        assert rig.read([30, 31, 32]) == content(number)
    rig.close()


def test_loads_beyond_the_slots_wait_until_their_deadlines(device: Device) -> None:
    disk = Gate()
    rig = Rig(device, host=host(), disk=disk, in_flight=1)
    rig.store(0, "a", DISK, [0, 1, 2])
    rig.store(1, "a", HOST, [3, 4, 5])
    assert rig.until(0, 1) == [None, None]
    disk.open.clear()
    rig.write([9, 10, 11], GARBAGE)
    rig.load(2, "a", DISK, [6, 7, 8])
    rig.load(3, "a", DISK, [9, 10, 11], deadline=time.monotonic() + 0.1)
    rig.load(4, "a", DISK, [12, 13, 14])
    assert rig.until(3) == [Failure.DEADLINE]
    rig.load(5, "a", HOST, [15, 16, 17])
    assert rig.until(5) == [None], "another tier's slots are its own"
    assert 2 not in rig.reports and 4 not in rig.reports
    disk.open.set()
    assert rig.until(2, 4) == [None, None]
    assert rig.read([6, 7, 8]) == rig.read([12, 13, 14]) == content("a")
    assert rig.read([9, 10, 11]) == GARBAGE
    rig.close()


def test_waiting_loads_go_by_deadline() -> None:
    device, disk = fake(), Gate()
    rig = Rig(device, disk=disk, in_flight=1)
    for number in range(4):
        rig.store(number, number, DISK, [0, 1, 2])
        rig.until(number)
    disk.calls.clear()
    disk.open.clear()
    for number, deadline in ((0, 1e9), (1, 3e8), (2, 1e8), (3, 2e8)):
        rig.load(10 + number, number, DISK, [3 * number, 3 * number + 1, 3 * number + 2],
                 deadline=deadline)  # fmt: skip
        until(lambda: bool(disk.calls))
    disk.open.set()
    assert rig.until(10, 11, 12, 13) == [None] * 4
    assert [k for call, k in disk.calls if call == "read"] == [key(n) for n in (0, 2, 3, 1)]
    rig.close()


def test_a_load_that_fails_touches_no_block(device: Device) -> None:
    disk = Gate()
    rig = Rig(device, host=host(), disk=disk)
    rig.write([0, 1, 2], GARBAGE)
    rig.load(1, "nowhere", HOST, [0, 1, 2])
    disk.error = OSError("no")
    rig.load(2, "a", DISK, [0, 1, 2])
    assert rig.until(1, 2) == [Failure.MISSING, Failure.IO]
    assert rig.read([0, 1, 2]) == GARBAGE
    rig.close()


def test_what_can_still_be_cancelled_is() -> None:
    device, disk = fake(), Gate()
    rig = Rig(device, host=host(), disk=disk, in_flight=1)
    rig.store(1, "a", DISK, [0, 1, 2])
    rig.until(1)
    device.go.clear()
    rig.store(2, "b", DISK, [3, 4, 5])  # being copied
    rig.store(3, "c", DISK, [6, 7, 8])  # waits for a slot
    until(lambda: device.waiting == 1)
    rig.transfers.cancel([2, 3, 77])
    assert rig.until(3) == [Failure.CANCELLED]
    assert 2 not in rig.reports, "its blocks are being read"
    device.go.set()
    assert rig.until(2) == [Failure.CANCELLED]
    assert ("write", key("b")) not in disk.calls

    disk.open.clear()
    rig.load(4, "a", DISK, [9, 10, 11])
    until(lambda: ("read", key("a")) in disk.calls)
    rig.transfers.cancel([4])
    assert rig.until(4) == [Failure.CANCELLED]
    disk.open.set()

    device.go.clear()
    rig.load(5, "a", DISK, [12, 13, 14])
    until(lambda: device.waiting == 1)
    rig.transfers.cancel([5])
    time.sleep(0.05)
    rig.collect()
    assert 5 not in rig.reports, "its blocks are being written"
    device.go.set()
    assert rig.until(5) == [None]
    assert rig.read([12, 13, 14]) == content("a")
    rig.close()


def test_a_copy_that_fails_fails_its_order_alone() -> None:
    device = fake()
    rig = Rig(device, host=host(), in_flight=1)
    rig.store(1, "a", HOST, [0, 1, 2])
    assert rig.until(1) == [None]
    device.fails = 1.0
    rig.store(2, "b", HOST, [0, 1, 2])
    rig.load(3, "a", HOST, [3, 4, 5])
    assert rig.until(2, 3) == [Failure.IO, Failure.IO]
    device.fails = 0.0
    rig.load(4, "b", HOST, [6, 7, 8])
    rig.load(5, "a", HOST, [6, 7, 8])
    assert rig.until(4, 5) == [Failure.MISSING, None], "the slots came back"
    assert rig.read([6, 7, 8]) == content("a")
    rig.close()


def test_a_device_that_refuses_a_copy_fails_its_order_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = fake()
    rig = Rig(device, host=host(), in_flight=1)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("out of events")

    with monkeypatch.context() as patched:
        patched.setattr(device, "to_host", refuse)
        rig.store(1, "a", HOST, [0, 1, 2])
        assert rig.until(1) == [Failure.IO]
    rig.store(2, "a", HOST, [0, 1, 2])
    assert rig.until(2) == [None]
    rig.close()


def test_a_tier_that_is_switched_off_keeps_nobody_waiting() -> None:
    device, disk = fake(), Gate()
    disk.open.clear()
    lanes = {DISK: LaneConfig(breaker=BreakerConfig(failures=1))}
    rig = Rig(device, disk=disk, in_flight=1, lanes=lanes)
    rig.load(1, "a", DISK, [0, 1, 2], deadline=time.monotonic() + 0.2)
    rig.load(2, "a", DISK, [3, 4, 5])
    rig.store(3, "a", DISK, [6, 7, 8])
    rig.store(4, "b", DISK, [9, 10, 11])
    assert rig.until(1, 2, 3, 4) == [Failure.DEADLINE, *[Failure.SICK] * 3]
    assert [e.healthy for e in rig.others if isinstance(e, TierHealth)] == [False]
    disk.open.set()
    rig.close()


def test_other_orders_pass_through() -> None:
    device = fake()
    near, far = host(), Gate()
    rig = Rig(device, host=near, remote=far)
    rig.store(1, "a", HOST, [0, 1, 2])
    rig.until(1)
    rig.transfers.submit(move(2, "a", HOST, REMOTE, rig.reports[1].size))
    assert rig.until(2) == [None]
    rig.transfers.submit(EvictChunk(key=key("a"), tier=HOST))
    rig.transfers.submit(lookup(3, ["a", "b"], REMOTE))
    until(lambda: rig.collect() or bool(rig.others))  # type: ignore[func-returns-value]
    (answer,) = rig.others
    assert isinstance(answer, LookupReport) and answer.found == {key("a")}
    assert near.usage().chunks == 0
    rig.close()


def test_time_in_the_queue_is_not_time_of_the_transfer() -> None:
    device, disk = fake(), Gate()
    disk.open.clear()
    rig = Rig(device, disk=disk, in_flight=1)
    began = time.monotonic()
    rig.store(1, "a", DISK, [0, 1, 2])
    rig.store(2, "b", DISK, [3, 4, 5])
    until(lambda: bool(disk.calls))
    reached = time.monotonic()
    time.sleep(0.2)
    opened = time.monotonic()
    disk.open.set()
    rig.until(1, 2)
    ended = time.monotonic()
    first, second = rig.reports[1], rig.reports[2]
    assert first.seconds >= opened - reached and first.queued <= reached - began
    assert second.queued >= opened - reached and second.seconds <= ended - opened
    rig.close()


def test_close_carries_stores_out_and_cancels_loads() -> None:
    device, disk = fake(), Gate()
    rig = Rig(device, host=host(), disk=disk, in_flight=1)
    rig.store(0, 0, HOST, [0, 1, 2])
    rig.until(0)
    device.go.clear()
    for number in range(1, 6):
        rig.store(number, number, DISK, list(range(3 * number, 3 * number + 3)))
    rig.load(10, 0, HOST, [30, 31, 32])  # being copied into its blocks
    rig.load(11, 0, HOST, [33, 34, 35])  # waits
    until(lambda: device.waiting == 2)
    threading.Timer(0.2, device.go.set).start()
    assert rig.close() == frozenset()

    assert rig.until(*range(1, 6)) == [None] * 5
    assert rig.until(10, 11) == [None, Failure.CANCELLED]
    assert rig.read([30, 31, 32]) == content(0)
    assert disk.usage().chunks == 5  # type: ignore[operator]
    assert rig.close() == frozenset()
    with pytest.raises(RuntimeError, match="closed"):
        rig.store(20, 20, DISK, [0, 1, 2])


def test_close_does_not_wait_for_ever_for_a_tier() -> None:
    device, disk = fake(), Gate()
    disk.open.clear()
    rig = Rig(device, disk=disk, in_flight=1)
    for number in range(4):
        rig.store(number, number, DISK, list(range(3 * number, 3 * number + 3)))
    rig.until_read_out(0)
    assert rig.close(0.3) == {DISK}
    assert disk.left == 0, "it waited until a call had ended"
    assert rig.until(*range(4)) == [Failure.CANCELLED] * 4
    disk.open.set()


def test_a_copy_that_never_ends_keeps_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reported it would give blocks away that the device still reads."""
    monkeypatch.setattr(staged, "_COPY_SECONDS", 0.2)
    device = fake()
    rig = Rig(device, host=host(), in_flight=1)
    device.go.clear()
    rig.store(1, "a", HOST, [0, 1, 2])
    rig.store(2, "b", HOST, [3, 4, 5])
    until(lambda: device.waiting == 1)
    rig.close(0.2)
    assert {n: r.failure for n, r in rig.reports.items()} == {2: Failure.CANCELLED}
    device.go.set()


def test_devices_that_nothing_here_can_copy_from_are_refused() -> None:
    check_device(torch.device("cpu"))
    check_device(torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"cpu or cuda, not mps\. Leave \[tiers\] empty"):
        check_device(torch.device("mps"))
