"""What every tier promises (tier/contract.py), held against every tier there is."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stepwell.tier.contract import ReadOutcome, Tier, WriteOutcome
from stepwell.tier.disk import DiskOptions, DiskTier
from stepwell.tier.faulty import FaultyTier
from stepwell.tier.host import HostTier
from stepwell.tier.null import NullTier
from stepwell.tier.remote import RemoteConfig, RemoteTier
from tests.redis_server import needs_server, redis_server
from tests.values import content, key, read, write

CAPACITY = 64 << 20
SMALL = 8 << 20  # of the tiers that are filled up
SIZES = (0, 1, 87, 4096, 65_535, 65_536, 65_537, 196_608 + 192, 3_000_001)
SCANS = ("host", "faulty", "disk")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        with redis_server(Path(folder)):
            yield f"unix://{folder}/redis.sock"


Make = Callable[[int], Tier]


@pytest.fixture(
    params=[
        "host",
        "faulty",
        pytest.param("remote", marks=needs_server),
        "disk",
    ]
)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes tiers of a capacity, and closes them (twice)."""
    opened: list[Tier] = []

    def build(capacity: int) -> Tier:
        if request.param == "host":
            return HostTier(capacity=capacity)
        if request.param == "faulty":
            return FaultyTier(HostTier(capacity=capacity, page_bytes=4096))
        if request.param == "disk":
            folder = tmp_path / str(len(opened))
            return DiskTier(folder, options=DiskOptions(capacity=capacity, free_floor=0))
        url = request.getfixturevalue("server")
        return RemoteTier(RemoteConfig(url=url, prefix=f"{tmp_path.name}{len(opened)}:"))

    def built(capacity: int) -> Tier:
        opened.append(build(capacity))
        return opened[-1]

    built.kind = request.param  # type: ignore[attr-defined]
    yield built
    for tier in opened:
        tier.close()
        tier.close()


@pytest.fixture
def tier(make: Make) -> Tier:
    return make(CAPACITY)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_is_read(tier: Tier, size: int) -> None:
    assert write(tier, size, size, meta=b"some meta") is WriteOutcome.STORED
    for seed in range(4):
        assert read(tier, size, size, seed=seed) == content(size, size)
    assert tier.size_of(key(size)) == size
    assert write(tier, size, size) is WriteOutcome.PRESENT
    assert read(tier, size, size) == content(size, size)


def test_what_is_not_there_is_missing(tier: Tier) -> None:
    assert read(tier, "nowhere", 10) is ReadOutcome.MISSING
    assert tier.size_of(key("nowhere")) is None
    assert tier.contains([]) == frozenset()


@pytest.mark.parametrize("wrong", [0, 999, 1001, 5000])
def test_buffers_of_a_wrong_size_are_never_filled(tier: Tier, wrong: int) -> None:
    write(tier, "a", 1000)
    assert read(tier, "a", wrong) is ReadOutcome.CORRUPT
    assert read(tier, "a", 1000) is ReadOutcome.MISSING  # quarantined
    assert write(tier, "a", 1000) is WriteOutcome.STORED
    assert read(tier, "a", 1000) == content("a", 1000)


def test_other_views_than_flat_bytes(tier: Tier) -> None:
    data = bytearray(content("a", 4096))
    wide = memoryview(data).cast("I", (32, 32))
    assert tier.write(key("a"), [wide]) is WriteOutcome.STORED
    out = bytearray(4096)
    assert tier.read(key("a"), [memoryview(out).cast("d")]) is ReadOutcome.OK
    assert out == data
    with pytest.raises(ValueError):
        tier.write(key("b"), [memoryview(data)[::2]])
    assert tier.contains([key("b")]) == frozenset()


def test_the_source_may_change_after_a_write(tier: Tier) -> None:
    data = bytearray(content("a", 300_000))
    tier.write(key("a"), [memoryview(data)])
    data[:] = bytes(len(data))
    assert read(tier, "a", len(data)) == content("a", len(data))


def test_delete_and_contains(tier: Tier) -> None:
    for name in range(10):
        write(tier, name, 1000 + name)
    tier.delete([key(0), key(5), key("unknown")])
    tier.delete([])
    names = [*range(10), "unknown"]
    assert tier.contains([key(n) for n in names]) == {key(n) for n in range(10) if n not in (0, 5)}
    assert read(tier, 5, 1005) is ReadOutcome.MISSING
    assert write(tier, 5, 1005) is WriteOutcome.STORED
    for name in range(1, 10):
        assert read(tier, name, 1000 + name) == content(name, 1000 + name)


def test_a_scan_gives_sizes_and_meta(make: Make) -> None:
    tier = make(CAPACITY)
    for name in range(20):
        write(tier, name, name * 100, meta=b"meta %d" % name)
    tier.delete([key(3)])
    found = {stored.key: (stored.size, stored.meta) for stored in tier.scan()}
    if make.kind in SCANS:  # type: ignore[attr-defined]
        expected = {key(n): (n * 100, b"meta %d" % n) for n in range(20) if n != 3}
        assert found == expected
    else:
        assert found == {}


