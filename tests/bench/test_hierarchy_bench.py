"""The hierarchy's bench on a tiny model: every figure is there, and no token differs."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from stepwell.evaluate.brain_bench import BrainScale  # noqa: E402
from stepwell.evaluate.hierarchy_bench import (  # noqa: E402
    HierarchyOptions,
    run_hierarchy_bench,
)
from stepwell.evaluate.hierarchy_chat import ChatLoad  # noqa: E402
from stepwell.evaluate.hierarchy_codecs import CODECS  # noqa: E402
from stepwell.evaluate.local_redis import binary  # noqa: E402
from stepwell.evaluate.page_cache import drop_page_cache  # noqa: E402


@pytest.mark.slow
def test_every_figure_is_there(
    tiny_shape: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # where it calibrates
    said: list[str] = []
    result = run_hierarchy_bench(
        HierarchyOptions(
            folder=tiny_shape, prompt=200, repeats=2, sick=3, sick_prompt=100, workdir=tmp_path,
            brain=BrainScale(chunks=40_000, sessions=400, plans=50), kill_server=True,
            chats=ChatLoad(sessions=6, first=64, think_seconds=0.2, host="64MiB"),
        ),
        say=said.append,
    )  # fmt: skip
    assert result["wrong_tokens"] == 0
    for name in ("host", "disk", "disk_restart"):
        assert result[f"ttft_speedup_{name}"] > 0
        assert len(result[name]["restored"]) == 2
    assert result["ttft_speedup_server_restart"] > 0
    assert len(result["server_restart"]["cached_tokens"]) == 2
    assert result["chats"]["wrong"] == 0
    for name in ("chats", "thinking_chats"):
        assert result[name]["host"]["sessions_within_1_s"] <= 6
        assert result[name]["speedup"] > 0
    assert set(result["codecs"]) == set(CODECS)
    for row in result["codecs"].values():
        assert row["replied"] == 16 and len(row["restored"]) == 2
    assert (result["ttft_speedup_network"] is None) == (binary() is None)
    assert set(result["sick"]) and result["sick_tier_p99_ratio"] > 0
    assert result["plan_p99_ms_1m_chunks"] > 0 and result["bytes_per_chunk"] > 0
    assert "ceiling" in said


def test_dropping_the_page_cache_needs_no_file_to_be_open(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 4096)
    drop_page_cache(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"x" * 4096
