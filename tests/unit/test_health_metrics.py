"""What /metrics shows for whoever looks for the cause of trouble."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("prometheus_client")

from stepwell.base.request import Delta, EngineStats, FinishReason
from stepwell.server.health_metrics import PromptPieces
from stepwell.server.metrics import Metrics


def prompt(seed: int, length: int = 600) -> list[int]:
    return random.Random(seed).choices(range(4096), k=length)


def test_equal_text_is_seen_wherever_it_stands() -> None:
    pieces = PromptPieces()
    pieces.add(prompt(1), tenant="")
    first = pieces.pieces
    assert first > 10
    assert pieces.seen == 0
    pieces.add([7, *prompt(1)], tenant="")
    assert pieces.seen >= first - 1


def test_other_text_and_other_tenants_are_not_seen() -> None:
    pieces = PromptPieces()
    pieces.add(prompt(1), tenant="a")
    pieces.add(prompt(2), tenant="a")
    pieces.add(prompt(1), tenant="b")
    assert pieces.seen == 0


def test_a_prompt_that_repeats_itself_is_not_seen_before() -> None:
    pieces = PromptPieces()
    pieces.add(prompt(1, 100) * 5, tenant="")
    assert pieces.seen == 0


def test_silence_is_that_of_the_choice_that_waits_longest() -> None:
    metrics = Metrics(model_name="m")
    assert metrics.silence(9.0) == 0.0
    metrics.step([Delta(request_id="a", index=0, token_ids=(1,))], now=10.0)
    metrics.step([Delta(request_id="b", index=0, token_ids=(1,))], now=14.0)
    assert metrics.silence(15.0) == 5.0
    ended = Delta(request_id="a", index=0, finish_reason=FinishReason.STOP)
    metrics.step([ended], now=15.0)
    assert metrics.silence(15.0) == 1.0


def test_the_page_says_how_old_its_numbers_are() -> None:
    stats = EngineStats(evicted_tokens=32, returned_tokens=16, oldest_prefill=3.0)
    page = Metrics(model_name="m").render(stats, stats_age=2.5).decode()
    labels = '{engine="0",model_name="m"}'
    assert f"stepwell_stats_age_seconds{labels} 2.5" in page
    assert f"stepwell_longest_silence_seconds{labels} 3.0" in page
    assert f"stepwell_kv_evicted_tokens_total{labels} 32.0" in page
    assert f"stepwell_kv_returned_tokens_total{labels} 16.0" in page
