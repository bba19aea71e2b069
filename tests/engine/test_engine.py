"""The step loop under pressure: refusal, abort, failure, preemption, priority, memory."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.errors import ConfigError, EngineStopped, QueueFull, StepFailed  # noqa: E402
from stepwell.base.request import Delta, FinishReason, GenerationRequest  # noqa: E402
from stepwell.base.sampling import SamplingParams  # noqa: E402
from stepwell.engine.build import BuiltEngine  # noqa: E402
from stepwell.engine.engine import Engine  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.engine.loop import EngineLoop  # noqa: E402

MakeLLM = Callable[..., LLM]


def request(
    name: str, tokens: list[int], *, priority: int = 0, arrival: float = 0.0, tenant: str = "",
    **settings: Any,
) -> GenerationRequest:  # fmt: skip
    sampling = SamplingParams(
        **({"temperature": 0.0, "max_tokens": 8, "ignore_eos": True} | settings)
    )
    return GenerationRequest(
        request_id=name, prompt_token_ids=tuple(tokens), sampling=sampling, arrival=arrival,
        priority=priority, tenant=tenant,
    )  # fmt: skip


def drain(engine: Engine, *, steps: int = 10_000) -> list[Delta]:
    deltas: list[Delta] = []
    while engine.has_work and steps:
        deltas += engine.step()
        steps -= 1
    return deltas


def finals(deltas: list[Delta]) -> Counter:
    return Counter((d.request_id, d.index) for d in deltas if d.finish_reason is not None)


def random_tokens(count: int, seed: int = 0) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(300, 4000) for _ in range(count)]


def test_each_choice_ends_exactly_once(make_llm: MakeLLM) -> None:
    engine = make_llm(cache__pool="160KiB").built.engine
    for i in range(12):
        engine.add(request(f"r{i}", random_tokens(20 + 7 * i, i), n=1 + i % 3, max_tokens=30))
    deltas = []
    for step in range(20):
        deltas += engine.step()
        if step == 10:
            deltas += engine.abort("r3")
    deltas += drain(engine)

    expected = {(f"r{i}", n) for i in range(12) for n in range(1 + i % 3)}
    assert finals(deltas) == Counter(expected)
    assert engine.stats().preemptions > 0
    assert engine.stats().blocks_used == 0


def test_abort_frees_memory_at_once(make_llm: MakeLLM) -> None:
    engine = make_llm().built.engine
    engine.add(request("a", random_tokens(100), max_tokens=100))
    engine.step()
    assert engine.stats().blocks_used > 0

    (delta,) = engine.abort("a")

    assert delta.finish_reason is FinishReason.ABORT
    assert engine.stats().blocks_used == 0
    assert engine.abort("a") == []
    assert not engine.has_work


def test_a_failing_request_takes_no_other_with_it(
    make_llm: MakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_llm().built.engine
    expected = {}
    for name in ("good", "bad", "fine"):
        engine.add(request(name, random_tokens(40, len(name))))
    for delta in drain(engine):
        expected.setdefault(delta.request_id, []).extend(delta.token_ids)
    engine.clear_cache()
    forward = engine._runner.run

    def poisoned(plan: Any, cache: Any) -> Any:
        if any(p.sequence.request.request_id == "bad" and p.start > 40 for p in plan):
            raise RuntimeError("boom")
        return forward(plan, cache)

    monkeypatch.setattr(engine._runner, "run", poisoned)
    for name in ("good", "bad", "fine"):
        engine.add(request(name, random_tokens(40, len(name))))
    deltas = drain(engine)

    assert all(count == 1 for count in finals(deltas).values())
    (failed,) = [d for d in deltas if d.finish_reason is FinishReason.ERROR]
    assert failed.request_id == "bad"
    assert isinstance(failed.error, StepFailed)
    for name in ("good", "fine"):
        got = [t for d in deltas if d.request_id == name for t in d.token_ids]
        assert got == expected[name]
    assert engine.stats().blocks_used == 0


def test_higher_priority_goes_first_and_preempts(make_llm: MakeLLM) -> None:
    engine = make_llm(cache__pool="160KiB", cache__prefix_caching=False).built.engine
    blocks = engine.stats().blocks_total
    low = request("low", random_tokens(blocks * 16 - 60), priority=5, max_tokens=30)
    engine.add(low)
    for _ in range(4):
        engine.step()
    engine.add(request("high", random_tokens(200, 1), priority=0, arrival=9.0, max_tokens=20))
    order = [d.request_id for d in drain(engine) if d.finish_reason is not None]

    assert order == ["high", "low"]
    assert engine.stats().preemptions == 1


def test_queue_is_bounded(make_llm: MakeLLM) -> None:
    engine = make_llm(scheduler__max_waiting=2).built.engine
    engine.add(request("a", [300]))
    engine.add(request("b", [300]))
    with pytest.raises(QueueFull):
        engine.add(request("c", [300]))
    assert len(finals(drain(engine))) == 2


def test_tenants_do_not_share_blocks(make_llm: MakeLLM) -> None:
    engine = make_llm().built.engine
    tokens = random_tokens(64)
    cached = []
    for name, tenant in (("a", "x"), ("b", "y"), ("c", "x")):
        engine.add(request(name, tokens, tenant=tenant))
        cached += [d.usage.cached_tokens for d in drain(engine) if d.usage]

    assert cached == [0, 0, 63]


def test_equal_prompts_at_once_are_computed_once(make_llm: MakeLLM) -> None:
    engine = make_llm(scheduler__max_step_tokens=32).built.engine
    tokens = random_tokens(100)
    for i in range(5):
        engine.add(request(f"r{i}", tokens, arrival=float(i)))
    cached = {d.request_id: d.usage.cached_tokens for d in drain(engine) if d.usage}

    assert cached["r0"] == 0
    assert all(cached[f"r{i}"] == 96 for i in range(1, 5))


def test_random_traffic_equals_one_by_one(make_llm: MakeLLM) -> None:
    """Whatever is batched, preempted, aborted or shared: greedy tokens stay the same."""
    generator = random.Random(9)
    stems = [random_tokens(generator.randrange(1, 120), seed) for seed in range(4)]
    prompts = [
        generator.choice(stems)[: generator.randrange(1, 120)] + random_tokens(3, i)
        for i in range(40)
    ]
    plain = make_llm(cache__prefix_caching=False)
    expected = []
    for prompt in prompts:
        (done,) = plain.generate([prompt], SamplingParams(
            temperature=0.0, max_tokens=40, ignore_eos=True))  # fmt: skip
        expected.append(done.token_ids)

    engine = make_llm(cache__pool="128KiB", scheduler__max_step_tokens=40).built.engine
    tokens: dict[str, list[int]] = {}
    waiting = list(enumerate(prompts))
    while waiting or engine.has_work:
        deltas = []
        if waiting and generator.random() < 0.5:
            i, prompt = waiting.pop(0)
            engine.add(request(f"r{i}", prompt, max_tokens=40, arrival=float(i)))
            if generator.random() < 0.2:
                engine.add(request(f"noise{i}", random_tokens(80, i), max_tokens=50))
                deltas += engine.step()
                engine.abort(f"noise{i}")
        for delta in deltas + engine.step():
            tokens.setdefault(delta.request_id, []).extend(delta.token_ids)

    assert [tokens[f"r{i}"] for i in range(len(prompts))] == expected
    assert engine.stats().preemptions > 0
    assert engine.stats().prefix_hits > 0


def test_the_pool_is_allocated_once(make_llm: MakeLLM) -> None:
    llm = make_llm()
    pool = llm.built.pool
    before = (pool.storage.data_ptr(), pool.storage.numel())
    for seed in range(5):
        llm.generate([random_tokens(60, seed)] * 3, SamplingParams(max_tokens=5))

    assert (pool.storage.data_ptr(), pool.storage.numel()) == before
    memory = llm.stats.memory
    assert memory.used == 0
    assert memory.free + memory.cached == memory.pool


def test_waste_is_at_most_the_last_blocks(make_llm: MakeLLM) -> None:
    engine = make_llm().built.engine
    for i in range(6):
        engine.add(request(f"r{i}", random_tokens(17 + 13 * i, i), max_tokens=20))
    while engine.has_work:
        engine.step()
        stats = engine.stats()
        assert stats.memory.waste < max(1, stats.running) * engine._pool.block_bytes


def make_loop(llm: LLM) -> tuple[EngineLoop, list[Delta]]:
    built = llm.built
    loop = EngineLoop(lambda: built)
    deltas: list[Delta] = []
    loop.start(deltas.extend)
    return loop, deltas


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def test_what_the_build_raises_reaches_whoever_builds() -> None:
    def build() -> BuiltEngine:
        raise ConfigError("no such thing")

    with pytest.raises(ConfigError, match="no such thing"):
        EngineLoop(build)


def test_the_engine_is_built_on_the_thread_that_runs_it(make_llm: MakeLLM) -> None:
    built = make_llm().built
    threads = []

    def build() -> BuiltEngine:
        threads.append(threading.current_thread().name)
        return built

    EngineLoop(build).stop(grace=0.0)
    assert threads == ["stepwell-engine"]


def test_loop_answers_everyone_and_stops(make_llm: MakeLLM) -> None:
    loop, deltas = make_loop(make_llm())
    for i in range(8):
        loop.submit(request(f"r{i}", random_tokens(30, i)))
    wait_for(lambda: sum(finals(deltas).values()) == 8)
    loop.stop(grace=1.0)

    with pytest.raises(EngineStopped):
        loop.submit(request("late", [300]))
    with pytest.raises(EngineStopped):
        loop.stats()


def test_loop_stop_aborts_what_outlives_the_grace(make_llm: MakeLLM) -> None:
    loop, deltas = make_loop(make_llm())
    loop.submit(request("long", random_tokens(10), max_tokens=480))
    wait_for(lambda: bool(deltas))
    loop.stop(grace=0.0)

    assert finals(deltas) == Counter({("long", 0): 1})
    assert deltas[-1].finish_reason is FinishReason.ABORT


def test_loop_refusal_reaches_the_caller_alone(make_llm: MakeLLM) -> None:
    loop, deltas = make_loop(make_llm(scheduler__max_waiting=2))
    loop.submit(request("good", [300, 301]))
    with pytest.raises(QueueFull):
        loop.submit(request("often", [300], n=3))
    wait_for(lambda: sum(finals(deltas).values()) == 1)
    loop.stop(grace=1.0)

    assert set(finals(deltas)) == {("good", 0)}


def test_loop_survives_a_dying_engine(make_llm: MakeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the engine itself breaks, every request gets its one reply."""
    llm = make_llm()
    monkeypatch.setattr(llm.built.engine, "step", lambda: 1 / 0)
    monkeypatch.setattr("threading.excepthook", lambda args: None)
    loop, deltas = make_loop(llm)
    loop.submit(request("a", [300]))
    wait_for(lambda: bool(finals(deltas)))

    assert finals(deltas) == Counter({("a", 0): 1})
    with pytest.raises(EngineStopped):
        loop.submit(request("b", [300]))
