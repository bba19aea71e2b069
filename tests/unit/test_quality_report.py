"""Documents: figures from answers, verdicts in a fixed sequence, joining, drawing, tables."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from stepwell.base.errors import ConfigError
from stepwell.cli.evaluate_table import show
from stepwell.evaluate.quality_plot import plot_quality
from stepwell.evaluate.quality_report import Findings, Row, join, make_document, read_document
from stepwell.evaluate.quality_settings import Cost, Setting, make_settings

GOOD = "1" * 1900 + "0" * 100
BAD = "1" * 1800 + "0" * 200
HEAD = {"model": "m", "parameters": 1000, "uncompressed_bytes_per_token": 100,
        "context_tokens": 50}  # fmt: skip
FIDELITY = {"positions": 9, "kl_mean": 0.01, "kl_p99": 0.1, "kl_max": 1.0,
            "top1_agreement": 0.9, "perplexity": 3.0}  # fmt: skip


def _row(codec: str, ratio: float | None, text: str, *, seed: str = "1", size: int = 1000) -> Row:
    setting = Setting(codec=codec, ratio=ratio, sinks=4, window=6)
    cost = Cost(tokens=500, coded_tokens=400, sink_tokens=40, size=size, side=100)
    return Row(setting, cost, 50, dict(FIDELITY), {"pairs": {seed: text}})


def _findings(*rows: Row, seed: str = "1") -> Findings:
    return Findings(dict(HEAD), list(rows), {"pairs": {seed: GOOD}}, 2.5)


def _verdict(found: Findings, codec: str) -> dict:
    rows = make_document(found)["verdicts"]
    return next(row for row in rows if row["codec"] == codec)


def test_bytes_with_and_without_what_is_not_numbers() -> None:
    size = make_document(_findings(_row("kvtc", 8.0, GOOD)))["settings"][0]["bytes"]
    assert size["ratio_coded"] == 40.0
    assert size["ratio_payload"] == pytest.approx(40_000 / 900, abs=1e-3)
    assert size["ratio_with_sinks"] == pytest.approx(44_000 / 5_000)
    assert size["ratio_session"] == pytest.approx(50_000 / 11_000, abs=1e-3)
    assert size["ratio_session_with_artifact"] < size["ratio_session"] + 1e-9
    assert size["artifact_share_of_model"] == 0.025 and size["side_share"] == 0.1


def test_a_damaging_codec_is_found_inferior() -> None:
    found = _findings(_row("kvtc", 8.0, BAD))
    recall = make_document(found)["settings"][0]["recall_all"]
    assert (recall["lost"], recall["gained"]) == (100, 0)
    assert not recall["noninferior_1pt"] and recall["mcnemar_exact_p"] < 1e-20
    assert _verdict(found, "kvtc")["highest"] is None


def test_the_highest_ratio_ends_at_the_first_failure() -> None:
    found = _findings(
        _row("kvtc", 32.0, GOOD), _row("kvtc", 8.0, GOOD), _row("kvtc", 16.0, BAD),
        _row("int4", None, GOOD),
    )  # fmt: skip
    best = _verdict(found, "kvtc")["highest"]
    assert best["nominal_ratio"] == 8.0 and best["n"] == 2000 and best["ratio_coded"] == 40.0
    assert _verdict(found, "int4")["highest"]["nominal_ratio"] is None


@pytest.mark.parametrize("vanilla", ["1" * 2000, "1" * 1600 + "0" * 400])
def test_no_verdict_where_vanilla_is_too_good_or_too_bad(vanilla: str) -> None:
    found = _findings(_row("kvtc", 8.0, vanilla))
    found.vanilla["pairs"]["1"] = vanilla
    assert _verdict(found, "kvtc") | {"tasks": [], "highest": None} == _verdict(found, "kvtc")


def test_depths_come_from_the_questions_order() -> None:
    text = "".join("0" if index % 10 == 3 else "1" for index in range(2000))
    recall = make_document(_findings(_row("kvtc", 8.0, text)))["settings"][0]["recall"]
    assert recall["pairs"]["by_depth_tenth"] == [1.0] * 3 + [0.0] + [1.0] * 6


def test_documents_are_read_again_and_joined() -> None:
    one, two = _findings(_row("kvtc", 8.0, GOOD)), _findings(_row("int4", None, BAD))
    other = _findings(_row("kvtc", 8.0, BAD, seed="2"), seed="2")
    parts = [read_document(json.loads(json.dumps(make_document(f)))) for f in (one, two, other)]
    whole = make_document(join(parts))
    kvtc, int4 = whole["settings"]
    assert kvtc["recall_all"]["n"] == 4000 and kvtc["recall_all"]["lost"] == 100
    assert int4["recall_all"]["n"] == 2000 and int4["recall_all"]["lost"] == 100
    assert kvtc["sums"]["size"] == 2000 and kvtc["bytes"]["ratio_coded"] == 40.0
    assert whole["vanilla"]["recall"]["pairs"]["n"] == 4000


def test_joining_counts_no_question_twice_and_mixes_no_models() -> None:
    one = _findings(_row("kvtc", 8.0, GOOD))
    with pytest.raises(ConfigError, match="in two of these"):
        join([copy.deepcopy(one), copy.deepcopy(one)])
    changed = _findings(_row("int4", None, GOOD))
    changed.vanilla["pairs"]["1"] = BAD
    with pytest.raises(ConfigError, match="vanilla answered otherwise"):
        join([copy.deepcopy(one), changed])
    foreign = _findings(_row("int4", None, GOOD))
    foreign.head["model"] = "other"
    with pytest.raises(ConfigError, match="different models"):
        join([copy.deepcopy(one), foreign])


def test_settings_are_all_combinations_in_ascending_ratio() -> None:
    made = make_settings(["int4", "kvtc"], [16, 8], [4, 0], [128])
    assert [(s.label, s.sinks) for s in made] == [
        ("int4", 4), ("kvtc 8x", 4), ("kvtc 16x", 4), ("int4", 0), ("kvtc 8x", 0), ("kvtc 16x", 0),
    ]  # fmt: skip
    for arguments, words in (
        ((["int5"], [8], [4], [128]), "int5"),
        (([], [8], [4], [128]), "no codec"),
        ((["kvtc"], [], [4], [128]), "ratio"),
        ((["kvtc"], [0.5], [4], [128]), "ratio"),
        ((["kvtc"], [8], [-1], [128]), "sinks"),
        ((["kvtc"], [8], [4], []), "window"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_settings(*arguments)


def test_tables_say_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    show(make_document(_findings(_row("kvtc", 8.0, GOOD), _row("kvtc", 16.0, BAD))))
    out = capsys.readouterr().out
    assert "within one point up to nominal 8x" in out and "not shown" in out
    assert "kvtc 16x" in out and "docs/quality.md" in out


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    document = make_document(
        _findings(_row("kvtc", 8.0, GOOD), _row("kvtc", 16.0, BAD, size=500),
                  _row("int4", None, GOOD, size=9000))
    )  # fmt: skip
    place = tmp_path / f"quality{suffix}"
    plot_quality(document, place)
    first = place.read_bytes()
    assert len(first) > 5_000
    if suffix == ".svg":
        plot_quality(document, place)
        assert place.read_bytes() == first
    with pytest.raises(ConfigError, match=r"no \.png"):
        plot_quality(document, tmp_path / "quality.bmp")
