"""Every request ends in exactly one reply, and what it held is free at once."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.api.fake_engine import FakeEngine
from tests.api.running import wait_until

LONG = {"prompt": "hi", "max_tokens": 400}


def events(text):
    return [line.removeprefix("data: ") for line in text.splitlines() if line]


def test_client_leaves_a_stream(serve):
    running = serve(FakeEngine(step_seconds=0.1))
    client = running.openai()
    stream = client.completions.create(model="fake", stream=True, **LONG)
    next(iter(stream))
    assert running.engine.stats().blocks_used > 0
    stream.close()
    wait_until(lambda: running.engine.stats().blocks_used == 0)
    assert running.engine.finals == {"abort": 1}


def test_client_leaves_while_waiting_for_a_whole_reply(serve):
    running = serve(FakeEngine(freeze=True))
    running.abandon(
        "/v1/completions", LONG | {"n": 3}, when=lambda: running.engine.stats().running == 3
    )
    wait_until(lambda: running.engine.stats().blocks_used == 0)
    assert running.engine.finals == {"abort": 3}


def test_client_leaves_before_the_engine_took_the_request(serve):
    """submit waits for the engine's step; the abort must not overtake it."""
    engine = FakeEngine(freeze=True)
    taken, release = threading.Event(), threading.Event()
    original = engine.submit

    def slow_submit(request):
        taken.set()
        release.wait(100)
        original(request)

    engine.submit = slow_submit
    running = serve(engine)
    running.abandon("/v1/completions", LONG, when=taken.is_set)
    time.sleep(0.2)  # in which the server notices
    release.set()
    wait_until(lambda: engine.finals == {"abort": 1})
    assert engine.stats().blocks_used == 0


@pytest.mark.parametrize("stream", [False, True])
def test_time_limit_before_the_first_token(serve, stream):
    running = serve(FakeEngine(freeze=True), request_timeout=0.3)
    reply = running.post("/v1/completions", LONG | {"stream": stream})
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "request_timeout")
    wait_until(lambda: running.engine.finals == {"abort": 1})


def test_time_limit_inside_a_stream(serve):
    running = serve(FakeEngine(step_seconds=0.05), request_timeout=2.0)
    reply = running.post("/v1/completions", LONG | {"stream": True})
    assert reply.status_code == 200
    *chunks, error, done = events(reply.text)
    assert done == "[DONE]"
    assert json.loads(error)["error"]["code"] == "request_timeout"
    assert all("choices" in json.loads(chunk) for chunk in chunks) and chunks
    wait_until(lambda: running.engine.finals == {"abort": 1})


def test_step_fails_before_the_first_token(serve):
    running = serve(FakeEngine(fail_at=0))
    for stream in (False, True):
        reply = running.post("/v1/completions", LONG | {"stream": stream})
        assert (reply.status_code, reply.json()["error"]["code"]) == (500, "step_failed")


def test_step_fails_inside_a_stream(serve):
    running = serve(FakeEngine(fail_at=3))
    reply = running.post("/v1/completions", LONG | {"stream": True})
    *_, error, done = events(reply.text)
    assert done == "[DONE]" and json.loads(error)["error"]["code"] == "step_failed"
    with pytest.raises(openai.APIError) as caught:
        list(running.openai().completions.create(model="fake", stream=True, **LONG))
    assert caught.value.code == "step_failed"


def test_engine_crash_ends_all_and_shows_in_health(serve):
    running = serve(FakeEngine(crash_at=5, step_seconds=0.01))
    assert running.get("/health").status_code == 200
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: running.post("/v1/completions", LONG), range(4)))
    assert {reply.status_code for reply in replies} <= {500, 503}
    assert all(reply.json()["error"]["code"].startswith("engine") for reply in replies)
    assert running.get("/health").status_code == 503
    assert running.post("/v1/completions", LONG).status_code == 503


