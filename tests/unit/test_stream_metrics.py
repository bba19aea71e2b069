"""Streamed weights in /metrics: there where they stream, and nowhere else."""

from __future__ import annotations

import pytest

pytest.importorskip("prometheus_client")

from stepwell.base.request import EngineStats, StreamStats
from stepwell.server.metrics import Metrics


def test_streamed_weights_are_counted() -> None:
    stats = StreamStats(
        passes=4,
        read_bytes=4000,
        read_seconds=2.0,
        waited_seconds=0.5,
        seconds=9.0,
        checked_bytes=1000,
    )
    assert stats.bytes_per_second == 2000
    assert stats.bytes_per_pass == 1000
    page = Metrics(model_name="m").render(EngineStats(streaming=stats)).decode()
    assert 'stepwell_weights_passes_total{engine="0",model_name="m"} 4.0' in page
    assert 'stepwell_weights_read_bytes_total{engine="0",model_name="m"} 4000.0' in page
    assert 'stepwell_weights_checked_bytes_total{engine="0",model_name="m"} 1000.0' in page
    assert 'stepwell_weights_waited_seconds_total{engine="0",model_name="m"} 0.5' in page


def test_nothing_streams_by_default() -> None:
    assert "stepwell_weights_passes" not in Metrics(model_name="m").render(EngineStats()).decode()
    assert StreamStats(0, 0, 0.0, 0.0, 0.0, 0).bytes_per_second == 0
