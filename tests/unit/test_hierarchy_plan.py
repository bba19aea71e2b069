"""Restore plans: their shape for any costs, and the rules that keep them from losing time."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from stepwell.base.hierarchy import Failure, TierHealth, TierName, TransferReport, WorkloadClass
from stepwell.cache.hierarchy import Hierarchy
from stepwell.cache.plan import ChainRequest, RestoreMode
from stepwell.cache.settings import HierarchySettings, TierSpec

HOST, DISK, REMOTE = TierName.HOST, TierName.DISK, TierName.REMOTE
SIZE, TOKENS = 1000, 16


def make(*, host: float = 1e-6, disk: float = 1e-5, prefill: float = 1e-3, **kwargs) -> Hierarchy:
    """`host`, `disk`: seconds a byte; `prefill`: seconds a token."""
    brain = Hierarchy(
        [TierSpec(name=HOST, capacity_bytes=10**6), TierSpec(name=DISK, capacity_bytes=10**7)],
        chunk_tokens=TOKENS, chunk_bytes=SIZE, settings=HierarchySettings(**kwargs),
    )  # fmt: skip
    for tokens in (10, 100, 1000, 100, 10) * 4:
        brain.computed(tokens=tokens, context=0, seconds=1e-4 + prefill * tokens, now=0.0)
    for size in (1000, 10_000, 100_000) * 8:
        brain.transferred(HOST, size=size, seconds=host * size, now=0.0)
        brain.transferred(DISK, size=size, seconds=disk * size, now=0.0)
    return brain


def keys(count: int, name: str = "k") -> list[bytes]:
    return [f"{name}{i}".encode() for i in range(count)]


def request(count: int, *, name: str = "r", device: int = 0, **kwargs) -> ChainRequest:
    return ChainRequest(
        request_id=name, keys=keys(count), tokens=count * TOKENS + 5, device_chunks=device, **kwargs
    )


def fill(brain: Hierarchy, count: int, workload: WorkloadClass = WorkloadClass.CHAT) -> None:
    first = request(count, name="first", workload=workload)
    brain.begin(brain.plan(first, now=0.0), 0.0)
    brain.close("first", keys(count), count, 0.0)
    finish(brain, 0.0)


def finish(brain: Hierarchy, now: float, orders=None, failure: Failure | None = None) -> None:
    for order in orders if orders is not None else brain.take_orders():
        brain.report(
            TransferReport(
                order_id=order.order_id, now=now, seconds=1e-3, queued=0.0, size=SIZE,
                failure=failure,
            )
        )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    host=st.floats(1e-9, 1e-3), disk=st.floats(1e-9, 1e-2), prefill=st.floats(1e-6, 1e-1),
    stored=st.integers(0, 40), asked=st.integers(1, 40), device=st.integers(0, 40),
    waiting=st.integers(0, 5000), batch=st.booleans(),
)  # fmt: skip
def test_a_plan_is_sound_for_any_costs(host, disk, prefill, stored, asked, device, waiting, batch):
    brain = make(host=host, disk=disk, prefill=prefill)
    if stored:
        fill(brain, stored, WorkloadClass.BATCH if batch else WorkloadClass.CHAT)
    plan = brain.plan(request(asked, device=min(device, asked)), now=1.0, waiting_tokens=waiting)
    assert plan.available <= asked
    if plan.mode is RestoreMode.NONE:
        assert not plan.spans
        return
    at = plan.start
    for span in plan.spans:
        assert span.start == at < span.stop
        at = span.stop
    assert min(device, asked) <= plan.start < plan.stop <= min(stored, asked)
    assert 1.0 <= plan.deadline < float("inf")
    whole = brain.prefill.seconds(tokens=asked * TOKENS, context=0)
    queue = brain.prefill.seconds(tokens=waiting, context=0)
    if plan.mode is RestoreMode.LOAD:
        assert plan.start == min(device, asked)
        assert plan.deadline - 1.0 <= 0.04 * whole + queue + 1e-9, "a stall may cost too much"
        assert plan.load_seconds <= plan.recompute_seconds + queue
    else:
        assert plan.start > min(device, asked), "computing has something to do meanwhile"


def test_a_fast_tier_is_loaded_a_slow_one_split_a_hopeless_one_recomputed():
    for rate, mode in (
        (1e-8, RestoreMode.LOAD),
        (4e-6, RestoreMode.SPLIT),
        (1e-3, RestoreMode.NONE),
    ):
        brain = make(host=rate, prefill=1e-3)
        fill(brain, 32)
        assert brain.plan(request(32), now=1.0).mode is mode


def test_split_meets_where_both_ends_need_the_same_time():
    brain = make(host=5e-6, prefill=1e-3)
    fill(brain, 32)
    plan = brain.plan(request(32), now=1.0)
    front = brain.prefill.marginal(tokens=plan.start * TOKENS, context=0)
    assert plan.mode is RestoreMode.SPLIT
    assert plan.load_seconds <= front <= plan.load_seconds * 2.5
    orders = brain.begin(plan, 1.0)
    assert [o.index for o in orders] == list(range(31, plan.start - 1, -1)), "back to front"
    assert all(o.deadline >= 1.0 for o in orders)


def test_a_long_queue_hides_a_slow_load():
    brain = make(host=8e-6, prefill=1e-3)
    fill(brain, 32)
    assert brain.plan(request(32), now=1.0).mode is not RestoreMode.LOAD
    assert brain.plan(request(32), now=1.0, waiting_tokens=10_000).mode is RestoreMode.LOAD


def test_a_tier_that_was_given_up_is_probed_now_and_then_and_found_again():
    brain = make(host=1e-3, prefill=1e-4, probe_seconds=10.0)
    fill(brain, 32)
    assert brain.plan(request(32), now=5.0).mode is RestoreMode.NONE
    now, modes = 20.0, []
    for turn in range(60):
        plan = brain.plan(request(32, name=f"p{turn}"), now=now)
        modes.append(plan.mode)
        if plan.probe:
            assert plan.stop - plan.start <= 2
        finish(brain, now + 1e-5, brain.begin(plan, now))  # it is fast again
        brain.close(f"p{turn}", keys(32), 32, now)
        now += 30.0
    assert any(mode is RestoreMode.NONE for mode in modes[:20]) or modes[0] is RestoreMode.SPLIT
    assert modes[-1] is RestoreMode.LOAD


def test_a_load_that_is_cut_off_tells_the_rate_of_what_arrived():
    """A tier is 500 times slower than measured (its probe met a cache): one cut-off load is enough
    to split the next ones, and a few are enough for a good estimate."""
    seconds = 5e-6 * SIZE
    brain = make(host=1e-8)
    fill(brain, 32)
    modes = []
    for turn in range(4):
        now = 1.0 + turn
        plan = brain.plan(request(32, name=f"p{turn}"), now=now)
        orders = brain.begin(plan, now)
        for number, order in enumerate(orders, start=1):
            done = now + number * seconds
            late = Failure.DEADLINE if done > plan.deadline else None
            finish(brain, min(done, plan.deadline), [order], late)
        brain.close(f"p{turn}", keys(32), 32, now + 0.9)
        modes.append(plan.mode)
    assert modes[0] is RestoreMode.LOAD
    assert set(modes[1:]) == {RestoreMode.SPLIT}
    plan = brain.plan(request(32), now=9.0)
    loaded = (plan.stop - plan.start) * seconds
    assert 0.5 * loaded <= plan.load_seconds <= 2.0 * loaded


def test_a_sick_tier_is_left_out_until_it_is_well():
    brain = make(host=1e-8)
    fill(brain, 8)
    brain.report(TierHealth(tier=HOST, now=1.0, healthy=False, because="test"))
    assert brain.plan(request(8), now=1.0).mode is RestoreMode.NONE
    brain.report(TierHealth(tier=HOST, now=2.0, healthy=True, because="test"))
    assert brain.plan(request(8), now=2.0).mode is RestoreMode.LOAD


def test_a_missing_chunk_leaves_the_books_and_a_late_one_stays():
    brain = make(host=1e-8)
    fill(brain, 8)
    for failure, left in ((Failure.DEADLINE, 8), (Failure.MISSING, 0)):
        plan = brain.plan(request(8), now=1.0)
        orders = brain.begin(plan, 1.0)
        assert len(orders) == 8
        finish(brain, 1.0 + 1e-6, orders, failure)
        brain.check()
        assert brain.stats().tiers[HOST].chunks == left
        brain.close("r", [], 0, 1.2)
    assert brain.stats().ledger.chunks_failed == 16


def test_classes_go_where_they_belong_and_expire():
    for workload, tiers in (
        (WorkloadClass.CHAT, {HOST}), (WorkloadClass.CODE, {HOST, DISK}),
        (WorkloadClass.BATCH, {DISK}),
    ):  # fmt: skip
        brain = make(ttl={workload: 5.0})
        fill(brain, 4, workload)
        stats = brain.stats().tiers
        assert {tier for tier in stats if stats[tier].chunks} == tiers
        brain.tick(4.9)
        assert not brain.take_orders()
        brain.tick(5.1)
        assert {(o.key, o.tier) for o in brain.take_orders()} == {
            (key, tier) for key in keys(4) for tier in tiers
        }
        brain.check()


def test_an_idle_session_on_disk_comes_up_before_its_usual_return():
    brain = make(disk=1e-7)
    now, chain = 0.0, keys(4)
    for turn in range(80):
        name = f"t{turn}"
        asked = ChainRequest(
            request_id=name, keys=chain, tokens=70, session_id="s", workload=WorkloadClass.BATCH
        )
        finish(brain, now, brain.begin(brain.plan(asked, now=now), now))
        brain.close(name, chain, 4, now)
        finish(brain, now)
        for _ in range(10):
            now += 2.0
            brain.tick(now)
            finish(brain, now)
    assert brain.stats().promotions >= 4
    assert brain.stats().tiers[HOST].chunks == 4
    brain.check()
