"""`stepwell bench knowledge` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stepwell.base.errors import ConfigError
from stepwell.cli.bench import app
from stepwell.evaluate.knowledge_plot import plot_knowledge


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["knowledge", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(app, ["knowledge", "--help"], env={"COLUMNS": "200"})
    assert "stepwell bench knowledge --quick" in result.output


def test_a_part_ends_with_one_line_of_json_and_a_file_that_names_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "knowledge.json"
    last = run("--quick", "--only", "retrieval,prefix", "--out", str(out)).splitlines()[-1]
    figures = json.loads(last)
    assert figures["recall_at_5"] >= 0.95 and figures["mrr"] >= 0.85
    assert figures["gotcha_recall"] == 1.0 and figures["gotcha_false_fires"] <= 0.02
    assert figures["pack_prefix_hit_rate"] >= 0.95
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["summary"] == figures and document["quick"] is True
    assert document["retrieval"]["held_out"]["questions"] == 152


def test_unknown_parts_are_named() -> None:
    with pytest.raises(ConfigError, match="dance"):
        CliRunner().invoke(app, ["knowledge", "--only", "dance"], catch_exceptions=False)


def test_a_plot_needs_arms_and_an_ending(tmp_path: Path) -> None:
    arm = {"curve": [0.0, None, 1.0]}
    document = {"arms": {"honest": arm, "none": arm}, "seeds": [1], "worlds": 2}
    plot_knowledge(document, tmp_path / "curve.svg")
    assert "requests" in (tmp_path / "curve.svg").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="svg"):
        plot_knowledge(document, tmp_path / "curve.pdf")
    with pytest.raises(ConfigError, match="nothing to plot"):
        plot_knowledge({"seeds": []}, tmp_path / "curve.svg")
