"""`stepwell demo` and `stepwell serve` as a newcomer runs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.api.conftest import HOUSE

pytestmark = pytest.mark.skipif(
    not (HOUSE / "model.safetensors").exists(), reason="models/house has not been trained yet"
)


def stepwell(*arguments, timeout=100):
    command = [sys.executable, "-m", "stepwell.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def test_demo():
    result = stepwell("demo", str(HOUSE), "--json", "--set", "cache.pool=64MiB")
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)
    assert measured["warm_cached_tokens"] > 0.9 * measured["cold_prompt_tokens"]
    assert measured["cold_ttft_seconds"] > 0 and measured["warm_ttft_seconds"] > 0
    assert measured["cold_cached_tokens"] < 0.1 * measured["cold_prompt_tokens"]
    assert measured["blocks_used"] == 0


def test_demo_that_cannot_start_shows_the_log():
    result = stepwell("demo", "/nonexistent")
    assert result.returncode == 1
    assert "checkpoint_not_found" in result.stderr and "demo_failed" in result.stderr


def test_generate_offline():
    result = stepwell(
        "generate",
        str(HOUSE),
        "-p",
        "import",
        "--max-tokens",
        "4",
        "--json",
        "--explain",
        "--set",
        "cache.pool=64MiB",
    )
    assert result.returncode == 0, result.stderr
    decisions, reply = map(json.loads, result.stdout.splitlines())
    assert {d["name"] for d in decisions["decisions"]} >= {"model.device", "cache.num_blocks"}
    assert reply["usage"]["completion_tokens"] == 4
