"""Stepwell's own contestant, in this process, on a tiny model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from stepwell.evaluate.worker import StepwellContestant
from stepwell.evaluate.workload import Mix

MIX = Mix(count=6, prompt=(5, 60), output=(3, 9), vocab_size=5000, seed=4)


@pytest.fixture(scope="module")
def contestant(tiny_shape: Path) -> StepwellContestant:
    worker = StepwellContestant()
    facts = worker.load(str(tiny_shape), settings={"cache.pool": "1MiB"})
    assert facts["vocab_size"] == 5000
    cost = facts["cost"]
    assert cost["head_parameters"] == 5000 * 64
    assert cost["attention_width"] == 2 * 64
    item = cost["decode_bytes"] // (cost["parameters"] + cost["head_parameters"])
    assert item in (2, 4), "bfloat16, or float32 where the CPU has no fast bfloat16"
    assert cost["kv_bytes"] == 2 * 2 * 16 * 2 * item  # layers, K and V, head size, KV heads
    return worker


def test_run_yields_every_token_asked_for(contestant: StepwellContestant) -> None:
    work = MIX.draw()
    found = contestant.run(work.as_dicts(), tokens=1)
    assert found["complete"]
    assert found["output_tokens"] == work.output_tokens
    assert [len(t) for t in found["tokens"]] == [r.max_tokens for r in work.requests]
    assert len(found["ttft"]) == len(work.requests)
    assert contestant.run(work.as_dicts(), tokens=1)["tokens"] == found["tokens"]


def test_the_second_time_is_warm(contestant: StepwellContestant) -> None:
    prompt = list(Mix(count=1, prompt=(300, 300), vocab_size=5000).draw().requests[0].prompt)
    found = contestant.ttft([prompt], max_tokens=4)
    assert len(found["cold"]) == 1
    assert len(found["warm"]) == 2
    stats = contestant._engine.stats()
    assert stats.prefix_hits > 250


def test_memory_counts_every_step_and_waste_is_a_share(contestant: StepwellContestant) -> None:
    found = contestant.memory(asdict(MIX))
    assert found["steps"] >= 3
    assert 0 < found["kv_waste"] < 0.5
    assert found["cuda_allocations"] >= 0


def test_soak_runs_all_and_samples(contestant: StepwellContestant) -> None:
    found = contestant.soak(25, asdict(MIX), window=4)
    assert found["samples"][-1][0] == 25
    assert found["resident_last"] > 0


def test_a_pool_for_two_rows_still_finishes_everything(tiny_shape: Path) -> None:
    work = MIX.draw()
    worker = StepwellContestant()
    facts = worker.load(str(tiny_shape))
    size = 2 * work.longest * facts["cost"]["kv_bytes"]
    facts = worker.load(str(tiny_shape), settings={"cache.pool": str(size)})
    assert facts["pool_tokens"] <= 2 * work.longest
    assert worker.run(work.as_dicts())["complete"]
