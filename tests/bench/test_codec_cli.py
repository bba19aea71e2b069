"""`stepwell bench codec`: what it prints, and a small contest from end to end."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from stepwell.base.errors import ConfigError
from stepwell.cli.bench import app
from stepwell.cli.bench_codec import _show
from stepwell.evaluate.codec_run import CodecOptions, Part, Scale, run_codec_bench
from stepwell.evaluate.shapes import house_folder

TINY = Scale(
    ratios=(16,), rows=(4, 1, 0), sample=1500, paper_sample=256, rungs=5, rounds=1, whole=False
)


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(app, ["codec", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "stepwell bench codec --quick" in result.output


def test_a_part_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(app, ["codec", "--only", "contests"])
    assert isinstance(result.exception, ConfigError)
    assert "contest" in str(result.exception)


def test_ours_takes_fewer_bytes_at_the_papers_error(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    options = CodecOptions(folder=house_folder(), parts=(Part.CONTEST,), scale=TINY)
    result = run_codec_bench(options, say=said.append)
    (row,) = result["contest"]["held_out"]
    assert result["bytes_vs_kvtc_paper_16x"] > 1.4
    for side in ("key_error", "value_error"):
        assert row["kvtc_joint_each_error"][side] <= row["paper"][side]
    assert result["calibration_tokens"] == 4096
    assert said[0] == "ceiling" and "training: joint" in said
    _show(result)
    printed = capsys.readouterr().out
    assert printed.index("Ceiling") < printed.index("at equal error")
