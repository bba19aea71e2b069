"""Brain, mover and real tiers against a naive dictionary, over thousands of random steps.

The "device" is a byte string for each chunk, made from its key, so every byte that comes back can
be checked. The dictionary follows the reports and eviction orders; once all is quiet and no fault
is injected, each tier holds exactly what it says.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

pytest.importorskip("numpy")
pytest.importorskip("xxhash")

from stepwell.base.hierarchy import (
    EvictChunk,
    LoadChunk,
    MoveChunk,
    Order,
    StoreChunk,
    TierName,
    TransferReport,
    WorkloadClass,
)
from stepwell.cache.cost import PrefillCost
from stepwell.cache.hierarchy import Hierarchy
from stepwell.cache.plan import ChainRequest
from stepwell.cache.policy.registry import POLICIES
from stepwell.cache.settings import TierSpec
from stepwell.codec import RawCodec, ValueFormat
from stepwell.tier.breaker import BreakerConfig
from stepwell.tier.disk import DiskOptions, DiskTier
from stepwell.tier.faulty import Faults, FaultyTier
from stepwell.tier.host import HostTier
from stepwell.tier.mover import LaneConfig, Mover

CHUNK = 16 << 10
CHUNKS_OF_HOST = 40
CONVERSATIONS, LONGEST = 16, 24
# Some 2,000 steps, more than half of them requests; in the campaign 16,000.
EXAMPLES, CAMPAIGN, STEPS = 10, 80, 250
LAYOUT = b"sixteen bytes ok"
NO_FAULTS = Faults()
FAULTS = [
    NO_FAULTS,
    Faults(fail_read=0.4, seed=1),
    Faults(fail_write=0.4, seed=2),
    Faults(full=0.5, seed=3),
    Faults(corrupt_below=0.4, seed=4),
    Faults(latency_seconds=0.002, seed=5),
]


def key_of(conversation: int, index: int) -> bytes:
    return hashlib.sha256(f"{conversation}/{index}".encode()).digest()


def content_of(key: bytes) -> bytes:
    return key * (CHUNK // len(key))


class BrainAndTiers(RuleBasedStateMachine):
    """`held`: what each tier has, by reports and orders. `steps`: rules run, over all examples."""

    steps = 0

    @initialize(policy=st.sampled_from(sorted(POLICIES)))
    def start(self, policy: str) -> None:
        self.policy = policy
        self.folder = Path(tempfile.mkdtemp(prefix="stepwell-stateful-"))
        self.held: dict[TierName, set[bytes]] = {TierName.HOST: set(), TierName.DISK: set()}
        self.requests = 0
        self.lengths: dict[int, int] = {}
        self.open()

    def open(self) -> None:
        self.host = FaultyTier(HostTier(capacity=CHUNKS_OF_HOST * (CHUNK + 4096), page_bytes=4096))
        self.disk = DiskTier(self.folder / "disk", options=DiskOptions(
            capacity=6 << 20, free_floor=1 << 20, commit_seconds=60.0))  # fmt: skip
        stores = {TierName.HOST: self.host, TierName.DISK: self.disk}
        lane = LaneConfig(breaker=BreakerConfig(failures=1000))
        lanes = {name: lane for name in stores}
        forms = {name: ValueFormat(RawCodec(), layout=LAYOUT) for name in stores}
        self.mover = Mover(stores, forms=forms, lanes=lanes)
        self.brain = Hierarchy(
            [TierSpec(name=TierName.HOST, capacity_bytes=CHUNKS_OF_HOST * (CHUNK + 4096)),
             TierSpec(name=TierName.DISK, capacity_bytes=self.disk.options.usable * 3 // 4,
                      persistent=True)],
            chunk_tokens=16, chunk_bytes=CHUNK, policy=POLICIES[self.policy],
        )  # fmt: skip
        self.brain.prefill = PrefillCost()
        now = time.monotonic()
        for tokens in (16, 64, 256):
            self.brain.computed(tokens=tokens, context=0, seconds=tokens * 1.0, now=now)
        for name in stores:
            self.brain.transferred(name, size=CHUNK, seconds=1e-4, now=now)
        self.orders: dict[int, Order] = {}
        self.buffers: dict[int, bytearray] = {}

    # -- what a body does --

    def carry_out(self) -> None:
        for order in self.brain.take_orders():
            self.submit(order)

    def submit(self, order: Order) -> None:
        if isinstance(order, EvictChunk):
            self.held[order.tier].discard(order.key)
            self.mover.submit(order)
            return
        self.orders[order.order_id] = order
        if isinstance(order, StoreChunk):
            self.mover.submit(order, [memoryview(content_of(order.key))])
        elif isinstance(order, LoadChunk):
            self.buffers[order.order_id] = bytearray(b"\xa5" * CHUNK)
            self.mover.submit(order, [memoryview(self.buffers[order.order_id])])
        else:
            self.mover.submit(order)

    def collect(self) -> None:
        for event in self.mover.poll():
            if isinstance(event, TransferReport):
                order = self.orders.pop(event.order_id)
                if event.failure is None:
                    self.arrived(order)
            self.brain.report(event)
        self.carry_out()

    def arrived(self, order: Order) -> None:
        if isinstance(order, LoadChunk):
            assert bytes(self.buffers.pop(order.order_id)) == content_of(order.key), "wrong bytes"
        elif isinstance(order, StoreChunk):
            self.held[order.tier].add(order.key)
        elif isinstance(order, MoveChunk):
            self.held[order.target].add(order.key)

    def drain(self) -> None:
        deadline = time.monotonic() + 90
        while self.orders:
            assert time.monotonic() < deadline, f"never reported: {self.orders}"
            self.mover.wait(0.01)
            self.collect()

    # -- rules --

    @rule(
        conversation=st.integers(0, CONVERSATIONS - 1),
        length=st.integers(1, LONGEST),
        more=st.integers(0, 3),
        workload=st.sampled_from(WorkloadClass),
        cancels=st.booleans(),
        named=st.booleans(),
    )
    def request(
        self, conversation: int, length: int, more: int, workload: WorkloadClass, cancels: bool,
        named: bool,
    ) -> None:  # fmt: skip
        self.drain()
        self.requests += 1
        name, now = f"r{self.requests}", time.monotonic()
        keys = [key_of(conversation, i) for i in range(length)]
        plan = self.brain.plan(
            ChainRequest(
                request_id=name, keys=keys, tokens=16 * length + 1, workload=workload,
                session_id=f"s{conversation}" if named else None,
            ),
            now=now,
        )  # fmt: skip
        orders = self.brain.begin(plan, now)
        for order in orders:
            assert order.key == keys[order.index]
            self.submit(order)
        if cancels:
            self.mover.cancel([order.order_id for order in orders[::2]])
        self.drain()
        keys += [key_of(conversation, length + i) for i in range(more)]
        self.brain.close(name, keys, len(keys), time.monotonic())
        self.lengths[conversation] = len(keys)
        self.carry_out()

    @rule(conversation=st.integers(0, CONVERSATIONS - 1), cancels=st.booleans())
    def next_turn(self, conversation: int, cancels: bool) -> None:
        """A session returns with all that it had."""
        length = min(self.lengths.get(conversation, 4), LONGEST)
        self.request(conversation, length, 1, WorkloadClass.CHAT, cancels, True)

    @rule(conversations=st.lists(st.integers(0, CONVERSATIONS - 1), max_size=8))
    def busy_minute(self, conversations: list[int]) -> None:
        """Several sessions one after the other."""
        for conversation in conversations:
            self.next_turn(conversation, False)

    @rule()
    def housekeeping(self) -> None:
        self.brain.tick(time.monotonic())
        self.carry_out()
        self.collect()

    @rule(faults=st.sampled_from(FAULTS))
    def host_changes(self, faults: Faults) -> None:
        self.drain()
        self.host.faults = faults

    @rule()
    def quiet(self) -> None:
        """Each tier holds what was reported: the disk exactly, the host less what its faults
        damaged."""
        self.drain()
        deadline = time.monotonic() + 90
        while any(lane.pending_evictions for lane in self.mover.usage().lanes.values()):
            assert time.monotonic() < deadline, "evictions never end"
            time.sleep(0.001)
        for name, store in ((TierName.HOST, self.host), (TierName.DISK, self.disk)):
            found = {chunk.key for chunk in store.scan()}
            assert found <= self.held[name], f"{name.name} has what was never reported"
            lost = self.held[name] - found
            assert not lost or (name is TierName.HOST and self.host.injected["corrupt_below"]), (
                f"{name.name} lost {len(lost)} chunks"
            )
            self.held[name] = found

    @rule(really=st.integers(0, 4))
    def restart(self, really: int) -> None:
        """One time in five, so that there is something to lose."""
        if really:
            return
        self.quiet()
        self.shut()
        before = set(self.held[TierName.DISK])
        self.held[TierName.HOST] = set()
        self.open()
        entries = [(c.key, c.size, c.meta) for c in self.disk.scan()]
        assert {key for key, _, _ in entries} == before, "the disk forgot, or made something up"
        self.brain.adopt(TierName.DISK, entries, time.monotonic())
        self.carry_out()

    @invariant()
    def books_balance(self) -> None:
        BrainAndTiers.steps += 1
        if hasattr(self, "brain"):
            self.brain.check()

    def shut(self) -> None:
        assert self.mover.close(60.0) == frozenset()
        for _ in self.mover.poll():
            pass
        self.host.close()
        self.disk.close()

    def teardown(self) -> None:
        if hasattr(self, "mover"):
            self.drain()
            self.shut()
            shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "examples", [EXAMPLES, pytest.param(CAMPAIGN, marks=pytest.mark.slow, id="campaign")]
)
def test_brain_and_tiers(examples: int) -> None:
    BrainAndTiers.steps = 0
    run_state_machine_as_test(
        BrainAndTiers,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert BrainAndTiers.steps >= 125 * examples
