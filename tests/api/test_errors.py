"""Every error is one reply in OpenAI's shape with a stable code."""

from __future__ import annotations

import inspect
import re
import socket
import time

import httpx
import pytest

from stepwell.base import errors as base_errors
from stepwell.base.errors import StepwellError
from stepwell.knowledge import errors as knowledge_errors
from stepwell.server import errors as server_errors
from stepwell.server.errors import HTTP_STATUS, error_body
from tests.api.fake_engine import FakeEngine

PROMPT = {"prompt": "hi", "max_tokens": 3}
MESSAGES = [{"role": "user", "content": "hi"}]


def classes():
    return [
        c for c in vars(base_errors).values() if inspect.isclass(c) and issubclass(c, StepwellError)
    ]


def test_drawn_tree_is_the_class_tree():
    drawn = {}
    parents = ["StepwellError"]
    for line in base_errors.__doc__.splitlines():
        match = re.match(r"^ {4}((?:[│ ] {3})*)[├└]── (\w+)", line)
        if match:
            depth = len(match[1]) // 4
            parents[depth + 1 :] = [match[2]]
            drawn[match[2]] = parents[depth]
    real = {c.__name__: c.__bases__[0].__name__ for c in classes() if c is not StepwellError}
    assert drawn == real


def test_every_code_has_a_status_and_is_used_once():
    own = [
        c
        for c in vars(server_errors).values()
        if inspect.isclass(c) and issubclass(c, StepwellError) and "code" in vars(c)
    ]
    own += [
        c
        for c in vars(knowledge_errors).values()
        if inspect.isclass(c) and issubclass(c, knowledge_errors.KnowledgeError)
    ]
    known = {c.code: c for c in [*classes(), *own]}
    assert set(known) == set(HTTP_STATUS)
    assert len(known) == len(set(classes()) | set(own))
    for code, cls in known.items():
        body = error_body(cls("message.", hint="hint.", param="p"))["error"]
        assert body["code"] == code and body["message"] == "message. hint."
        assert set(body) == {"message", "type", "param", "code"}


BAD_COMPLETIONS = [
    ({"prompt": "a", "temprature": 1}, "invalid_parameter", "temprature", "temperature"),
    ({"prompt": "a", "temperature": "hot"}, "invalid_parameter", "temperature", "number"),
    ({"prompt": "a", "temperature": -1}, "invalid_parameter", "temperature", "at least 0"),
    ({"prompt": "a", "max_tokens": 1.5}, "invalid_parameter", "max_tokens", "integer"),
    ({"prompt": "a", "max_tokens": -1}, "invalid_parameter", "max_tokens", "at least 0"),
    (
        {"prompt": "a", "max_tokens": 1, "max_completion_tokens": 2},
        "invalid_parameter",
        "max_tokens",
        "one of them",
    ),
    ({"prompt": "a", "logprobs": 21}, "invalid_parameter", "logprobs", "at most 20"),
    ({"prompt": "a", "n": 0}, "invalid_parameter", "n", "at least 1"),
    ({"prompt": "a", "best_of": 3}, "invalid_parameter", "best_of", "equal to n"),
    ({"prompt": "a", "suffix": "b"}, "invalid_parameter", "suffix", "not supported"),
    ({"prompt": "a", "stop": ""}, "invalid_parameter", "stop", "non-empty"),
    ({"prompt": "a", "stop": 5}, "invalid_parameter", "stop", "list of strings"),
    ({"prompt": "a", "stream": "yes"}, "invalid_parameter", "stream", "true or false"),
    ({"prompt": "a", "stream_options": {}}, "invalid_parameter", "stream_options", "stream=true"),
    (
        {"prompt": "a", "stream": True, "stream_options": {"usage": True}},
        "invalid_parameter",
        "stream_options.usage",
        "include_usage",
    ),
    ({"prompt": "a", "logit_bias": {"x": 1}}, "invalid_parameter", "logit_bias", "token ids"),
    (
        {"prompt": "a", "response_format": {"type": "xml"}},
        "invalid_parameter",
        "response_format",
        "json_schema",
    ),
    (
        {"prompt": "a", "response_format": {"type": "json_schema"}},
        "invalid_parameter",
        "response_format",
        "object",
    ),
    ({"prompt": 5}, "invalid_parameter", "prompt", "string"),
    ({"prompt": []}, "invalid_parameter", "prompt", "string"),
    ({"prompt": [["a"]]}, "invalid_parameter", "prompt", "string"),
    ({"prompt": [1, 9999]}, "invalid_parameter", "prompt", "outside"),
    ({"prompt": [True]}, "invalid_parameter", "prompt", "string"),
    ({}, "invalid_parameter", "prompt", "missing"),
    ({"prompt": "a", "model": "gpt-4"}, "model_not_found", "model", "fake"),
    ({"prompt": "a" * 600}, "context_length_exceeded", "prompt", "too long"),
    ({"prompt": "a", "max_tokens": 9999}, "context_length_exceeded", "prompt", "too long"),
]
BAD_CHATS = [
    ({"messages": []}, "messages", "non-empty"),
    ({"messages": "hi"}, "messages", "non-empty"),
    ({"messages": ["hi"]}, "messages[0]", "object"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "assistant"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "string"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content",
        "image_url",
    ),
    (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
        "messages[0].tool_calls",
        "not supported",
    ),
    ({"messages": MESSAGES, "tools": [{"type": "function"}]}, "tools", "not supported"),
    ({"messages": MESSAGES, "modalities": ["audio"]}, "modalities", "not supported"),
    ({"messages": MESSAGES, "top_logprobs": 2}, "top_logprobs", "logprobs=true"),
    ({"messages": MESSAGES, "echo": True}, "echo", "unknown"),
    (
        {"messages": MESSAGES, "chat_template_kwargs": {"chat_template": "x"}},
        "chat_template_kwargs",
        "variable",
    ),
]


