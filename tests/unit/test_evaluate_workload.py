"""Workloads and arrivals: the same for everyone, whatever process draws them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.base.errors import ConfigError
from stepwell.evaluate.arrival import Arrival, gamma_offsets, schedule
from stepwell.evaluate.trace import TraceOptions, read_trace
from stepwell.evaluate.workload import Mix


def test_reference_mix_has_the_totals_on_record() -> None:
    work = Mix().draw()
    assert (len(work.requests), work.prompt_tokens, work.output_tokens) == (32, 13121, 3598)
    assert all(64 <= len(r.prompt) <= 768 and 16 <= r.max_tokens <= 256 for r in work.requests)


def test_another_turn_keeps_lengths_and_shares_no_prefix() -> None:
    first, second = Mix().draw(turn=0), Mix().draw(turn=1)
    for a, b in zip(first.requests, second.requests, strict=True):
        assert (len(a.prompt), a.max_tokens) == (len(b.prompt), b.max_tokens)
        assert a.prompt[:16] != b.prompt[:16]


def test_drawing_twice_gives_the_same() -> None:
    assert Mix(seed=5).draw(turn=3) == Mix(seed=5).draw(turn=3)


@given(st.integers(1, 40), st.integers(0, 5))
def test_token_ids_are_in_the_vocabulary(vocab: int, seed: int) -> None:
    work = Mix(count=2, prompt=(1, 20), vocab_size=vocab + 1, seed=seed).draw()
    assert all(0 <= t <= vocab for request in work.requests for t in request.prompt)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_arrivals_keep_their_rate_and_burstiness(burstiness: float) -> None:
    offsets = gamma_offsets(count=20000, rate=50, burstiness=burstiness, seed=1)
    gaps = [b - a for a, b in pairwise(offsets)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    assert 1 / mean == pytest.approx(50, rel=0.05)
    assert mean**2 / variance == pytest.approx(burstiness, rel=0.1)


def test_closed_loops_and_traces_get_no_drawn_times() -> None:
    work = Mix(count=3).draw()
    for kind in (Arrival.CLOSED, Arrival.TRACE):
        assert schedule(work, kind=kind, rate=1, burstiness=1, seed=0) is work


def test_poisson_ignores_burstiness() -> None:
    work = Mix(count=5).draw()
    times = [
        [r.offset for r in schedule(
            work, kind=Arrival.POISSON, rate=3, burstiness=b, seed=2).requests]
        for b in (1.0, 9.0)
    ]  # fmt: skip
    assert times[0] == times[1]


@pytest.mark.parametrize(("rate", "burstiness"), [(0, 1), (-1, 1), (1, 0)])
def test_impossible_rates_are_refused(rate: float, burstiness: float) -> None:
    with pytest.raises(ConfigError):
        gamma_offsets(count=1, rate=rate, burstiness=burstiness, seed=0)


def write_trace(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


ROWS: list[dict[str, object]] = [
    {"timestamp": 1000, "input_length": 1200, "output_length": 50, "hash_ids": [0, 1, 2]},
    {"timestamp": 3500, "input_length": 1030, "output_length": 9, "hash_ids": [0, 1, 7]},
    {"timestamp": 3500, "input_length": 600, "output_length": 4, "hash_ids": [8, 9]},
]


def test_trace_keeps_times_lengths_and_sharing(tmp_path: Path) -> None:
    work = read_trace(write_trace(tmp_path, ROWS), TraceOptions(time_scale=0.5))
    first, second, third = work.requests
    assert [r.offset for r in work.requests] == [0.0, 1.25, 1.25]
    assert [len(r.prompt) for r in work.requests] == [1200, 1030, 600]
    assert [r.max_tokens for r in work.requests] == [50, 9, 4]
    assert first.prompt[:1024] == second.prompt[:1024]
    assert first.prompt[1024:1030] != second.prompt[1024:1030]
    assert third.prompt[:64] != first.prompt[:64]


def test_scaled_traces_share_as_much(tmp_path: Path) -> None:
    options = TraceOptions(length_scale=0.125)
    first, second, _ = read_trace(write_trace(tmp_path, ROWS), options).requests
    assert len(first.prompt) == 150
    assert first.prompt[:128] == second.prompt[:128]
    assert first.max_tokens == 6


def test_trace_fits_the_model(tmp_path: Path) -> None:
    options = TraceOptions(max_length=512, limit=2)
    work = read_trace(write_trace(tmp_path, ROWS), options)
    assert len(work.requests) == 2
    assert all(len(r.prompt) + r.max_tokens <= 512 and r.prompt for r in work.requests)


@pytest.mark.parametrize("text", ["", "no json\n", "[1]\n", '{"timestamp": 1}\n'])
def test_other_files_are_refused_by_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"x\.jsonl"):
        read_trace(path, TraceOptions())


def test_a_missing_trace_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_trace(tmp_path / "nothing.jsonl", TraceOptions())
