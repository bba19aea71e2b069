"""`stepwell calibrate` on the house model: a file, a report from held-out text, and its checks."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from stepwell.cli.calibrate import app
from stepwell.codec.kvtc.artifact import read_calibration
from stepwell.codec.kvtc.container import ArtifactError
from stepwell.codec.kvtc.train import TrainingOptions
from stepwell.evaluate.calibrate import CalibrationOptions, calibrate, open_source


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    place = tmp_path_factory.mktemp("calibration") / "house.kvtc"
    result = CliRunner().invoke(app, ["house", "--tokens", "16384", "--out", str(place), "--json"])
    assert result.exit_code == 0, result.output
    return place, json.loads(result.stdout)


def test_a_report_from_held_out_text(made: tuple[Path, dict]) -> None:
    place, report = made
    assert report["bytes"] == place.stat().st_size
    rates = {rate["nominal"]: rate for rate in report["rates"]}
    errors = [rates[ratio]["measured_error"] for ratio in (4, 8, 16, 32, 64)]
    assert errors == sorted(errors) and 0 < errors[0] and errors[-1] < 1
    for ratio in (8, 16, 32):
        assert 0.7 * ratio < rates[ratio]["expected_ratio"] < 1.4 * ratio
        assert rates[ratio]["measured_ratio"] == pytest.approx(ratio, rel=0.4)
        assert rates[ratio]["shift"] < 1.6  # little text here; 65,536 tokens come closer


def test_the_file_belongs_to_its_weights(made: tuple[Path, dict]) -> None:
    place, _ = made
    with pytest.raises(ArtifactError, match="other weights"):
        read_calibration(place, weights=bytes(32))


def test_text_of_another_kind_is_noticed(made: tuple[Path, dict], tmp_path: Path) -> None:
    place, _ = made
    noise = random.Random(1)
    text = tmp_path / "noise.txt"
    text.write_text("".join(chr(noise.randrange(0x2500, 0x2600)) for _ in range(9000)))
    arguments = ["house", "--out", str(place), "--check", str(text), "--tokens", "4096"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 1, result.output
    assert json.loads(result.stdout)["shifted"] is True


def test_refusals_say_what_to_do(made: tuple[Path, dict], tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("too short")
    result = CliRunner().invoke(app, ["house", "--text", str(text)])
    assert "too little" in str(result.exception)
    missing = ["house", "--check", str(text), "--out", str(tmp_path / "none.kvtc")]
    result = CliRunner().invoke(app, missing)
    assert "no calibration" in str(result.exception)
    broken = tmp_path / "broken.kvtc"
    broken.write_bytes(b"x" * 1000)
    result = CliRunner().invoke(app, ["house", "--check", str(text), "--out", str(broken)])
    assert "cannot be used" in str(result.exception)


def test_sketches_stand_in_where_moments_do_not_fit() -> None:
    source = open_source("house")
    given = CalibrationOptions(
        model="house", tokens=12_000, training=TrainingOptions(rungs=6, least_error=0.03)
    )
    width = source.keys.width + source.values.width
    rates = []
    for memory in (8 * width**2, 16 * width * 700):
        options = replace(given, statistics_bytes=memory)
        _, report = calibrate(source, options, on_progress=lambda *_: None)
        rates.append({rate["nominal"]: rate for rate in report["rates"]}[16])
        assert report["statistics"].startswith("exact" if len(rates) == 1 else "sketches of 668")
    exact, sketch = rates
    assert sketch["measured_error"] < 1.05 * exact["measured_error"]
    assert sketch["measured_ratio"] > 0.9 * exact["measured_ratio"]
