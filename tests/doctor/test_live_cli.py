"""`stepwell doctor URL` over HTTP: pages, keys, errors, exit codes, and the verbs beside it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")

from typer.testing import CliRunner

from stepwell.base.errors import ConfigError
from stepwell.cli.doctor import app
from stepwell.doctor.errors import MetricsRefused, NotMetrics, ServerUnreachable, UnknownEngine
from tests.doctor.windows import text, with_values

FAST = ("--window", "0.4s", "--every", "100ms", "--timeout", "500ms")
MODELS = {"data": [{"id": "m", "root": "/nowhere/m", "max_model_len": 2048}]}


class FakeServer(ThreadingHTTPServer):
    """Answers /metrics with the next of its pages (the last one again and again)."""

    def __init__(self, *pages: str, key: str = "", delay: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages = list(pages)
        self.key = key
        self.delay = delay
        self.seen: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self.server.seen.append({k.lower(): v for k, v in self.headers.items()})
        if self.path == "/health":
            return self._reply(200, "ok")
        if self.server.key and self.headers.get("authorization") != f"Bearer {self.server.key}":
            return self._reply(401, "no")
        if self.path == "/v1/models":
            return self._reply(200, json.dumps(MODELS))
        if self.path != "/metrics":
            return self._reply(404, "no")
        time.sleep(self.server.delay)
        pages = self.server.pages
        return self._reply(200, pages.pop(0) if len(pages) > 1 else pages[0])

    def _reply(self, status: int, body: str) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it had no patience
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serving() -> Iterator:
    made: list[FakeServer] = []

    def serve(*pages: str, **options: object) -> FakeServer:
        server = FakeServer(*pages, **options)
        made.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield serve
    for server in made:
        server.shutdown()
        server.server_close()


def doctor(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_a_healthy_server_exits_with_0(serving):
    done = doctor(serving(text("vllm_v1_load_1"), text("vllm_v1_load_2")).url, *FAST)
    assert done.exit_code == 0, done.output
    assert "No finding." in done.output
    assert "vllm v1" in done.output


def test_json_has_everything(serving):
    done = doctor(serving(text("vllm_v1_load_1"), text("vllm_v1_load_2")).url, *FAST, "--json",
                  "--model", "house-is-no-known-name/config.json")  # fmt: skip
    assert done.exit_code != 0, "a model that was named must be readable"
    done = doctor(serving(text("vllm_v1_load_1"), text("vllm_v1_load_2")).url, *FAST, "--json")
    said = json.loads(done.stdout)
    assert said["engine"] == "vllm v1"
    assert said["max_model_len"] == 2048
    assert said["healthy"] is True
    assert said["findings"] == []
    assert said["memory"]["weights_bytes"] is None, "not reported and not guessed"
    assert said["rates"]["generated tokens/s"] > 0


def test_findings_of_high_severity_exit_with_1(serving):
    calm = text("vllm_v0")
    full = with_values(calm, {
        "vllm:num_requests_waiting{": 20, "vllm:gpu_cache_usage_perc{": 0.99,
        "vllm:num_preemptions_total{": 40,
    })  # fmt: skip
    done = doctor(serving(calm, full).url, *FAST)
    assert done.exit_code == 1
    for part in ("pool_too_small", "symptom", "diagnosis", "action", "gain", "proof"):
        assert part in done.output
    done = doctor(serving(calm, full).url, *FAST, "--json")
    assert json.loads(done.stdout)["findings"][0]["severity"] == "high"


def test_no_verb_is_needed_and_the_page_itself_may_be_named(serving):
    server = serving(text("sglang"))
    for url in (server.url + "/v1", server.url + "/metrics", server.url.removeprefix("http://")):
        assert doctor(url, *FAST).exit_code == 0
    assert doctor("live", server.url, *FAST).exit_code == 0


def test_keys_and_headers_are_sent(serving):
    server = serving(text("sglang"), key="secret")
    refused = doctor(server.url, *FAST)
    assert isinstance(refused.exception, MetricsRefused)
    assert "--api-key" in refused.exception.hint
    assert doctor(server.url, *FAST, "--api-key", "secret").exit_code == 0
    done = doctor(server.url, *FAST, "--header", "Authorization: Bearer secret",
                  "--header", "x-team: a:b")  # fmt: skip
    assert done.exit_code == 0
    assert server.seen[-1]["x-team"] == "a:b"


def test_what_cannot_be_examined_is_told_apart(serving):
    assert isinstance(doctor("http://127.0.0.1:1", *FAST).exception, ServerUnreachable)
    html = doctor(serving("<html>hello</html>").url, *FAST).exception
    assert isinstance(html, NotMetrics)
    unknown = doctor(serving("nginx_requests_total 4\n").url, *FAST).exception
    assert isinstance(unknown, UnknownEngine)
    assert "nginx" in unknown.message
    assert "vLLM" in unknown.hint
    slow = doctor(serving(text("sglang"), delay=2.0).url, *FAST).exception
    assert isinstance(slow, ServerUnreachable)
    assert "the server itself answers" in slow.hint.lower()


def test_a_page_that_stops_coming_is_a_finding(serving):
    server = serving(text("sglang"))
    threading.Timer(0.3, lambda: setattr(server, "delay", 2.0)).start()
    done = doctor(server.url, "--window", "2s", "--every", "500ms", "--timeout", "200ms")
    assert done.exit_code == 1
    assert "engine_stalled" in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--window", "soon"),
        ("--window", "1s", "--every", "2s"),
        ("--header", "no colon"),
        ("--device", "abacus"),
    ],
)
def test_wrong_usage_is_refused(arguments):
    assert isinstance(doctor("http://127.0.0.1:1", *arguments).exception, ConfigError)


def test_other_schemes_are_refused():
    assert isinstance(doctor("ftp://here", *FAST).exception, ConfigError)


def test_explain_prints_every_threshold():
    from stepwell.doctor.thresholds import Thresholds

    said = json.loads(doctor("--explain", "--json").stdout)
    assert [row["name"] for row in said["thresholds"]] == [
        name for name, _, _ in Thresholds().explained()
    ]
    assert "pool_full" in doctor("--explain").output


def test_a_misspelt_verb_is_no_address():
    done = doctor("chekclist")
    assert done.exit_code == 2
    assert "checklist" in done.output


def test_help_shows_the_verbs():
    done = doctor("--help")
    assert done.exit_code == 0
    assert "stepwell doctor URL" in done.output
    assert "live" in done.output
