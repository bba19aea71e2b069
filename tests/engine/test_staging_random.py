"""Transfers through staging memory under random orders, failing tiers and failing copies."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.hierarchy import TierName  # noqa: E402
from stepwell.tier.breaker import BreakerConfig  # noqa: E402
from stepwell.tier.faulty import Faults, FaultyTier  # noqa: E402
from stepwell.tier.mover import LaneConfig  # noqa: E402
from tests.engine.staging_rig import DISK, HOST, POOL, Device, Rig, disk_tier, fake  # noqa: E402
from tests.tier.movers import BLOCK, BLOCKS, SIZE, content, host  # noqa: E402


@pytest.fixture
def device() -> Iterator[Device]:
    """Late and in odd order."""
    made = fake(delay=0.002)
    yield made
    assert made.close(5)


class Chaos:
    """Random orders over a small pool and tiers that fail. Free blocks are overwritten at once
    and must keep what was written: a late write shows in them, a late read in what is loaded."""

    def __init__(self, device: Device, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        faults = Faults(fail_read=0.05, fail_write=0.05, hang=0.02, hang_seconds=0.05,
                        latency_seconds=0.001, seed=seed)  # fmt: skip
        self.disk = disk_tier(folder)
        lanes = {DISK: LaneConfig(breaker=BreakerConfig(failures=1000))}
        self.rig = Rig(device, host=host(1 << 20), disk=FaultyTier(self.disk, faults),
                       lanes=lanes, store_backlog=4 * SIZE)  # fmt: skip
        self.free = list(range(POOL))
        self.held: dict[int, list[int]] = {}
        self.names: dict[int, int] = {}  # of loads
        self.last: dict[int, bytes] = {}  # what free blocks hold
        self.stored: list[tuple[int, TierName]] = []  # names and where they are
        self.storing: dict[int, tuple[int, TierName]] = {}
        self.number = 0
        self.loaded = self.failed = 0

    def step(self) -> None:
        self.number += 1
        choice = self.random.random()
        if choice < 0.15 and self.held:
            self.rig.transfers.cancel(self.random.sample(sorted(self.held), 1))
        elif len(self.free) < BLOCKS or len(self.storing) > 8:
            self.rig.transfers.wait(0.01)
        elif choice < 0.55 or not self.stored:
            self._begin(self.random.choice((HOST, DISK)), None)
        else:
            name, tier = self.random.choice(self.stored)
            self._begin(tier, name)
        self.settle()

    def _begin(self, tier: TierName, name: int | None) -> None:
        self.random.shuffle(self.free)
        blocks = [self.free.pop() for _ in range(BLOCKS)]
        for block in blocks:
            self.last.pop(block, None)
        self.held[self.number] = blocks
        if name is None:
            self.storing[self.number] = (self.number, tier)
            self.rig.store(self.number, self.number, tier, blocks)
        else:
            self.names[self.number] = name
            wait = self.random.choice((0.002, 0.05, 10))
            deadline = time.monotonic() + wait
            self.rig.load(self.number, name, tier, blocks, deadline=deadline)

    def settle(self) -> None:
        self.rig.collect()
        for number in [n for n in self.held if n in self.rig.read_out or n in self.rig.reports]:
            blocks = self.held.pop(number)
            if number in self.names and self.rig.reports[number].failure is None:
                assert self.rig.read(blocks) == content(self.names[number])
                self.loaded += 1
            for block in blocks:
                self.last[block] = self.random.randbytes(BLOCK)
                self.rig.device.write(block, self.last[block])
            self.free += blocks
        for number in [n for n in self.storing if n in self.rig.reports]:
            failure = self.rig.reports[number].failure
            stored = self.storing.pop(number)
            self.failed += failure is not None
            if failure is None:
                self.stored.append(stored)

    def finish(self) -> None:
        self.rig.close()
        self.settle()
        assert not self.held and not self.storing, "an order was never reported"
        assert sorted(self.free) == list(range(POOL))
        for block, data in self.last.items():
            assert self.rig.device.read(block) == data, f"block {block} was written late"
        self.disk.close()

    def run(self, *, loads: int) -> None:
        """Until so many have arrived."""
        while self.loaded < loads:
            assert self.number < 20_000, f"{self.loaded} loads arrived"
            self.step()
        self.finish()
        assert self.failed


@pytest.mark.parametrize("seed", range(4))
def test_random_orders(device: Device, tmp_path: Path, seed: int) -> None:
    Chaos(device, tmp_path, seed).run(loads=60)


@pytest.mark.parametrize("seed", range(3))
def test_random_orders_while_copies_fail(tmp_path: Path, seed: int) -> None:
    device = fake(seed=seed, delay=0.001, fails=0.2)
    Chaos(device, tmp_path, seed).run(loads=40)
    assert device.close(5)
