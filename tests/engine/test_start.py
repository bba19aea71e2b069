"""What a start says about itself, and that no request ever waits for a compiler."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from stepwell.base.config import load_config
from stepwell.base.sampling import SamplingParams
from stepwell.engine.build import build_engine
from stepwell.engine.llm import LLM
from stepwell.kernels.native import compile_log

SETTINGS: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "float32": {"model__dtype": "float32"},
    "int8 weights": {"model__weights": "int8"},
    "int4 weights": {"model__weights": "int4"},
    "int8 KV": {"model__kv": "int8"},
    "int4 KV": {"model__kv": "int4"},
}
"""Settings that bring kernels of their own."""


def test_start_reports_where_its_time_went() -> None:
    said: list[str] = []
    with_tokens = build_engine(load_config(overrides={"model.path": "house"}), progress=said.append)
    decisions = {d.name: d for d in with_tokens.decisions}
    start = decisions["engine.start_seconds"]
    assert start.value > 0
    for phase in ("model", "memory", "kernels", "first steps"):
        assert phase in start.because
    made = decisions["kernels.compiled"]
    assert len([text for text in said if text.startswith("compiling ")]) == made.value
    with_tokens.close()


@pytest.mark.parametrize("name", list(SETTINGS))
def test_nothing_is_compiled_inside_a_request(name: str) -> None:
    """Requests of many shapes, after a start, find every kernel made."""
    try:
        llm = LLM("house", **SETTINGS[name])
    except Exception as error:
        if getattr(error, "code", "") == "invalid_config":
            pytest.skip(str(error))
        raise
    before = compile_log.made()
    prompts = [[7 + i, *range(20, 20 + 13 * i)] for i in range(1, 24)]
    for batch in (prompts[:1], prompts[:3], prompts):
        llm.generate(batch, SamplingParams(max_tokens=5, temperature=0.0))
        sampled = SamplingParams(max_tokens=5, temperature=1.0, top_p=0.9, logprobs=2)
        llm.generate(batch, sampled)
    assert compile_log.made() == before
    llm.close()
