"""The parts of the rate-distortion bench that could lie: texts, searches, rivals, errors."""

from __future__ import annotations

import math

import pytest
import torch
from house import corpus

from stepwell.evaluate.codec_measure import Energy, _widest, coding_of, measure, plane_step_at
from stepwell.evaluate.codec_rivals import CacheGenLike, int4_per_head, turned
from stepwell.evaluate.codec_text import is_held_out, library_texts, make_sets
from tests.codec.kvtc_shapes import KEYS, WIDTH, calibration, rows


def test_what_is_held_out_was_held_out_in_training() -> None:
    names = [f"package{i}/module{i * 7}.py" for i in range(500)]
    assert [is_held_out(n) for n in names] == [corpus.is_held_out(n) for n in names]
    seen, held = library_texts()
    assert held and not set(held) & set(seen)


def test_sets_have_full_rows_of_different_texts() -> None:
    sets = make_sets(lambda t: list(t[:4000].encode()), first=1, length=64, rows=(8, 3, 2), seed=0)
    assert [len(s) for s in (sets.calibration, sets.held_out, sets.held_out_recall)] == [8, 3, 2]
    everything = sets.calibration + sets.held_out + sets.held_out_recall
    assert all(len(row) == 64 and row[0] == 1 for row in everything)
    assert len({tuple(row) for row in everything}) == len(everything)


@pytest.mark.parametrize("power", [0.3, 1.0, 4.0])
def test_search_stops_just_below_the_limit(power: float) -> None:
    found = _widest(lambda x: power * (x - 0.7) + 0.1 * math.sin(3 * (x - 0.7)), -3.0, 5.0)
    assert -2e-3 < power * (found - 0.7) + 0.1 * math.sin(3 * (found - 0.7)) <= 0


def test_step_is_the_widest_within_the_error() -> None:
    found = calibration(joint=True)
    chunks = list(torch.split(rows(600, seed=60), 200))
    data = torch.cat(chunks)
    energy = Energy.of(data, mean=data.mean(0), split=KEYS.width)
    step = plane_step_at(
        found.planes[0], chunks, limit=lambda error: energy.shares(error)[2] / 0.05
    )
    point = measure(chunks, coding_of(found, [step]), energy)
    assert 0.0498 < point.total_error <= 0.05
    both = point.key_error * energy.keys + point.value_error * energy.values
    assert both / (energy.keys + energy.values) == pytest.approx(point.total_error)
    assert point.payload_bytes < point.bytes < 2 * WIDTH


def test_simple_rivals_restore_what_they_say() -> None:
    keys, positions = rows(300, seed=61)[:, : KEYS.width], torch.arange(300)
    on = turned(keys, KEYS, positions)
    size, back = int4_per_head(on, KEYS)
    assert size == 300 * 4 * (4 + 4)
    assert float((back - on).square().sum() / on.square().sum()) < 0.01
    coder = CacheGenLike.train(on, KEYS, (31, 15))
    size, back = coder.run(on)
    assert size < 300 * (KEYS.width * 5 / 8 + 4) + 200
    assert float((back - on).square().sum() / on.square().sum()) < 0.02
