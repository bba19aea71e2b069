"""`stepwell serve --record`: what is written, what is not, and that serving never suffers."""

from __future__ import annotations

import json
import threading

import pytest
from typer.testing import CliRunner

from stepwell.base.errors import ConfigError
from stepwell.base.hierarchy import WorkloadClass
from stepwell.base.request import Delta, FinishReason, GenerationRequest
from stepwell.base.sampling import SamplingParams
from stepwell.cli.serve import app
from stepwell.server.recorder import Recorder
from stepwell.simulate.trace import read_requests
from tests.api.fake_engine import BLOCK, FakeEngine

PROMPT = "a secret prompt of more than three blocks, that is of 49 tokens"


def finished(request_id="r", **changed):
    request = GenerationRequest(
        request_id=request_id, prompt_token_ids=(1, 2, 3), sampling=SamplingParams(), arrival=1.0
    )
    return request, Delta(
        request_id=request_id, index=0, token_ids=(7,), finish_reason=FinishReason.STOP, **changed
    )


def test_what_was_served_can_be_simulated(serve, tmp_path):
    path = tmp_path / "trace.jsonl"
    recorder = Recorder(path, block_tokens=BLOCK)
    running = serve(FakeEngine(), recorder=recorder, api_keys=["olga:k1", "bruno:k2"])
    keys = [{"authorization": "Bearer k1"}] * 2 + [{"authorization": "Bearer k2"}]
    for number, headers in enumerate(keys):
        body = {
            "prompt": PROMPT, "max_tokens": 20, "session_id": "talk", "workload": "code",
            "stream": number == 1,
        }  # fmt: skip
        assert running.post("/v1/completions", body, headers=headers).status_code == 200
    running.post("/v1/completions", {"prompt": "x", "max_tokens": 1, "n": 2}, headers=keys[0])
    running.stop()
    recorder.close()

    trace = read_requests(path)
    assert trace.block_tokens == BLOCK
    assert len(trace.requests) == 5  # one for each choice
    first, second, other = trace.requests[:3]
    length = len(PROMPT) + 1  # bytes and a start token
    assert first.prompt == length and first.output == 20
    assert len(first.blocks) == length // BLOCK
    assert len(first.blocks) + len(first.produced) == (length + 20) // BLOCK
    assert first.blocks == second.blocks and first.produced == second.produced
    assert not set(first.blocks) & set(other.blocks), "tenants share a block"
    assert first.tenant == second.tenant != other.tenant
    assert first.session == second.session
    assert first.workload is WorkloadClass.CODE
    assert first.time < second.time < other.time
    text = path.read_text()
    for secret in ("secret", "talk", "olga", "bruno"):  # no name that hexadecimal digits can spell
        assert secret not in text


def test_failed_choices_and_unstarted_aborts_are_left_out(tmp_path):
    path = tmp_path / "trace.jsonl"
    recorder = Recorder(path, block_tokens=BLOCK)
    request, _ = finished()
    for reason, tokens in (
        (FinishReason.ERROR, (1, 2)),
        (FinishReason.ABORT, ()),
        (FinishReason.ABORT, (1, 2)),
        (FinishReason.LENGTH, (1, 2)),
    ):
        part = Delta(request_id="r", index=0, token_ids=tokens)
        recorder.add(request, part)
        recorder.add(request, Delta(request_id="r", index=0, finish_reason=reason))
    recorder.close()
    assert [json.loads(line)["output"] for line in path.read_text().splitlines()] == [2, 2]


class Broken:
    """A file whose disk is full for the first `failures` writes."""

    def __init__(self, failures=1, gate=None):
        self.failures, self.gate, self.lines = failures, gate, []

    def write(self, text):
        if self.gate is not None:
            self.gate.wait(30)
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        self.lines.append(text)

    def flush(self):
        pass

    close = flush


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path, monkeypatch, caplog):
    file = Broken(failures=2)
    monkeypatch.setattr("stepwell.server.recorder._create", lambda path: file)
    recorder = Recorder(tmp_path / "t", block_tokens=BLOCK)
    for number in range(5):
        recorder.add(*finished(f"r{number}"))
    recorder.close()
    assert len(file.lines) == 3 and recorder.lost == 2
    assert "No space left" in caplog.text and "2 lines are missing" in caplog.text


def test_a_disk_that_hangs_keeps_nobody_waiting(tmp_path, monkeypatch):
    gate = threading.Event()
    file = Broken(failures=0, gate=gate)
    monkeypatch.setattr("stepwell.server.recorder._create", lambda path: file)
    monkeypatch.setattr("stepwell.server.recorder._MOST_WAITING", 4)
    recorder = Recorder(tmp_path / "t", block_tokens=BLOCK)
    for number in range(20):
        recorder.add(*finished(f"r{number}"))
    assert recorder.lost >= 15
    gate.set()
    recorder.close()
    assert len(file.lines) == 20 - recorder.lost


def test_a_file_that_holds_something_is_refused(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text("mine\n")
    with pytest.raises(ConfigError, match="holds something"):
        Recorder(path, block_tokens=BLOCK)
    with pytest.raises(ConfigError, match="cannot write"):
        Recorder(tmp_path / "nowhere" / "t", block_tokens=BLOCK)
    assert path.read_text() == "mine\n"


def test_flags_of_serve_name_tiers_and_the_trace(tmp_path, monkeypatch):
    chosen = {}
    monkeypatch.setattr(
        "stepwell.cli.serve._serve", lambda config, **rest: chosen.update(rest, config=config)
    )
    words = [
        "house", "--host-tier", "2MiB", "--disk-tier", "d", "--remote-tier", "redis://h",
        "--record", str(tmp_path / "t"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    tiers = chosen["config"].tiers
    assert (tiers.host, tiers.disk, tiers.remote) == ("2MiB", "d", "redis://h")
    assert chosen["record"] == tmp_path / "t"
