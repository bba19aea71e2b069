"""A running server is watched: its page, its process, and what is inside it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("uvicorn")

from stepwell.cli.doctor import app
from stepwell.doctor.fetch import connected
from stepwell.doctor.leaks.report import make_report
from stepwell.doctor.leaks.trend import Verdict
from stepwell.doctor.leaks.watch import FINISHED, observe, server_look
from tests.api.fake_engine import FakeEngine
from tests.api.running import start_server


class LeakingEngine(FakeEngine):
    """Has a list that is never drained."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = [0] * 2000


@pytest.fixture
def leaking():
    running = start_server(LeakingEngine(), debug=True)
    yield running
    running.stop()


@pytest.mark.slow
def test_a_container_that_grows_in_the_server_is_named(leaking, monkeypatch) -> None:
    monkeypatch.setattr("stepwell.doctor.leaks.watch.INSIDE_EVERY", 0.0)
    body = {"prompt": "x", "max_tokens": 2}

    def look():
        leaking.engine.sent += [0] * 500
        if len(leaking.engine.sent) % 4000 == 0:
            leaking.post("/v1/completions", body)
        return {}

    with connected(leaking.root) as server:
        looks = [look, server_look(server)]
        enough = 2000 + 40 * 500
        observed = observe(
            looks, seconds=100.0, every=0.05, is_over=lambda: len(leaking.engine.sent) >= enough
        )
    report = make_report(observed, target="x", memory_left=None)
    assert report.trends["items in LeakingEngine.sent"].verdict is Verdict.GROWS
    assert report.finished and report.finished >= 2
    (finding,) = [f for f in report.findings if "sent" in f.code]
    assert finding.evidence["per_request"] > 0


def test_the_debug_page_is_there_only_when_asked_for(leaking) -> None:
    page = leaking.get("/debug/memory").json()
    assert set(page) == {"objects", "tensors", "containers"}
    plain = start_server(FakeEngine())
    try:
        assert plain.get("/debug/memory").status_code == 404
        with connected(plain.root) as server:
            assert server.debug_memory() is None
            assert FINISHED in server_look(server)()
    finally:
        plain.stop()


def test_an_idle_server_is_not_called_leaking(leaking) -> None:
    done = CliRunner().invoke(app, ["leaks", leaking.root, "--seconds", "2", "--every", "0.1",
                                    "--json"])  # fmt: skip
    shown = json.loads(done.stdout)
    assert shown["requests_finished"] == 0
    assert "own memory" in shown["series"] and shown["verdict"] != "grows"
