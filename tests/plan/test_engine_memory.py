"""The engine's memory before its start. tests/engine/test_account.py holds it against engines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepwell.base.errors import UnsupportedArchitecture
from stepwell.plan.architecture import KVPrecision, WeightPrecision
from stepwell.plan.engine_memory import EngineSettings, engine_memory, is_fused
from stepwell.plan.read import read_model

GIB = 1 << 30
HOUSE = read_model("house")


def test_the_parts_are_the_total() -> None:
    found = engine_memory(HOUSE, EngineSettings(pool=64 << 20))
    assert found.weights == 13_123_328
    assert found.kv_pool == 67_092_480  # whole blocks of 49,152 bytes
    assert found.workspace == 4_868_100
    parts = (
        found.weights, found.kv_pool, found.workspace, found.host_tier, found.steps,
        found.tokenizer, found.kernels, found.interpreter, found.libraries,
    )  # fmt: skip
    assert found.total == sum(parts)


def test_an_automatic_pool_takes_half_of_what_is_left_and_no_more_than_is_useful() -> None:
    little = engine_memory(HOUSE, EngineSettings(available=GIB))
    beside = little.total - little.kv_pool
    assert little.kv_pool == pytest.approx((GIB - beside) / 2, abs=50_000)
    much = engine_memory(HOUSE, EngineSettings(available=100 * GIB))
    useful = HOUSE.max_positions // 16 * 64
    assert much.kv_pool == useful * 49_152
    assert engine_memory(HOUSE, EngineSettings(available=0)).kv_pool == 0


def test_low_bits_shrink_what_they_should() -> None:
    plain = engine_memory(HOUSE, EngineSettings(pool=GIB))
    int8 = engine_memory(HOUSE, EngineSettings(pool=GIB, weights=WeightPrecision.INT8))
    int4 = engine_memory(HOUSE, EngineSettings(pool=GIB, weights=WeightPrecision.INT4))
    assert int4.weights < int8.weights < plain.weights
    assert int8.workspace > plain.workspace == int4.workspace  # rows rounded to int8


def test_float32_is_not_fused() -> None:
    wide = replace(HOUSE, dtype_bytes=4)
    assert is_fused(HOUSE) and not is_fused(wide)
    assert engine_memory(wide, EngineSettings(pool=GIB)).workspace < 200_000


def test_what_the_engine_does_not_serve_is_refused() -> None:
    with pytest.raises(UnsupportedArchitecture):
        engine_memory(read_model("falcon-mamba-7b"), EngineSettings(pool=GIB))
    with pytest.raises(UnsupportedArchitecture):
        engine_memory(HOUSE, EngineSettings(pool=GIB, kv=KVPrecision.FP8))
