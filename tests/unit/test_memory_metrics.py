"""The account's arithmetic and its page."""

from __future__ import annotations

import pytest

pytest.importorskip("prometheus_client")

from stepwell.base.account import Held, MemoryAccount, Part
from stepwell.base.request import EngineStats
from stepwell.server.metrics import Metrics

ACCOUNT = MemoryAccount(
    (Held(Part.LAYERS, 600, 600), Held(Part.POOL, 1000, 300), Held(Part.KERNELS, 0, 0)), system=1000
)


def test_what_is_not_in_a_line_is_unaccounted() -> None:
    assert ACCOUNT.resident == 900
    assert ACCOUNT.unaccounted == 100
    assert ACCOUNT.unaccounted_share == 0.1
    assert ACCOUNT.of(Part.POOL) == 300
    assert ACCOUNT.of(Part.TOKENIZER) == 0


def test_lines_say_what_is_touched_of_what_is_allocated() -> None:
    lines = {d.name: d for d in ACCOUNT.decisions(proportional=950)}
    assert lines["memory.kv_pool"].because == "300 B in memory of 1000 B allocated"
    assert lines["memory.weights_layers"].because == "600 B"
    assert "memory.kernels" not in lines
    rest = lines["memory.unaccounted"]
    assert rest.value == 100
    assert "+10.0% unaccounted" in rest.because
    assert "950 B with shared pages divided" in rest.because


def test_parts_of_the_page_add_up_to_the_process() -> None:
    page = Metrics(model_name="m").render(EngineStats(), account=ACCOUNT).decode()
    rows = [line for line in page.splitlines() if line.startswith("stepwell_memory_bytes{")]
    assert sum(float(row.split()[-1]) for row in rows) == 1000
    labels = 'engine="0",model_name="m"'
    assert f"stepwell_memory_resident_bytes{{{labels}}} 1000.0" in page
    assert f'stepwell_memory_committed_bytes{{{labels},part="kv_pool"}} 1000.0' in page
    assert f'stepwell_memory_bytes{{{labels},part="unaccounted"}} 100.0' in page


def test_nothing_where_the_system_cannot_tell() -> None:
    assert "stepwell_memory" not in Metrics(model_name="m").render(EngineStats()).decode()
