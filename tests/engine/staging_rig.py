"""Staged transfers over a mover, tiers and a device; what the tests of staging share."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stepwell.base.hierarchy import Event, Failure, TierName, TransferReport
from stepwell.engine.staging import BlocksRead, Copies, StagedTransfers
from stepwell.tier.disk import DiskOptions, DiskTier
from stepwell.tier.mover import LaneConfig, Mover
from tests.engine.fake_device import FakeDevice
from tests.tier.movers import BLOCK, BLOCKS, content, load, mover, store

HOST, DISK, REMOTE = TierName.HOST, TierName.DISK, TierName.REMOTE
POOL = 48


def fake(*, seed: int = 0, delay: float = 0.0, fails: float = 0.0) -> FakeDevice:
    """A device of POOL blocks on the CPU."""
    storage = torch.zeros((POOL, BLOCK), dtype=torch.uint8)
    return FakeDevice(storage, seed=seed, delay=delay, fails=fails)


def some_blocks(seed: object, start: int = 0, stop: int = POOL) -> list[int]:
    """Those of a chunk, scattered."""
    return random.Random(str(seed)).sample(range(start, stop), BLOCKS)


def disk_tier(folder: Path) -> DiskTier:
    return DiskTier(folder / "disk", options=DiskOptions(capacity=64 << 20, free_floor=0))


class Device(Protocol):
    """Blocks that the CPU sees only through `copies`. `write` may happen late."""

    storage: Tensor
    copies: Copies

    def write(self, block: int, data: bytes) -> None: ...
    def read(self, block: int) -> bytes: ...


class Rig:
    """Chunks have BLOCKS blocks of BLOCK bytes; the content of a chunk belongs to its name."""

    def __init__(
        self,
        device: Device,
        *,
        in_flight: int = 2,
        lanes: dict[TierName, LaneConfig] | None = None,
        store_backlog: int = 1 << 30,
        **tiers: Any,
    ) -> None:
        def make(on_ready: Any) -> Mover:
            return mover(**tiers, lanes=lanes or {}, on_ready=on_ready)

        self.device = device
        self.rung = 0
        self.transfers = StagedTransfers(
            make,
            device.copies,
            tiers=[name for name in TierName if name.name.lower() in tiers],
            chunk_blocks=BLOCKS,
            in_flight=in_flight,
            on_ready=self._ring,
            store_backlog=store_backlog,
        )
        self.reports: dict[int, TransferReport] = {}
        self.read_out: list[int] = []
        self.others: list[Event] = []

    def _ring(self) -> None:
        self.rung += 1

    def write(self, blocks: Sequence[int], data: bytes) -> None:
        for place, block in enumerate(blocks):
            self.device.write(block, data[place * BLOCK : (place + 1) * BLOCK])

    def read(self, blocks: Sequence[int]) -> bytes:
        return b"".join(self.device.read(block) for block in blocks)

    def store(self, number: int, name: object, tier: TierName, blocks: Sequence[int]) -> None:
        self.write(blocks, content(name))
        self.transfers.submit(store(number, name, tier), blocks)

    def load(
        self, number: int, name: object, tier: TierName, blocks: Sequence[int], **fields: Any
    ) -> None:
        self.transfers.submit(load(number, name, tier, **fields), blocks)

    def collect(self) -> None:
        for event in self.transfers.poll():
            if isinstance(event, BlocksRead):
                assert event.order_id not in self.reports
                self.read_out.append(event.order_id)
            elif isinstance(event, TransferReport):
                assert event.order_id not in self.reports, "reported twice"
                assert event.seconds >= 0 and event.queued >= 0
                self.reports[event.order_id] = event
            else:
                self.others.append(event)

    def until(self, *numbers: int, timeout: float = 60.0) -> list[Failure | None]:
        """Wait for these reports; their failures."""
        end = time.monotonic() + timeout
        self.collect()
        while not set(numbers) <= set(self.reports):
            assert time.monotonic() < end, f"only {sorted(self.reports)} of {numbers}"
            self.transfers.wait(0.05)
            self.collect()
        return [self.reports[number].failure for number in numbers]

    def until_read_out(self, *numbers: int, timeout: float = 60.0) -> None:
        """Wait until the blocks of these stores are free."""
        end = time.monotonic() + timeout
        while not set(numbers) <= set(self.read_out):
            assert time.monotonic() < end, f"only {self.read_out} of {numbers}"
            self.transfers.wait(0.05)
            self.collect()

    def close(self, timeout: float = 10.0) -> frozenset[TierName]:
        hung = self.transfers.close(timeout)
        self.collect()
        return hung