def test_a_full_tier_says_so_and_keeps_what_it_has(make: Make) -> None:
    if make.kind == "remote":  # type: ignore[attr-defined]
        pytest.skip("the server's memory is the server's: see tests/tier/test_remote.py")
    tier = make(SMALL)
    stored = 0
    while write(tier, stored, 200_000) is WriteOutcome.STORED:
        stored += 1
        assert stored < 100
    assert 10 < stored
    usage = tier.usage()
    assert stored * 200_000 <= usage.used <= usage.capacity and usage.chunks == stored
    assert read(tier, stored, 200_000) is ReadOutcome.MISSING
    for name in range(stored):
        assert read(tier, name, 200_000) == content(name, 200_000)


def test_room_comes_back(make: Make) -> None:
    """Twenty times its capacity goes through a tier, in sizes that leave odd holes."""
    tier = make(SMALL)
    kept: dict[int, int] = {}
    sizes = random.Random(7)
    for name in range(400):
        size = sizes.choice((5, 4096, 100_000, 300_000, 777_777))
        while write(tier, name, size) is WriteOutcome.FULL:
            victim = sizes.choice(list(kept))
            assert read(tier, victim, kept[victim]) == content(victim, kept.pop(victim))
            tier.delete([key(victim)])
        kept[name] = size
        if len(kept) > 60:
            victim = min(kept)
            assert read(tier, victim, kept[victim]) == content(victim, kept.pop(victim))
            tier.delete([key(victim)])
    tier.delete([key(name) for name in kept])
    usage = tier.usage()
    index = 1 << 20 if make.kind == "disk" else 0  # type: ignore[attr-defined]
    assert usage.chunks == 0 and usage.used <= index


def test_threads_that_hammer_the_same_keys_never_read_wrong_bytes(make: Make) -> None:
    tier = make(SMALL)
    names = 12
    wrong: list[str] = []

    def size_of(name: int) -> int:
        return 1000 + name * 30_000

    def hammer(seed: int) -> None:
        choose = random.Random(seed)
        try:
            for turn in range(120):
                name = choose.randrange(names)
                what = choose.random()
                if what < 0.35:
                    write(tier, name, size_of(name))
                elif what < 0.45:
                    tier.delete([key(name)])
                else:
                    got = read(tier, name, size_of(name), seed=turn)
                    if got not in (ReadOutcome.MISSING, content(name, size_of(name))):
                        wrong.append(f"{name}: {got if isinstance(got, ReadOutcome) else 'bytes'}")
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert tier.usage().corrupt == 0
    for name in range(names):
        write(tier, name, size_of(name))
        assert read(tier, name, size_of(name)) == content(name, size_of(name))


def test_flush_and_counters(tier: Tier) -> None:
    write(tier, "a", 1000)
    read(tier, "a", 1000)
    tier.flush()
    usage = tier.usage()
    assert usage.reads >= 1 and usage.writes == 1 and usage.corrupt == 0


def test_a_closed_tier_refuses(make: Make) -> None:
    """By raising or by an outcome, but it neither gives nor takes anything."""
    tier = make(SMALL)
    write(tier, "a", 1000)
    tier.close()
    with suppress(OSError):
        assert read(tier, "a", 1000) is ReadOutcome.MISSING
    with suppress(OSError):
        assert write(tier, "b", 1000) is WriteOutcome.FULL


def test_the_null_tier_holds_nothing() -> None:
    tier: Tier = NullTier()
    assert write(tier, "a", 10) is WriteOutcome.FULL
    assert read(tier, "a", 10) is ReadOutcome.MISSING
    assert tier.contains([key("a")]) == frozenset() and tier.size_of(key("a")) is None
    assert list(tier.scan()) == []
    tier.delete([key("a")])
    tier.flush()
    tier.close()


def test_what_is_erased_is_gone_and_the_rest_is_not(make: Make) -> None:
    tier = make(SMALL)
    for n in range(8):
        meta = b"even" if n % 2 == 0 else b"odd"
        assert write(tier, n, 5000 + n, meta=meta) is WriteOutcome.STORED
    tier.erase([key(1), key(2)])
    assert tier.contains([key(n) for n in range(8)]) == {key(n) for n in (0, 3, 4, 5, 6, 7)}
    tier.erase([], also=lambda _, meta: meta == b"odd")
    left = (0, 4, 6)
    assert tier.contains([key(n) for n in range(8)]) == {key(n) for n in left}
    for n in left:
        assert read(tier, n, 5000 + n) == content(n, 5000 + n)
    assert write(tier, 1, 5001) is WriteOutcome.STORED
    assert read(tier, 1, 5001) == content(1, 5001)
