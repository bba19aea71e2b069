"""Real servers on free ports: over the fake engine, and one over the house model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("openai")

from stepwell.base.config import load_config
from tests.api.fake_engine import FakeEngine
from tests.api.running import Running, start_server

HOUSE = Path(__file__).parents[2] / "models" / "house"


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """serve(engine, **settings) -> Running; stopped after the test."""
    started: list[Running] = []

    def start(engine: Any = None, **settings: Any) -> Running:
        started.append(start_server(engine or FakeEngine(), **settings))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture(scope="session")
def house() -> Iterator[Running]:
    """A server over the house model."""
    if not (HOUSE / "model.safetensors").exists():
        pytest.skip("models/house has not been trained yet")
    pytest.importorskip("torch")
    from stepwell.engine.loop import build_engine_loop

    keys = {"api_keys": ["ada:key-ada", "bob:key-bob"]}
    overrides = {"model.path": str(HOUSE), "cache.pool": "64MiB"}
    running = start_server(build_engine_loop(load_config(None, overrides)), **keys)
    yield running
    running.stop()
