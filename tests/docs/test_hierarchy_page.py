"""docs/hierarchy.md: every test it names exists, and every metric it names is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "hierarchy.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("path", "name"), NAMED, ids=lambda part: part.rpartition("/")[2])
def test_every_test_that_is_named_exists(path: str, name: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"{path} has no {name}"


def test_every_bug_class_has_a_test_or_says_why_not() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 41))
    for number, _, _, answer in ROWS:
        assert "::test_" in answer or "open:" in answer or "does not apply:" in answer, number


def test_every_metric_that_is_named_is_one() -> None:
    folder = ROOT / "src" / "stepwell" / "server"
    text = "".join(
        (folder / name).read_text(encoding="utf-8")
        for name in ("tier_metrics.py", "health_metrics.py")
    )
    names = set(re.findall(r"`stepwell_(\w+?)(?:_total)?(?:\{[\w,]+\})?`", PAGE))
    assert len(names) > 10
    for name in names:
        assert f'"{name}"' in text, name
