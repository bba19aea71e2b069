"""Pins: they protect for a time, and no tenant takes all the room that there is for them."""

from __future__ import annotations

from stepwell.base.hierarchy import EvictChunk, TierName, TransferReport
from stepwell.cache.hierarchy import Hierarchy
from stepwell.cache.plan import ChainRequest
from stepwell.cache.policy.registry import POLICIES
from stepwell.cache.settings import HierarchySettings, TierSpec

SIZE, CHUNKS = 1000, 20  # a quarter of the tier, 5 chunks, for a tenant; half of it for all
HOST = TierSpec(name=TierName.HOST, capacity_bytes=CHUNKS * SIZE)
REMOTE = TierSpec(name=TierName.REMOTE, capacity_bytes=0, shared=True)


class Body:
    """Carries every order out at once and keeps what the tier holds."""

    def __init__(self, tier: TierSpec = HOST) -> None:
        self.brain = Hierarchy(
            [tier], chunk_tokens=16, chunk_bytes=SIZE, policy=POLICIES["lru"],
            settings=HierarchySettings(pin_seconds=100.0, pin_seconds_max=1000.0),
        )  # fmt: skip
        self.held: set[bytes] = set()
        self.count = 0

    def serve(self, name: str, chunks: int, *, now: float, **fields: object) -> None:
        keys = [f"{name}/{i}".encode() for i in range(chunks)]
        self.count += 1
        request = ChainRequest(
            request_id=f"r{self.count}", keys=keys, tokens=16 * chunks + 1, **fields
        )  # type: ignore[arg-type]
        loads = self.brain.begin(self.brain.plan(request, now=now), now)
        self.brain.close(request.request_id, keys, chunks, now)
        for order in [*loads, *self.brain.take_orders()]:
            if isinstance(order, EvictChunk):
                self.held.discard(order.key)
                continue
            self.held.add(order.key)
            self.brain.report(
                TransferReport(
                    order_id=order.order_id, now=now, seconds=1e-3, queued=0.0, size=SIZE,
                    failure=None,
                )
            )  # fmt: skip
        self.brain.check()

    def flood(self, now: float) -> None:
        """Other requests, more than the tier has room for."""
        self.brain.tick(now)
        for _ in range(2 * CHUNKS):
            self.serve(f"other {self.count}", 1, now=now)

    def left(self, name: str) -> int:
        return sum(key.startswith(f"{name}/".encode()) for key in self.held)


def test_a_pin_protects_for_a_time() -> None:
    body = Body()
    body.serve("a", 3, now=0.0, pin=True)
    body.serve("b", 3, now=0.0)
    body.flood(now=99.0)
    assert (body.left("a"), body.left("b")) == (3, 0)
    body.flood(now=100.0)
    assert body.left("a") == 0


def test_asking_again_prolongs_a_pin_and_a_time_to_live_sets_it() -> None:
    body = Body()
    body.serve("a", 3, now=0.0, pin=True, session_id="s")
    body.serve("a", 4, now=60.0, pin=True, session_id="s")
    body.serve("short", 1, now=60.0, pin=True, ttl=10.0)
    body.flood(now=159.0)
    assert (body.left("a"), body.left("short")) == (4, 0)
    body.serve("long", 1, now=159.0, pin=True, ttl=1e9)
    body.flood(now=1158.0)
    assert (body.left("a"), body.left("long")) == (0, 1)
    body.flood(now=1159.0)
    assert body.left("long") == 0, "no pin is for ever"


def test_no_tenant_takes_all_the_room_of_pins() -> None:
    body = Body()
    for tenant in "abc":
        for part in range(2):
            body.serve(f"{tenant}{part}", 4, now=0.0, pin=True, tenant=tenant)
    body.flood(now=1.0)
    kept = [body.left(f"{tenant}0") + body.left(f"{tenant}1") for tenant in "abc"]
    assert kept == [5, 5, 0]


def test_nothing_is_pinned_where_others_evict() -> None:
    body = Body(REMOTE)
    body.serve("a", 3, now=0.0, pin=True)
    assert not body.brain._pins._until


def test_a_named_prefix_is_held_until_it_is_let_go_of() -> None:
    body = Body()
    body.serve("a", 3, now=0.0)
    body.serve("b", 2, now=0.0)
    keys = [f"a/{i}".encode() for i in range(5)]
    assert body.brain.pin_prefix("pack", keys, 0.0) == 3, "as far as it is there"
    body.flood(now=5000.0)
    assert (body.left("a"), body.left("b")) == (3, 0)
    body.serve("a", 4, now=5000.0, pin=True)
    assert body.brain.pin_prefix("pack", keys, 5000.0) == 4
    body.brain.unpin_prefix("pack", 5001.0)
    body.flood(now=5002.0)
    assert body.left("a") == 4, "a request's own pin lasts as long as it was asked for"
    body.flood(now=5101.0)
    assert body.left("a") == 0
    body.brain.unpin_prefix("never pinned", 5101.0)


def test_a_prefix_takes_no_more_than_the_share_of_its_tenant() -> None:
    body = Body()
    body.serve("a", 9, now=0.0)
    assert body.brain.pin_prefix("pack", [f"a/{i}".encode() for i in range(9)], 0.0) == 5
    body.brain.check()
