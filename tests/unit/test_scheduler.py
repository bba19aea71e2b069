"""The scheduler over the real brain, with a forward pass that does nothing: no torch."""

from __future__ import annotations

import random

import hypothesis.strategies as st
from hypothesis import given, settings

from stepwell.base.request import GenerationRequest
from stepwell.base.sampling import SamplingParams
from stepwell.cache.manager import CacheManager
from stepwell.engine.scheduler import Scheduler
from stepwell.engine.sequence import Sequence, SequenceState


def make(blocks: int = 16, budget: int = 8, rows: int = 4) -> tuple[Scheduler, CacheManager]:
    cache = CacheManager(num_blocks=blocks, block_size=4, namespace=b"n")
    return Scheduler(cache, max_step_tokens=budget, max_sequences=rows), cache


def sequence(name: str, tokens: list[int], *, output: int = 4, priority: int = 0) -> Sequence:
    request = GenerationRequest(
        request_id=name, prompt_token_ids=tuple(tokens), sampling=SamplingParams(),
        arrival=float(len(name)), priority=priority,
    )  # fmt: skip
    return Sequence(name, request, 0, list(tokens), output)


def step(scheduler: Scheduler, cache: CacheManager) -> list[tuple[str, int, int]]:
    """Schedule and 'compute'; returns (name, start, count) of the plan."""
    plan = scheduler.schedule(0.0)
    for order in cache.take_orders():
        cache.complete(order)
    for item in plan:
        item.sequence.computed = item.start + item.count
        cache.commit(item.sequence.sequence_id, item.sequence.token_ids,
                     computed=item.sequence.computed)  # fmt: skip
        if item.samples:
            item.sequence.token_ids.append(7)
            if item.sequence.output_length >= item.sequence.max_output:
                scheduler.finish(item.sequence)
    cache.check()
    return [(p.sequence.sequence_id, p.start, p.count) for p in plan]


def test_long_prompt_is_chunked_by_the_budget() -> None:
    scheduler, cache = make()
    scheduler.add(sequence("a", list(range(20))))
    assert [step(scheduler, cache) for _ in range(4)] == [
        [("a", 0, 8)], [("a", 8, 8)], [("a", 16, 4)], [("a", 20, 1)],
    ]  # fmt: skip


def test_decodes_come_first_and_prompts_take_the_rest() -> None:
    scheduler, cache = make()
    scheduler.add(sequence("a", [1, 2, 3]))
    step(scheduler, cache)
    scheduler.add(sequence("bb", list(range(50, 70))))
    assert step(scheduler, cache) == [("a", 3, 1), ("bb", 0, 7)]


def test_rows_are_bounded() -> None:
    scheduler, cache = make(rows=2)
    for name in ("a", "bb", "ccc"):
        scheduler.add(sequence(name, [len(name)]))
    assert len(step(scheduler, cache)) == 2


def test_preempted_sequence_finds_its_full_blocks_again() -> None:
    scheduler, cache = make(blocks=5, budget=20, rows=4)
    scheduler.add(sequence("a", [1, 2, 3, 4, 5, 6, 7], output=8))
    scheduler.add(sequence("bb", [11, 12, 13, 14, 15], output=8))
    names = [item for _ in range(30) for item in step(scheduler, cache)]
    assert scheduler.preemptions > 0
    assert any(start > 0 for name, start, count in names if name == "bb" and count > 1)
    assert not scheduler.running and not scheduler.waiting


def test_a_sequence_that_fills_the_pool_runs_even_if_it_is_cached() -> None:
    scheduler, cache = make(blocks=2, budget=20)
    for name in ("a", "bb"):
        scheduler.add(sequence(name, list(range(8)), output=0))
    scheduler.waiting[0].max_output = scheduler.waiting[1].max_output = 1
    finished = [step(scheduler, cache) for _ in range(6)]
    assert {item[0] for plan in finished for item in plan} == {"a", "bb"}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_random_traffic_always_drains(seed: int) -> None:
    generator = random.Random(seed)
    scheduler, cache = make(blocks=generator.randrange(8, 20), budget=generator.randrange(4, 30))
    capacity = cache.pool.num_blocks * 4
    sequences = []
    for i in range(12):
        tokens = [generator.randrange(2) for _ in range(generator.randrange(1, capacity // 2))]
        sequences.append(
            sequence(f"s{i}", tokens, output=generator.randrange(1, capacity // 3),
                     priority=generator.randrange(2))
        )  # fmt: skip
    waiting = list(sequences)
    for _ in range(3000):
        if waiting and generator.random() < 0.3:
            scheduler.add(waiting.pop())
        if generator.random() < 0.01 and scheduler.running:
            scheduler.finish(generator.choice(scheduler.running))
        step(scheduler, cache)
        if not waiting and not scheduler.running and not scheduler.waiting:
            break
    assert all(s.state is SequenceState.FINISHED for s in sequences)
    assert cache.pool.num_used == 0
