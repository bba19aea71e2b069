"""`stepwell doctor oom` as a program."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stepwell.cli.doctor import app
from stepwell.hardware.devices import device
from tests.doctor.test_oom_messages import FOLDER
from tests.doctor.test_oom_snapshot import fragmented

GIB = 1 << 30


def run(*args: str, given: str | None = None) -> Result:
    return CliRunner().invoke(app, ["oom", *args], input=given)


def test_a_file_is_explained() -> None:
    done = run(str(FOLDER / "torch_full.txt"))
    assert done.exit_code == 0
    assert "The device is full." in done.stdout
    assert "who holds what" in done.stdout and "what to change" in done.stdout


def test_standard_input_as_json() -> None:
    done = run("-", "--json", given=(FOLDER / "vllm_length.txt").read_text())
    shown = json.loads(done.stdout)
    assert shown["explanation"]["kind"] == shown["finding"]["code"] == "vllm_length"
    assert shown["explanation"]["holders"] and shown["messages"] == {"vllm_length": 1}


def test_unknown_text_has_its_exit_code_and_says_what_to_send() -> None:
    done = run("-", given="everything is fine\n")
    assert done.exit_code == 3
    assert "I do not know this one" in done.stdout and "command line" in done.stdout


def test_a_snapshot_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(pickle.dumps(fragmented()))
    done = run(str(path))
    assert done.exit_code == 0
    assert "linear.py:88 create_weights" in done.stdout and "fragmentation" in done.stdout
    assert json.loads(run(str(path), "--json").stdout)["devices"][0]["largest_free_bytes"] > 0


def test_a_model_splits_the_numbers() -> None:
    done = run(str(FOLDER / "torch_full.txt"), "--model", "llama-3.1-8b", "--json")
    shown = json.loads(done.stdout)["explanation"]
    holders = {holder["name"]: holder["bytes"] for holder in shown["holders"]}
    assert holders["weights"] == pytest.approx(14.96 * GIB, rel=0.01)
    assert shown["evidence"]["plan_kv_bytes_per_token"] == 131072


def test_a_model_that_cannot_fit_is_said_first() -> None:
    done = run(str(FOLDER / "torch_full.txt"), "--model", "llama-3.1-70b", "--json")
    shown = json.loads(done.stdout)["explanation"]
    assert "no setting helps" in shown["why"]
    assert "at least 8 such devices" in shown["steps"][0]["change"]
    sharded = run(str(FOLDER / "torch_full.txt"), "--model", "llama-3.1-70b", "--shards", "8",
                  "--json")  # fmt: skip
    assert "no setting helps" not in json.loads(sharded.stdout)["explanation"]["why"]


def test_shards_are_read_from_the_log() -> None:
    log = "vllm engine config: tensor_parallel_size=2\n" + (FOLDER / "torch_full.txt").read_text()
    done = run("-", "--model", "llama-3.1-8b", "--json", given=log)
    evidence = json.loads(done.stdout)["explanation"]["evidence"]
    assert evidence["plan_kv_bytes_per_token"] == 131072 / 2


def test_device_gives_the_size_that_the_text_lacks() -> None:
    done = run(str(FOLDER / "vllm_length.txt"), "--model", "llama-3.1-8b", "--device", "h100",
               "--json")  # fmt: skip
    evidence = json.loads(done.stdout)["explanation"]["evidence"]
    assert evidence["plan_capacity_bytes"] == device("h100").memory_bytes


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("no-such-file",), "cannot read"),
        ((str(FOLDER / "torch_full.txt"), "--model", "llama-3.1-8b", "--weights", "int7"), "int8"),
    ],
)
def test_wrong_usage_is_an_error(args: tuple[str, ...], words: str) -> None:
    done = run(*args)
    assert done.exit_code != 0 and words in str(done.exception)
