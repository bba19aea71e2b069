"""The mover between lower tiers: moves, lookups, evictions, and stores of what is being evicted."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from stepwell.base.hierarchy import EvictChunk, Failure, LookupReport, TierHealth, TierName
from stepwell.codec import RawCodec, ValueFormat
from stepwell.codec.lossless import LosslessCodec
from stepwell.tier.disk import DiskOptions, DiskTier
from stepwell.tier.mover import LaneConfig, Mover
from stepwell.tier.remote import RemoteConfig, RemoteTier
from tests.redis_server import needs_server, redis_server
from tests.tier.movers import (
    BLOCK,
    LAYOUT,
    SIZE,
    Clock,
    Gate,
    blocks,
    content,
    forms_of,
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


@pytest.mark.parametrize(
    ("source", "target"), [(HOST, DISK), (DISK, HOST), (DISK, REMOTE), (REMOTE, DISK)]
)
def test_a_move_copies_the_value_and_its_meta(source: TierName, target: TierName) -> None:
    tiers = {HOST: host(), DISK: Gate(), REMOTE: Gate()}
    moving = Mover(tiers, forms=forms_of(tiers))  # type: ignore[arg-type]
    size = put(moving, "a", source)
    moving.submit(move(1, "a", source, target, size))
    done = report(moving)
    assert done.failure is None and done.size == size

    moving.submit(EvictChunk(key=key("a"), tier=source))
    memory, views = blocks()
    moving.submit(load(2, "a", target), views)
    assert report(moving).failure is None and bytes(memory) == content("a")
    moving.submit(move(3, "a", source, target, size))
    assert report(moving).failure is Failure.MISSING
    (kept,) = tiers[target].scan()
    assert kept.meta == b"m"
    assert moving.backlog(source) == moving.backlog(target) == 0
    moving.close(5)


@pytest.mark.parametrize("target", [HOST, REMOTE])
def test_a_value_changes_its_codec_on_the_way(target: TierName) -> None:
    """Disk lossless, the others raw: encoded where it enters, decoded where it leaves."""
    tiers = {HOST: host(), DISK: Gate(), REMOTE: Gate()}
    raw, small = RawCodec(), LosslessCodec(torch.bfloat16)
    forms = {
        HOST: ValueFormat(raw, layout=LAYOUT),
        DISK: ValueFormat(small, layout=LAYOUT, also=[raw]),
        REMOTE: ValueFormat(raw, layout=LAYOUT),
    }
    moving = Mover(tiers, forms=forms, block_bytes=BLOCK)
    values = torch.randn(SIZE // 2, generator=torch.Generator().manual_seed(1)).bfloat16()
    data = values.view(torch.uint8).numpy().tobytes()
    moving.submit(store(1, "a", HOST), blocks(data)[1])
    size = report(moving).size
    moving.submit(move(2, "a", HOST, DISK, size))
    smaller = report(moving).size
    assert smaller < 0.8 * size
    moving.submit(EvictChunk(key=key("a"), tier=HOST))
    moving.submit(move(3, "a", DISK, target, smaller))
    assert report(moving).size == size
    for number, tier in ((4, DISK), (5, target)):
        memory, views = blocks()
        moving.submit(load(number, "a", tier), views)
        assert report(moving).failure is None and bytes(memory) == data
    moving.close(5)


@pytest.mark.parametrize("before", ["raw", "lossless"])
def test_a_disk_of_earlier_settings_is_read(before: str, tmp_path: Path) -> None:
    codecs = {"raw": RawCodec(), "lossless": LosslessCodec(torch.bfloat16)}
    after = {"raw": "lossless", "lossless": "raw"}[before]
    disk = DiskTier(tmp_path, options=DiskOptions(capacity=32 << 20, free_floor=0))
    data = torch.ones(SIZE // 2).bfloat16().view(torch.uint8).numpy().tobytes()
    for writes, also in ((before, after), (after, before)):
        form = ValueFormat(codecs[writes], layout=LAYOUT, also=[codecs[also]])
        moving = Mover({DISK: disk}, forms={DISK: form})
        if writes == before:
            moving.submit(store(1, "a", DISK), blocks(data)[1])
            assert report(moving).failure is None
        memory, views = blocks()
        moving.submit(load(2, "a", DISK), views)
        assert report(moving).failure is None and bytes(memory) == data
        moving.close(5)
    disk.close()


@needs_server
def test_chunks_walk_through_the_real_tiers_and_back(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)):
        tiers = {
            HOST: host(),
            DISK: DiskTier(tmp_path, options=DiskOptions(capacity=32 << 20, free_floor=0)),
            REMOTE: RemoteTier(RemoteConfig(url=f"unix://{folder}/redis.sock")),
        }
        moving = Mover(tiers, forms=forms_of(tiers))
        names = range(20)
        sizes = {name: put(moving, name, HOST, number=name) for name in names}
        for source, target in ((HOST, DISK), (DISK, REMOTE), (REMOTE, HOST)):
            for name in names:
                moving.submit(move(name, name, source, target, sizes[name]))
            assert {e.failure for e in reports(moving, len(names))} == {None}
            for name in names:
                moving.submit(EvictChunk(key=key(name), tier=source))
            until(lambda: moving.usage().lanes[source].pending_evictions == 0)  # noqa: B023
            until(lambda: not tiers[source].contains([key(n) for n in names]))  # noqa: B023
            for name in names:
                memory, views = blocks()
                moving.submit(load(name, name, target), views)
                assert report(moving).failure is None and bytes(memory) == content(name)
        assert moving.close(5) == frozenset()
        for tier in tiers.values():
            tier.close()


def test_a_move_to_a_hung_tier_blocks_no_other() -> None:
    disk, remote, clock = Gate(), Gate(), Clock()
    lanes = {DISK: LaneConfig(stall_seconds=1000), REMOTE: LaneConfig(stall_seconds=5)}
    moving = mover(host=host(), disk=disk, remote=remote, clock=clock, lanes=lanes)
    size = put(moving, "a", DISK)
    put(moving, "b", HOST, number=901)
    remote.open.clear()
    moving.submit(move(1, "a", DISK, REMOTE, size))
    moving.submit(move(2, "b", HOST, REMOTE, size))
    until(lambda: any(call == "write" for call, _ in remote.calls))
    for number, name, tier in ((3, "a", DISK), (4, "b", HOST)):
        memory, views = blocks()
        moving.submit(load(number, name, tier), views)
        assert report(moving).failure is None and bytes(memory) == content(name)
    clock.now += 6
    ended = {e.order_id: e.failure for e in moving.poll() if not isinstance(e, TierHealth)}
    assert set(ended) == {1, 2} and Failure.DEADLINE in ended.values()
    remote.open.set()
    moving.close(5)


def test_a_lookup_tells_what_a_tier_has() -> None:
    moving = mover(remote=Gate())
    put(moving, "a", REMOTE)
    moving.submit(lookup(1, ["a", "b"], REMOTE))
    (answer,) = reports(moving)
    assert isinstance(answer, LookupReport)
    assert answer.found == {key("a")} and answer.failure is None
    moving.close(5)


def test_an_eviction_before_a_store_of_the_same_key_does_not_undo_it() -> None:
    disk = Gate()
    moving = mover(disk=disk, lanes={DISK: LaneConfig(threads=3)})
    for number in range(100):
        moving.submit(EvictChunk(key=key("a"), tier=DISK))
        moving.submit(store(number, "a", DISK), blocks(content("a"))[1])
        assert report(moving).failure is None
        assert moving.close(5) == frozenset() if number == 99 else True
    assert disk.inner.contains([key("a")])


def test_a_store_waits_while_its_key_is_being_evicted() -> None:
    disk = Gate()
    moving = mover(disk=disk, lanes={DISK: LaneConfig(threads=2)})
    put(moving, "a", DISK)
    disk.only = {"delete"}
    disk.open.clear()
    moving.submit(EvictChunk(key=key("a"), tier=DISK))
    until(lambda: ("delete", key("a")) in disk.calls)
    moving.submit(store(1, "a", DISK), blocks(content("a"))[1])
    assert not moving.wait(0.05)
    disk.open.set()
    assert report(moving).failure is None
    assert disk.inner.contains([key("a")])
    moving.close(5)


def test_an_eviction_that_failed_is_made_up_for_unless_the_key_is_back() -> None:
    disk = Gate()
    moving = mover(disk=disk)
    for number, name in enumerate("abc"):
        put(moving, name, DISK, number=number)
    disk.only, disk.error = {"delete"}, OSError("broken")
    for name in "ab":
        moving.submit(EvictChunk(key=key(name), tier=DISK))
    until(lambda: any(call == "delete" for call, _ in disk.calls))
    until(lambda: moving.usage().lanes[DISK].busy_threads == 0)
    disk.error = None
    put(moving, "a", DISK)
    until(lambda: moving.usage().lanes[DISK].pending_evictions == 0)
    moving.close(5)
    assert {chunk.key for chunk in disk.inner.scan()} == {key("a"), key("c")}
