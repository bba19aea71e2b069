"""The host tier: pages, what is counted, and reading while others delete."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.tier.contract import ReadOutcome, WriteOutcome
from stepwell.tier.host import HostTier, PagePool, Run
from tests.values import key

PAGE = 4096


@given(st.integers(1, 40), st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=80))
def test_pages_are_given_out_once_and_all_come_back(
    pages: int, actions: list[tuple[bool, int]]
) -> None:
    pool = PagePool(pages)
    taken: list[tuple[Run, ...]] = []
    free = set(range(pages))

    def pages_of(runs: tuple[Run, ...]) -> list[int]:
        return [page for run in runs for page in range(run.start, run.start + run.count)]

    for take, number in actions:
        if take:
            runs = pool.take(number + 1)
            assert (runs is None) == (number + 1 > len(free))
            if runs is not None:
                mine = pages_of(runs)
                assert len(mine) == len(set(mine)) == number + 1 and free.issuperset(mine)
                free -= set(mine)
                taken.append(runs)
        elif taken:
            runs = taken.pop(number % len(taken))
            free |= set(pages_of(runs))
            pool.give(runs)
        assert pool.free == len(free)
    for runs in taken:
        pool.give(runs)
    assert pool.take(pages) == (Run(0, pages),)  # joined again


def test_neighbours_are_preferred() -> None:
    pool = PagePool(100)
    small = [pool.take(1) for _ in range(10)]
    for runs in small[::2]:
        assert runs is not None
        pool.give(runs)
    runs = pool.take(20)
    assert runs is not None and len(runs) == 1
    scattered = pool.take(pool.free)
    assert scattered is not None and len(scattered) > 1


def test_no_value_is_refused_for_fragmentation() -> None:
    tier = HostTier(capacity=64 * PAGE, page_bytes=PAGE)
    for name in range(64):
        assert tier.write(key(name), [memoryview(bytes(10))]) is WriteOutcome.STORED
    tier.delete([key(name) for name in range(0, 64, 2)])
    data = random.Random(1).randbytes(32 * PAGE)
    assert tier.write(key("big"), [memoryview(data)]) is WriteOutcome.STORED
    out = bytearray(len(data))
    assert tier.read(key("big"), [memoryview(out)]) is ReadOutcome.OK
    assert out == data
    assert tier.write(key("more"), [memoryview(b"x")]) is WriteOutcome.FULL


def test_meta_is_paid_for_and_empty_values_are_not_free() -> None:
    tier = HostTier(capacity=3 * PAGE, page_bytes=PAGE)
    assert tier.write(key(1), [], meta=b"m" * (PAGE + 1)) is WriteOutcome.STORED
    assert tier.usage().used == 2 * PAGE
    assert tier.write(key(2), []) is WriteOutcome.STORED
    assert tier.write(key(3), []) is WriteOutcome.FULL


def test_capacity_is_whole_pages() -> None:
    assert HostTier(capacity=3 * PAGE - 1, page_bytes=PAGE).usage().capacity == 2 * PAGE
    for capacity, page in ((PAGE - 1, PAGE), (0, PAGE), (PAGE, 0)):
        with pytest.raises(ValueError):
            HostTier(capacity=capacity, page_bytes=page)


@pytest.mark.parametrize("at", [0, 1, PAGE - 1, PAGE, 9999])
def test_every_flipped_bit_is_found(at: int) -> None:
    tier = HostTier(capacity=16 * PAGE, page_bytes=PAGE)
    tier.write(key(1), [memoryview(bytes(10_000))], meta=b"m")
    tier.damage(key(1), at=at)
    assert tier.read(key(1), [memoryview(bytearray(10_000))]) is ReadOutcome.CORRUPT
    usage = tier.usage()
    assert usage.corrupt == 1 and usage.chunks == 0 and usage.used == 0
    assert tier.read(key(1), [memoryview(bytearray(10_000))]) is ReadOutcome.MISSING


def test_pages_of_a_deleted_value_stay_until_its_readers_have_left() -> None:
    """One thread reads, another deletes and writes other bytes into the same few pages."""
    size = 40 * PAGE
    tier = HostTier(capacity=41 * PAGE, page_bytes=PAGE)
    contents = {name: random.Random(name).randbytes(size) for name in range(4)}
    stop = threading.Event()
    outcomes: dict[object, int] = {}

    def read() -> None:
        out = bytearray(size)
        while not stop.is_set():
            for name in contents:
                outcome = tier.read(key(name), [memoryview(out)])
                if outcome is ReadOutcome.OK:
                    assert out == contents[name]
                outcomes[outcome] = outcomes.get(outcome, 0) + 1

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(600):
        name = turn % len(contents)
        tier.write(key(name), [memoryview(contents[name])])
        tier.delete([key(name)])
    stop.set()
    for reader in readers:
        reader.join()
    assert ReadOutcome.CORRUPT not in outcomes
    assert tier.usage().used == 0 and tier.usage().corrupt == 0


def test_two_writers_of_one_key_leave_one_value() -> None:
    tier = HostTier(capacity=400 * PAGE, page_bytes=PAGE)
    data = random.Random(3).randbytes(50 * PAGE)
    for turn in range(50):
        outcomes: list[WriteOutcome] = []

        def write(turn: int = turn, outcomes: list[WriteOutcome] = outcomes) -> None:
            outcomes.append(tier.write(key(turn), [memoryview(data)]))

        writers = [threading.Thread(target=write) for _ in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert outcomes.count(WriteOutcome.STORED) == 1
        assert outcomes.count(WriteOutcome.PRESENT) == 2
        assert tier.usage().used == 50 * PAGE
        tier.delete([key(turn)])


def test_the_arena_is_one_range_until_it_is_closed() -> None:
    tier = HostTier(capacity=1 << 20)
    found = tier.arena()
    assert found is not None
    assert found[1] == 1 << 20
    tier.close()
    assert tier.arena() is None
