"""No architecture of transformers loads and then answers something else, without a word.

Minutes long, so only in `make test-full`. The outcomes are kept in bench/results/architectures.json
(`python -m tests.model.sweep` renews them), from which docs/architectures.md is made.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from tests.model import sweep

KEPT = {row["architecture"]: row for row in json.loads(sweep.RESULT.read_text())["outcomes"]}


def test_every_architecture_has_a_kept_outcome_and_none_differs() -> None:
    assert set(KEPT) == set(sweep.NAMES), "run python -m tests.model.sweep"
    for row in KEPT.values():
        assert row["outcome"] not in (sweep.DIFFERS, sweep.UNNAMED), row


def test_the_sweep_sees_a_silent_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """qwen2_moe masks with a window that attention is not told; here the net below is cut."""
    window = {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 24}
    monkeypatch.setitem(sweep.SPECIAL, "qwen2_moe", window)
    with sweep.quiet():
        assert sweep.examine("qwen2_moe").outcome == sweep.REFUSED
        blind = SimpleNamespace(difference=0.0, agreement=1.0)
        monkeypatch.setattr("stepwell.engine.build.verify_architecture", lambda loaded: blind)
        assert sweep.examine("qwen2_moe").outcome == sweep.DIFFERS


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", sweep.NAMES)
def test_architecture_is_identical_or_refused(name: str) -> None:
    with sweep.quiet():
        outcome = sweep.examine(name)

    assert outcome.outcome not in (sweep.DIFFERS, sweep.UNNAMED), outcome.why
    assert outcome.outcome == KEPT[name]["outcome"], "run python -m tests.model.sweep"
