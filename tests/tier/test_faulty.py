"""The faulty tier: each fault happens as told, and the tiers below and above notice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest

from stepwell.base.hierarchy import Failure, TierHealth, TierName
from stepwell.tier.breaker import BreakerConfig
from stepwell.tier.contract import ReadOutcome, WriteOutcome
from stepwell.tier.faulty import Faults, FaultyTier
from stepwell.tier.host import HostTier
from stepwell.tier.mover import LaneConfig
from stepwell.tier.null import NullTier
from tests.tier.movers import SIZE, blocks, content, host, load, mover, reports, store
from tests.values import key

DATA = random.Random(0).randbytes(10_000)


def faulty(**faults: float) -> FaultyTier:
    tier = FaultyTier(HostTier(capacity=4 << 20, page_bytes=4096))
    for name in range(100):
        tier.write(key(name), [memoryview(DATA)])
    tier.faults = Faults(**faults)  # type: ignore[arg-type]
    return tier


def outcomes(tier: FaultyTier) -> Iterator[ReadOutcome | str]:
    for name in range(100):
        out = bytearray(len(DATA))
        try:
            outcome = tier.read(key(name), [memoryview(out)])
        except OSError:
            yield "error"
        else:
            wrong = outcome is ReadOutcome.OK and out != DATA
            yield "wrong" if wrong else outcome


def test_the_same_seed_gives_the_same_faults_in_any_order() -> None:
    first = list(outcomes(faulty(fail_read=0.3, seed=1)))
    tier = faulty(fail_read=0.3, seed=1)
    found: dict[int, bool] = {}
    for name in reversed(range(100)):
        try:
            tier.read(key(name), [memoryview(bytearray(len(DATA)))])
            found[name] = False
        except OSError:
            found[name] = True
    assert [found[name] for name in range(100)] == [outcome == "error" for outcome in first]
    assert 10 < first.count("error") < 50
    assert list(outcomes(faulty(fail_read=0.3, seed=2))) != first


def test_damage_below_verification_is_always_found() -> None:
    tier = faulty(corrupt_below=0.5)
    found = list(outcomes(tier))
    assert "wrong" not in found
    assert found.count(ReadOutcome.CORRUPT) == tier.injected["corrupt_below"] > 20
    assert list(outcomes(tier)).count(ReadOutcome.MISSING) >= found.count(ReadOutcome.CORRUPT)


def test_damage_above_verification_is_what_a_test_must_notice() -> None:
    tier = faulty(corrupt_above=0.5)
    found = list(outcomes(tier))
    assert found.count("wrong") == tier.injected["corrupt_above"] > 20


def test_a_failed_write_has_not_happened_and_full_is_full() -> None:
    tier = faulty(fail_write=1.0)
    with pytest.raises(OSError):
        tier.write(key("new"), [memoryview(DATA)])
    assert not tier.contains([key("new")])
    tier.faults = Faults(full=1.0)
    assert tier.write(key("new"), [memoryview(DATA)]) is WriteOutcome.FULL
    tier.faults = Faults(fail_other=1.0)
    with pytest.raises(OSError):
        tier.contains([key("new")])
    with pytest.raises(OSError):
        tier.delete([key("new")])


def test_a_hang_ends_by_itself_or_by_release() -> None:
    tier = faulty(hang=1.0, hang_seconds=0.05)
    began = time.monotonic()
    assert tier.read(key(1), [memoryview(bytearray(len(DATA)))]) is ReadOutcome.OK
    assert time.monotonic() - began >= 0.05

    for let_go in (tier.release, lambda: setattr(tier, "faults", Faults())):
        tier.faults = Faults(hang=1.0)
        thread = threading.Thread(target=tier.contains, args=([key(1)],))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        let_go()
        thread.join(60)
        assert not thread.is_alive()


def test_slow_is_as_slow_as_told() -> None:
    tier = faulty(bytes_per_second=len(DATA) / 0.05)
    began = time.monotonic()
    tier.read(key(1), [memoryview(bytearray(len(DATA)))])
    tier.write(key("new"), [memoryview(DATA)])
    assert time.monotonic() - began >= 0.1


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"hang": 1.5}, {"full": -0.1}, {"bytes_per_second": -1}):
        with pytest.raises(ValueError):
            Faults(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NullTier"):
        FaultyTier(NullTier(), Faults(corrupt_below=0.1))


def test_the_mover_over_everything_that_goes_wrong() -> None:
    """Whatever happens: one report each, the right bytes when it says so, none when it does not."""
    faults = Faults(
        fail_read=0.1, fail_write=0.1, hang=0.1, hang_seconds=0.03, full=0.1, corrupt_below=0.1
    )
    kinds: set[Failure | None] = set()
    for seed in count():
        tier = FaultyTier(host(16 << 20), replace(faults, seed=seed))
        lane = LaneConfig(threads=3, breaker=BreakerConfig(failures=1000))
        moving = mover(disk=tier, lanes={TierName.DISK: lane})
        for number in range(60):
            moving.submit(store(number, number, TierName.DISK), blocks(content(number))[1])
        stored = {e.order_id: e.failure for e in reports(moving, 60)}
        assert len(stored) == 60
        memories = {}
        untouched = b"u" * SIZE
        for number in range(60):
            memories[number], views = blocks(untouched)
            deadline = time.monotonic() + (0.02 if number % 3 else 30)
            moving.submit(load(100 + number, number, TierName.DISK, deadline=deadline), views)
        loaded = {e.order_id - 100: e.failure for e in reports(moving, 60)}
        assert len(loaded) == 60
        kinds |= set(loaded.values())
        moving.close(10)
        for number, failure in loaded.items():
            expected = content(number) if failure is None else untouched
            assert bytes(memories[number]) == expected
            assert stored[number] is None or failure is not None
        late = [e for e in moving.poll() if not isinstance(e, TierHealth)]
        assert late == []
        # Which call draws which fault is up to the threads: on, until each kind has come up.
        if seed >= 2 and {None, Failure.IO, Failure.MISSING, Failure.CORRUPT} <= kinds:
            break
        assert seed < 30, f"only {kinds}"
