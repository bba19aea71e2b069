"""Decoding in pieces, each held against the reading of memory around it."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest

from stepwell.evaluate import beside_reading
from stepwell.evaluate.beside_reading import (
    Piece,
    decode_beside_reading,
    share_beside_reading,
)

STEP_SECONDS = 0.25


class Clock:
    """Seconds that only steps take."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Readings:
    """Rates one after the other."""

    def __init__(self, *rates: float) -> None:
        self.left = list(rates)

    def usual_rate(self) -> float:
        return self.left.pop(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(beside_reading, "time", clock)
    return clock


def steps(clock: Clock, *tokens: int):
    left = list(tokens)

    def step() -> int:
        if not left:
            return 0
        clock.now += STEP_SECONDS
        return left.pop(0)

    return step


def test_each_piece_stands_beside_the_readings_around_it(clock: Clock) -> None:
    readings = Readings(100.0, 300.0, 500.0)
    found = decode_beside_reading(steps(clock, 3, 3, 2, 2), context=10, reading=readings, piece=4)
    assert [asdict(piece) for piece in found] == [
        {"tokens": 6, "seconds": 0.5, "context": 13.0, "read_rate": 200.0},
        {"tokens": 4, "seconds": 0.5, "context": 18.0, "read_rate": 400.0},
    ]
    assert not readings.left


def test_a_rest_that_is_too_short_to_say_anything_is_left_out(clock: Clock) -> None:
    readings = Readings(1.0, 1.0)
    found = decode_beside_reading(steps(clock, 4, 1), context=0, reading=readings, piece=4)
    assert [piece.tokens for piece in found] == [4]
    readings = Readings(1.0, 1.0, 1.0)
    found = decode_beside_reading(steps(clock, 4, 2), context=0, reading=readings, piece=4)
    assert [piece.tokens for piece in found] == [4, 2]


def test_the_share_counts_weights_once_and_kv_by_context() -> None:
    fast = Piece(tokens=10, seconds=1.0, context=100.0, read_rate=30_000.0)
    slow = Piece(tokens=10, seconds=2.0, context=100.0, read_rate=30_000.0)
    assert fast.share(weights=1000, kv=5) == pytest.approx(10 * 1500 / 30_000)
    pieces = [asdict(piece) for piece in (fast, slow, slow)]
    assert share_beside_reading(pieces, weights=1000, kv=5) == pytest.approx(0.25)
    assert math.isnan(share_beside_reading([], weights=1000, kv=5))
