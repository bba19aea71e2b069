"""`stepwell bench serve` as a person meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stepwell.base.errors import ConfigError
from stepwell.cli.bench import app


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stepwell.cli.main", "bench", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "stepwell bench serve --quick" in result.output


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--arrival", "poison"], "poisson"),
        (["--only", "dance"], "throughput"),
        (["--prompt", "9:3"], "LOW:HIGH"),
        (["--prompt", "many"], "not a number"),
        (["--arrival", "trace"], "--trace"),
        (["--set", "cache.pol=1MiB"], "cache.pool"),
        (["nowhere/at/all"], "no folder"),
    ],
)
def test_wrong_options_are_config_errors_that_help(arguments: list[str], word: str) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code != 0
    assert word in str(result.exception)
    if arguments[0].startswith("--"):
        assert isinstance(result.exception, ConfigError)


def test_a_run_prints_the_ceiling_first_and_one_object_last(
    tiny_shape: Path, tmp_path: Path
) -> None:
    out, plot = tmp_path / "result.json", tmp_path / "picture.png"
    result = bench(
        str(tiny_shape), "--only", "memory,load", "--requests", "4", "--load-requests", "6",
        "--prompt", "4:40", "--output", "2:6", "--rate", "20", "--set", "cache.pool=4MiB",
        "--workdir", str(tmp_path), "--out", str(out), "--plot", str(plot), "--explain",
        "--quick",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.strip().splitlines()
    assert "Ceiling" in lines[0]
    line = json.loads(lines[-1])
    assert line["failed_requests"] == 0
    assert line["p99_ttft_s"] > 0
    assert 0 < line["kv_waste"] < 1
    document = json.loads(out.read_text())
    assert document["summary"] == line
    assert document["machine"]["cores"] >= 1
    assert document["sections"]["load"]["workload"]["requests"] == 6
    assert plot.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_quick_has_every_promised_figure() -> None:
    result = bench("--quick")
    assert result.returncode == 0, result.stderr
    line = json.loads(result.stdout.strip().splitlines()[-1])
    for name in (
        "kv_waste", "speedup_vs_static_batch", "warm_ttft_speedup", "http_overhead",
        "p99_ttft_s", "steady_allocations",
    ):  # fmt: skip
        assert line[name] is not None, name
    assert line["kv_waste"] <= 0.04
    assert line["failed_requests"] == 0
