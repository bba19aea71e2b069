"""`stepwell plan` as people and programs call it: the numbers that must be there, in under a
second, without torch."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stepwell.base.errors import StepwellError
from stepwell.cli.plan import app

HEAVY = ("torch", "transformers", "matplotlib", "numpy", "numba", "scipy")


def run(*words: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | ({"XDG_CACHE_HOME": str(home)} if home else {})
    return subprocess.run(
        [sys.executable, "-m", "stepwell.cli.main", "plan", *words],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


def document(*words: str) -> dict[str, Any]:
    """In this process, which is quicker."""
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exception is None, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_numbers_of_a_32b_model_on_one_a100() -> None:
    found = json.loads(run("qwen2.5-32b", "--device", "a100-80g", "--json").stdout)

    assert found["weights_bytes"] == 2 * 32_763_876_352
    embedding = found["weights"]["by_component"]["embedding"]
    assert round((found["weights_bytes"] - embedding) / 1e9) == 64  # what every step reads
    assert found["kv_bytes_per_token"] == 262_144
    assert round(found["free_bytes"] / 1e9) == 16
    assert round(found["ridge_flop_per_byte"]) == 153
    assert round(found["decode_bound_tokens_per_s"]) == 31
    assert found["contexts"]["2048"] == 2048 * 262_144
    assert found["contexts"]["1048576"] == 1_048_576 * 262_144
    assert found["recommendation"]
    for step in found["recommendation"]:
        assert step["gain"] and step["cost"] and step["risk"]


@pytest.mark.parametrize(
    ("model", "per_token", "fixed"),
    [
        ("qwen2.5-7b", 57_344, 0),
        ("llama-3.1-8b", 131_072, 0),
        ("llama-3.1-70b", 327_680, 0),
        ("deepseek-v3", 70_272, 0),
        ("gpt-oss-20b", 24_576, 3 << 20),
        ("gemma-3-27b", 81_920, 416 << 20),
    ],
)
def test_kv_of_well_known_models(model: str, per_token: int, fixed: int) -> None:
    found = document(model, "--device", "h200")

    assert found["kv_bytes_per_token"] == per_token
    assert found["kv"]["fixed_bytes"] == fixed


def test_a_linear_hybrid_has_a_state() -> None:
    found = document("qwen3-next-80b-a3b", "--device", "h200")

    assert found["kv_bytes_per_token"] == 24_576
    assert found["kv"]["state_bytes"] >= 72 << 20
    assert "state" in found["contexts_in_engines"]["stepwell"]["refused"]


def test_it_needs_no_heavy_package() -> None:
    code = (
        "import sys; sys.argv = ['stepwell', 'plan', 'deepseek-v3', '--device', 'h200', "
        "'--explain'];\n"
        "from stepwell.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_it_answers_in_under_a_second_of_computing() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("llama-3.1-70b", "--device", "h100", "--users", "500").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_a_whole_request_for_people() -> None:
    done = run(
        "llama-3.1-8b", "--device", "h100", "--workload", "chat", "--users", "500",
        "--context", "32k", "--slo", "ttft=1s,tpot=50ms", "--host-memory", "256GiB",
        "--price", "2.5", "--explain",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    for text in ("Weights in bf16", "131,072 bytes a token", "Levers", "vllm serve", "500 users"):
        assert text in done.stdout
    assert "assumption" in done.stdout


def test_a_folder_and_this_machine(tmp_path: Path) -> None:
    house = Path(__file__).parent.parent.parent / "models" / "house"
    first = run(str(house), "--json", home=tmp_path)
    again = run(str(house), "--json", home=tmp_path)
    found = json.loads(first.stdout)

    assert "measuring this machine" in first.stderr and "measuring" not in again.stderr
    assert found["weights"]["stored_bytes"] == found["weights_bytes"]
    assert found["deployment"]["engine"] == "stepwell"
    assert "[cache]" in found["deployment"]["stepwell_toml"]
    assert json.loads(again.stdout)["ridge_flop_per_byte"] == found["ridge_flop_per_byte"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("qwen2.5-33b",), "qwen2.5-3"),
        (("qwen2.5-7b", "--device", "h1000"), "h100"),
        (("qwen2.5-7b", "--weights", "int3"), "int4"),
        (("qwen2.5-7b", "--kv", "fp9"), "fp8"),
        (("qwen2.5-7b", "--workload", "chatt"), "chat"),
        (("qwen2.5-7b", "--slo", "fast"), "ttft=1s"),
        (("qwen2.5-7b", "--context", "1m"), "32,768"),
        (("qwen2.5-7b", "--users", "-1"), "users"),
        (("house", "--device", "cpu", "--devices", "2"), "this machine"),
        (("house", "--device", "cpu", "--weights", "fp8"), "int8"),
        (("house", "--device", "cpu", "--kv", "fp8"), "fp8"),
        (("qwen2.5-7b", "--weights", "nf4"), "int4"),
        (("qwen2.5-7b", "--weights", "mxfp4"), "Valid: bf16, fp8, int8, int4."),
        (("house", "--device", "h100", "--kv", "int8"), "vllm"),
        (("jamba-v0.1", "--device", "cpu", "--engine", "stepwell"), "state"),
        (("qwen2.5-7b", "--device", "h100", "--price", "-1"), "price"),
        (("qwen2.5-7b", "--device", "h100", "--plot", "x.gif"), "FILE.svg"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: tuple[str, ...], says: str) -> None:
    device = () if "--device" in words else ("--device", "h100")
    done = CliRunner().invoke(app, [*words, *device])

    assert isinstance(done.exception, StepwellError)
    assert says in str(done.exception) and "\n" not in str(done.exception)


def test_an_unknown_kind_of_model_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "warp9"}')
    done = run(str(tmp_path), "--device", "h100")

    assert "[unknown_architecture]" in done.stderr and "warp9" in done.stderr


def test_every_headline_number_is_explained() -> None:
    found = document("gemma-3-27b", "--device", "h200", "--explain")
    said = {each["name"]: each for each in found["decisions"]}

    for name in ("weights_bytes", "kv_bytes_per_token", "free_bytes", "ridge_flop_per_byte",
                 "decode_bound_tokens_per_s"):  # fmt: skip
        assert said[name]["value"] == found[name] and said[name]["because"]
    for name in ("device", "memory.reserve_bytes", "efficiency", "workload", "users.likely"):
        assert said[name]["because"]


def test_lists() -> None:
    text = CliRunner().invoke(app, ["--list"]).stdout
    found = document("--list")

    assert "qwen2.5-32b" in text and "a100-80g" in text and "assumptions" in text
    assert len(found["models"]) >= 40 and "cpu" not in found["devices"]


@pytest.mark.parametrize("name", ["plan.svg", "plan.png"])
def test_a_picture(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    document("qwen2.5-7b", "--device", "l4", "--plot", str(tmp_path / name))

    assert (tmp_path / name).stat().st_size > 5000
