"""What a start says about itself, and that no request ever waits for a compiler."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("torch")

from stepwell.base.config import load_config
from stepwell.base.sampling import SamplingParams
from stepwell.cli import serve
from stepwell.engine.build import build_engine
from stepwell.engine.llm import LLM
from stepwell.hardware.account import resident_of
from stepwell.kernels.native import compile_log
from stepwell.model.pool import KVPool

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


def test_parts_that_settings_must_ask_for_are_not_imported() -> None:
    code = (
        "import stepwell.engine.llm, sys;"
        "parts = 'tier', 'engine.staging', 'engine.codecs', 'model.streaming';"
        "print([n for n in sys.modules for p in parts if (n + '.').startswith(f'stepwell.{p}.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def resident_share(pool: KVPool) -> float:
    storage = pool.storage
    return resident_of([(storage.data_ptr(), storage.nbytes)]) / storage.nbytes


def test_who_serves_long_has_the_whole_pool_in_memory_before_the_first_request() -> None:
    """Else pages would be fetched inside requests, and what is missing be found out there."""
    few = {"model.path": "house", "cache.pool": "64MiB"}
    once = build_engine(load_config(overrides=few))
    assert resident_share(once.pool) < 0.5
    once.close()
    with_tier = build_engine(load_config(overrides=few | {"tiers.host": "16MiB"}))
    assert resident_share(with_tier.pool) == 1
    with_tier.close()
    llm = LLM("house", cache__pool="64MiB")
    assert resident_share(llm.built.pool) == 1
    llm.close()


def test_a_server_touches_its_pool_before_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    from stepwell.server.lifecycle import Listener

    order: list[str] = []

    class Engine:
        decisions = ()

        def touch_pool(self) -> None:
            order.append("touched")

    monkeypatch.setattr("stepwell.engine.loop.build_engine_loop", lambda *_, **__: Engine())

    def listen(_engine: Engine, *, listener: Listener, **_: Any) -> None:
        order.append("listens")
        listener.socket.close()

    monkeypatch.setattr("stepwell.server.lifecycle.run_server", listen)
    config = load_config(overrides={"model.path": "house", "server.port": 0})
    serve._serve(config, sagemaker=False, explain=False, as_json=False, record=None)
    assert order == ["touched", "listens"]


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
