"""The bench of streamed weights on a tiny model: its parts, its figures, rounds that are added."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from stepwell.evaluate.options import Section
from stepwell.evaluate.streaming_bench import StreamingOptions, run_streaming_bench
from tests.checkpoints import checkpoint

__all__ = ["checkpoint"]

LIMIT = 3 << 30  # bytes: this is about the bench, not about the limit
BUDGET = 3 << 20


def test_rounds_of_a_tiny_model(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = checkpoint("llama", hidden_size=128, intermediate_size=512, num_hidden_layers=6)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    options = StreamingOptions(
        model=str(folder),
        rounds=1,
        batches=(1, 3),
        prompt=5,
        tokens=4,
        vocabulary=512,
        ratio=size / LIMIT,
        share=BUDGET / LIMIT,
        rival=False,
        workdir=tmp_path,
        environments=tmp_path,
    )
    sections: list[Section] = []
    first = run_streaming_bench(options, on_section=sections.append, say=lambda text: None)
    parts = ["read", "batch 1", "read", "batch 3", "read"]
    assert [sample["part"] for sample in first["samples"]] == parts
    assert [s["tokens"] for s in first["samples"] if s["part"] != "read"] == [4, 12]
    figures = first["summary"]
    assert figures["stepwell_tps_batch3"] > 0
    assert figures["disk_read_gbps"] > 0
    assert figures["disk_share_batch1"] > 0
    assert first["loaded"]["stepwell"]["weight_bytes"] <= BUDGET
    assert sections[0].figures == figures

    more = dataclasses.replace(options, batches=(3,), rival=True)
    both = run_streaming_bench(
        more, on_section=sections.append, say=lambda text: None, earlier=first
    )
    assert [sample["round"] for sample in both["samples"]] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert "not installed" in both["missing"]["accelerate"]