@pytest.fixture(scope="module")
def shared():
    from tests.api.conftest import start_server

    running = start_server(FakeEngine())
    yield running
    running.stop()


@pytest.mark.parametrize(("body", "code", "param", "words"), BAD_COMPLETIONS)
def test_refused_completions(shared, body, code, param, words):
    reply = shared.post("/v1/completions", body)
    error = reply.json()["error"]
    assert reply.status_code == (404 if code == "model_not_found" else 400)
    assert (error["code"], error["param"]) == (code, param)
    assert words in error["message"]


@pytest.mark.parametrize(("body", "param", "words"), BAD_CHATS)
def test_refused_chats(shared, body, param, words):
    reply = shared.post("/v1/chat/completions", body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "invalid_parameter")
    assert error["param"] == param and words in error["message"]


@pytest.mark.parametrize(
    "field",
    [
        {"tools": []},
        {"tool_choice": "none"},
        {"modalities": ["text"]},
        {"store": False},
        {"metadata": {"a": "b"}},
        {"service_tier": "auto"},
        {"logprobs": None},
        {"top_k": -1},
    ],
)
def test_harmless_fields_are_accepted(shared, field):
    body = {"messages": MESSAGES, "max_tokens": 1} | field
    assert shared.post("/v1/chat/completions", body).status_code == 200


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100000])
def test_bodies_that_are_no_json_object(shared, text):
    reply = httpx.post(shared.url + "/completions", content=text, trust_env=False)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_request"


def test_half_a_surrogate_pair(shared):
    for name, body in (
        ("prompt", b'{"prompt": "\\ud800"}'),
        ("messages[0].content", b'{"messages": [{"role": "user", "content": "a\\ud800"}]}'),
    ):
        path = "/completions" if name == "prompt" else "/chat/completions"
        reply = httpx.post(shared.url + path, content=body, trust_env=False)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)


def test_unknown_paths_and_methods(shared):
    lost = shared.get("/v1/engines")
    assert (lost.status_code, lost.json()["error"]["code"]) == (404, "unknown_url")
    wrong = shared.get("/v1/completions")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


def test_body_too_large_by_its_header(serve):
    running = serve(max_body="1K")
    reply = running.post("/v1/completions", {"prompt": "x" * 2000})
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")


def test_body_too_large_in_chunks(serve):
    """Without Content-Length the bytes are counted as they come, and reading stops."""
    running = serve(max_body="1K")
    host, port = running.root.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
            + b"400\r\n"
            + b"x" * 1024
            + b"\r\n400\r\n"
            + b"x" * 1024
            + b"\r\n"
        )
        reply = connection.recv(4096)
    assert b" 413 " in reply.splitlines()[0]
    assert running.post("/v1/completions", PROMPT).status_code == 200


def test_queue_full(serve):
    running = serve(FakeEngine(max_waiting=2))
    reply = running.post("/v1/completions", PROMPT | {"n": 3})
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "queue_full")
    assert int(reply.headers["retry-after"]) >= 1


def test_a_job_is_queued_whole_or_not_at_all(serve):
    running = serve(FakeEngine(max_waiting=2, freeze=True))
    reply = running.post("/v1/completions", {"prompt": ["a", "b", "c"], "max_tokens": 3})
    assert reply.status_code == 429
    deadline = time.monotonic() + 60
    while running.engine.stats().running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running.engine.stats().running == 0


def test_every_reply_is_counted(serve):
    running = serve()
    running.post("/v1/completions", PROMPT)
    running.post("/v1/completions", {"prompt": 1})
    page = running.get("/metrics").text
    assert 'stepwell_http_replies_total{route="/v1/completions",status="200"} 1.0' in page
    assert 'stepwell_http_replies_total{route="/v1/completions",status="400"} 1.0' in page
    assert 'stepwell_errors_total{code="invalid_parameter"} 1.0' in page
