"""The quick course through a real server: packs are cached, naive prompts are not."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("dulwich")

from stepwell.evaluate.knowledge_kv import kv_figures, kv_summary, quick_options
from stepwell.evaluate.shapes import house_folder


@pytest.mark.slow
def test_the_quick_course() -> None:
    figures = kv_figures(quick_options(house_folder()), say=lambda _: None)
    summary = kv_summary(figures)
    assert summary["pack_prefix_hit_rate"] >= 0.95
    assert summary["naive_prefix_hit_rate"] < 0.6
    assert figures["rollback"]["hit_rate"] >= 0.95
    assert figures["releases"] == 2