def test_slow_reader_gets_merged_chunks_and_all_text(serve):
    """The engine runs ahead of a client that does not read; chunks merge, nothing is lost."""
    running = serve(FakeEngine(step_seconds=0.0005))
    host, port = running.root.removeprefix("http://").split(":")
    body = json.dumps({"prompt": ["a"] * 40, "max_tokens": 400, "stream": True, "n": 1}).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    wait_until(lambda: running.engine.finals["length"] == 40)
    connection.settimeout(60)
    data = b""
    while part := connection.recv(1 << 16):
        data += part
    connection.close()
    lengths: dict[int, int] = {}
    chunks = 0
    for line in data.decode().splitlines():
        if line.startswith("data: {"):
            chunks += 1
            for choice in json.loads(line[6:])["choices"]:
                lengths[choice["index"]] = lengths.get(choice["index"], 0) + len(choice["text"])
    assert lengths == dict.fromkeys(range(40), 400)
    assert chunks < 40 * 400
    assert b"data: [DONE]" in data


def test_reader_that_never_reads_is_cut_off(serve):
    running = serve(FakeEngine(step_seconds=0.0005), request_timeout=1.0)
    host, port = running.root.removeprefix("http://").split(":")
    body = json.dumps({"prompt": ["a"] * 60, "max_tokens": 500, "stream": True, "logprobs": 5})
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.connect((host, int(port)))
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body.encode()
    )
    wait_until(lambda: sum(running.engine.finals.values()) == 60)
    wait_until(lambda: running.app._in_flight == 0)
    connection.close()


def test_each_request_gets_one_reply_under_a_mixed_load(serve):
    """Over-long, aborted, refused and regular requests at once: replies add up, nothing stays."""
    running = serve(FakeEngine(step_seconds=0.002, max_waiting=12))

    def send(number):
        kind = number % 4
        body = {"prompt": "x" * 900 if kind == 0 else "x", "max_tokens": 40, "stream": kind == 2}
        try:
            with httpx.Client(trust_env=False, timeout=0.03 if kind == 3 else 60) as client:
                reply = client.post(running.url + "/completions", json=body)
        except httpx.TimeoutException:
            return "left"
        if kind == 2 and reply.status_code == 200:
            assert reply.text.count("data: [DONE]") == 1
            assert reply.text.count('"finish_reason":"length"') == 1
        return reply.status_code

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(send, range(80)))
    assert set(outcomes) <= {200, 400, 429, "left"}
    assert outcomes.count(400) == 20 and outcomes.count(200) > 0
    wait_until(lambda: running.app._in_flight == 0 and running.engine.stats().running == 0)
    assert sum(running.engine.finals.values()) == len(running.engine.submitted)
    assert running.app.engine._boxes == {}


def test_graceful_stop_lets_running_requests_finish(serve):
    running = serve(FakeEngine(freeze=True), shutdown_grace=60.0)
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(running.post, "/v1/completions", {"prompt": "a", "max_tokens": 60})
        streamed = pool.submit(
            running.post, "/v1/completions", {"prompt": "b", "max_tokens": 60, "stream": True}
        )
        wait_until(lambda: running.engine.stats().running == 2)
        running.leave()
        running.engine.freeze = False
        assert whole.result().json()["choices"][0]["finish_reason"] == "length"
        assert '"finish_reason":"length"' in streamed.result().text
    running.thread.join(60)
    assert not running.thread.is_alive()
    with pytest.raises(httpx.ConnectError):
        running.get("/health")


def test_after_the_grace_the_rest_ends_with_an_error(serve):
    running = serve(FakeEngine(freeze=True), shutdown_grace=0.3)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(running.post, "/v1/completions", LONG)
        wait_until(lambda: running.engine.stats().running == 1)
        running.leave()
        result = reply.result()
    assert (result.status_code, result.json()["error"]["code"]) == (503, "engine_stopped")
    assert int(result.headers["retry-after"]) >= 1


def test_a_second_signal_cuts_the_grace_short(serve):
    running = serve(FakeEngine(freeze=True), shutdown_grace=3600.0)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(running.post, "/v1/completions", LONG)
        wait_until(lambda: running.engine.stats().running == 1)
        running.leave()
        running.leave()
        assert reply.result().status_code == 503
