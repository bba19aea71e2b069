"""The brain of the lower tiers against a naive body, under random sequences of events.

The body keeps a dictionary a tier and carries out orders late, out of order, or not at all. It
knows what every tier really holds, and what is being read; the brain must never order a load of
what is not there, evict what is being read or overfill a tier, whatever fails.
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stepwell.base.hierarchy import (
    EraseChunks,
    EvictChunk,
    Failure,
    LoadChunk,
    LookupReport,
    MoveChunk,
    StoreChunk,
    TierHealth,
    TierName,
    TransferReport,
    WorkloadClass,
)
from stepwell.cache.hierarchy import Hierarchy
from stepwell.cache.marks import Roots
from stepwell.cache.plan import ChainRequest, RestoreMode
from stepwell.cache.policy.registry import POLICIES
from stepwell.cache.settings import HierarchySettings, TierSpec

SIZE = 100
HOST, DISK, REMOTE = TierName.HOST, TierName.DISK, TierName.REMOTE
CAPACITY = {HOST: 8 * SIZE, DISK: 14 * SIZE, REMOTE: 0}
CHAIN = st.lists(st.integers(0, 2), min_size=1, max_size=6)


def chain_keys(tenant: str, chain: list[int]) -> list[bytes]:
    return [f"{tenant}/{chain[: i + 1]}".encode() for i in range(len(chain))]


class HierarchyMachine(RuleBasedStateMachine):
    policy = "lru"

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.brain = Hierarchy(
            [
                TierSpec(name=HOST, capacity_bytes=CAPACITY[HOST]),
                TierSpec(name=DISK, capacity_bytes=CAPACITY[DISK], persistent=True, lossy=True),
                TierSpec(name=REMOTE, capacity_bytes=0, shared=True, persistent=True, lossy=True),
            ],
            chunk_tokens=16,
            chunk_bytes=SIZE,
            policy=POLICIES[self.policy],
            settings=HierarchySettings(
                max_ghosts=6,
                max_sessions=8,
                max_shared_chunks=10,
                window_chunks=2,
                moves_in_flight=3,
                ttl={WorkloadClass.BATCH: 5.0},
                quota={"b": {HOST: 3 * SIZE}},
                pin_seconds=15.0,
            ),
        )
        self.brain.computed(tokens=100, context=0, seconds=1.0, now=0.0)
        self.brain.computed(tokens=200, context=0, seconds=2.0, now=0.0)
        for tier in (HOST, DISK, REMOTE):
            self.brain.transferred(tier, size=SIZE, seconds=0.001, now=0.0)
        self.content: dict[TierName, dict[bytes, int]] = {HOST: {}, DISK: {}, REMOTE: {}}
        self.pending: list = []
        self.metas: dict[bytes, bytes] = {}
        self.requests: dict[str, tuple[str, list[int], int]] = {}
        self.reports: dict[int, int] = {}
        self.count = 0

    # --- the body -----------------------------------------------------------------------------

    def accept(self, orders: list) -> None:
        for order in orders:
            if isinstance(order, EvictChunk):
                assert order.tier is not REMOTE, "evicts from a shared tier"
                reads = [o for o in self.pending if self.reads(o, order)]
                assert not reads, "evicts what is being read"
                self.content[order.tier].pop(order.key, None)
                continue
            self.pending.append(order)
            if isinstance(order, EraseChunks):
                self.erase(order)
                continue
            if isinstance(order, StoreChunk | MoveChunk):
                self.metas[order.key] = order.meta
            if isinstance(order, LoadChunk):
                assert order.deadline >= self.now
                assert order.key in self.content[order.tier], "loads what is not there"
            elif isinstance(order, MoveChunk):
                assert order.key in self.content[order.source], "moves what is not there"
            if isinstance(order, StoreChunk | MoveChunk):
                target = order.tier if isinstance(order, StoreChunk) else order.target
                promised = sum(self.content[target].values()) + SIZE * sum(
                    self.target(o) is target for o in self.pending
                )
                assert not CAPACITY[target] or promised <= CAPACITY[target], "overfills a tier"

    def erase(self, order: EraseChunks) -> None:
        """At once; only its report is late."""
        content = self.content[order.tier]
        for key in list(content):
            if key in order.keys or (order.also and order.also(key, self.metas[key])):
                del content[key]

    @staticmethod
    def target(order: object) -> TierName | None:
        if isinstance(order, StoreChunk):
            return order.tier
        return order.target if isinstance(order, MoveChunk) else None

    @staticmethod
    def reads(order: object, evict: EvictChunk) -> bool:
        if isinstance(order, LoadChunk):
            return (order.key, order.tier) == (evict.key, evict.tier)
        return isinstance(order, MoveChunk) and (order.key, order.source) == (
            evict.key,
            evict.tier,
        )

    # --- events -------------------------------------------------------------------------------

    @rule(
        chain=CHAIN,
        tenant=st.sampled_from(["", "b"]),
        session=st.sampled_from([None, "s", "t"]),
        workload=st.sampled_from([None, *WorkloadClass]),
        device=st.integers(0, 2),
        pin=st.booleans(),
        delay=st.booleans(),
    )
    def begin(self, chain, tenant, session, workload, device, pin, delay) -> None:
        name = f"r{self.count}"
        self.count += 1
        keys = chain_keys(tenant, chain)
        request = ChainRequest(
            request_id=name, keys=keys, tokens=16 * len(keys) + 3,
            device_chunks=min(device, len(keys)), tenant=tenant, session_id=session,
            workload=workload, pin=pin and self.count % 3 == 0,
        )  # fmt: skip
        lookup = self.brain.lookup(request, self.now)
        if lookup is not None:
            found = frozenset(k for k in lookup.keys if k in self.content[REMOTE])
            self.brain.report(
                LookupReport(order_id=lookup.order_id, now=self.now, seconds=0.0, found=found)
            )
        plan = self.brain.plan(request, now=self.now)
        again = self.brain.plan(request, now=self.now)
        assert (plan.mode, plan.spans) == (again.mode, again.spans), "planning changed something"
        if delay:
            self.brain.tick(self.now)
            self.accept(self.brain.take_orders())
        orders = self.brain.begin(plan, self.now)
        assert bool(orders) <= (plan.mode is not RestoreMode.NONE)
        self.accept(orders)
        self.requests[name] = (tenant, chain, plan.stop)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), output=st.lists(st.integers(0, 2), max_size=3), computed=st.booleans())
    def close(self, data: st.DataObject, output: list[int], computed: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.requests)))
        tenant, chain, _ = self.requests.pop(name)
        keys = chain_keys(tenant, chain + output)
        self.brain.close(name, keys, len(keys) if computed else 1, self.now)
        self.accept(self.brain.take_orders())

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), failure=st.sampled_from([None, None, None, *Failure]))
    def complete(self, data: st.DataObject, failure: Failure | None) -> None:
        order = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        if isinstance(order, EraseChunks):
            failure = None
        source = getattr(order, "source", None)
        if isinstance(order, LoadChunk):
            source = order.tier
        if source is not None and order.key not in self.content[source]:
            failure = Failure.MISSING
        if source is not None and failure in (Failure.MISSING, Failure.CORRUPT):
            self.content[source].pop(order.key, None)
        target = self.target(order)
        if failure is None and target is not None:
            self.content[target][order.key] = SIZE
        report = TransferReport(
            order_id=order.order_id, now=self.now, seconds=0.001, queued=0.0, size=SIZE,
            failure=failure,
        )  # fmt: skip
        self.brain.report(report)
        if data.draw(st.integers(0, 9)) == 0:
            self.brain.report(report)  # a report twice changes nothing
        self.accept(self.brain.take_orders())

    @rule(chain=CHAIN, tenant=st.sampled_from(["", "b"]), name=st.sampled_from("pq"))
    def hold(self, chain: list[int], tenant: str, name: str) -> None:
        keys = chain_keys(tenant, chain)
        assert self.brain.pin_prefix(f"{tenant}{name}", keys, self.now) <= len(keys)

    @rule(tenant=st.sampled_from(["", "b"]), name=st.sampled_from("pq"))
    def let_go(self, tenant: str, name: str) -> None:
        self.brain.unpin_prefix(f"{tenant}{name}", self.now)

    @rule(chain=CHAIN, tenant=st.sampled_from(["", "b"]))
    def forget(self, chain: list[int], tenant: str) -> None:
        """What follows a chunk goes with it, from all tiers; what is on its way goes on arrival."""
        keys = chain_keys(tenant, chain)
        self.brain.forget(tenant, Roots(chunks=frozenset(keys[-1:])), self.now)
        self.now += 3.0
        for tier in (HOST, DISK, REMOTE):
            self.brain.report(TierHealth(tier=tier, now=self.now, healthy=True, because="test"))
        self.brain.tick(self.now)
        self.accept(self.brain.take_orders())
        start = keys[-1][:-1]
        for tier in (HOST, DISK, REMOTE):
            late = {o.key for o in self.pending if self.target(o) is tier}
            left = {key for key in self.content[tier] if key[: len(start)] == start}
            assert left <= late, "a descendant is left"

    @rule(seconds=st.sampled_from([0.01, 1.0, 10.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.brain.tick(self.now)
        assert all(until > self.now for until in self.brain._pins._until.values())
        self.accept(self.brain.take_orders())

    @rule(tier=st.sampled_from([HOST, DISK, REMOTE]), healthy=st.booleans())
    def health(self, tier: TierName, healthy: bool) -> None:
        self.brain.report(TierHealth(tier=tier, now=self.now, healthy=healthy, because="test"))

    @rule()
    def restart(self) -> None:
        """Another brain takes over what the disk holds."""
        fresh = Hierarchy(
            [TierSpec(name=DISK, capacity_bytes=10 * SIZE, persistent=True)],
            chunk_tokens=16, chunk_bytes=SIZE, policy=POLICIES[self.policy],
        )  # fmt: skip
        found = [(key, size, self.metas[key]) for key, size in self.content[DISK].items()]
        adopted = fresh.adopt(DISK, [*found, (b"alien", SIZE, b"?")], self.now)
        assert adopted == len(found)
        fresh.check()
        evicted = {order.key for order in fresh.take_orders()}
        assert b"alien" in evicted
        assert fresh.stats().tiers[DISK].chunks == min(10, len(found))

    @invariant()
    def books_are_right(self) -> None:
        self.brain.check()
        table = self.brain._store.table
        for tier in (HOST, DISK):
            resident = {k for k, r in table.index.items() if table.where[r] >> tier & 1}
            assert resident <= set(self.content[tier]), "the books have what the tier lacks"
            late = {o.key for o in self.pending if self.target(o) is tier}
            assert set(self.content[tier]) <= resident | late, "a tier holds what nobody knows"


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_hierarchy_machine(policy: str) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    machine = type(f"Machine_{policy}", (HierarchyMachine,), {"policy": policy})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=50, deadline=None)
    )
