"""`stepwell bench attention`, small: bytes and shares of each format."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from stepwell.cli.main import app
from stepwell.evaluate import attention_bench


def test_formats_beside_the_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_bench, "_READ_BYTES", 1 << 20)
    command = "bench attention --heads 2 --group 2 --layers 2 --context 90 --rounds 2 --json"
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    formats = document["formats"]
    assert [f["bytes_vs_first"] for f in formats.values()] == [1, 0.5156, 0.2812]
    for figures in formats.values():
        assert figures["bytes_per_token"] > 0
        assert 0 < figures["share_of_read_lowest"] <= figures["share_of_read"]
    assert document["read_gbps"] > 0
    assert document["shape"]["context"] == 90
