"""The fields about context in lower tiers: what the engine gets, and what is refused."""

from __future__ import annotations

import json

import pytest

from stepwell.base.hierarchy import WorkloadClass

ENDPOINTS = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    ("/v1/completions", {"prompt": ["Hi", "Ho"]}),
]


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
def test_wishes_reach_every_request_of_a_body(serve, path, body):
    running = serve()
    wishes = {
        "session_id": "talk-7",
        "workload": "code",
        "cache_ttl": 90,
        "cache_pin": True,
        "cache_store": False,
    }
    reply = running.post(path, body | wishes | {"max_tokens": 2})
    assert reply.status_code == 200, reply.text
    assert running.engine.submitted
    for request in running.engine.submitted:
        assert request.session_id == "talk-7"
        assert request.workload is WorkloadClass.CODE
        assert request.ttl == 90.0
        assert request.pin and not request.store


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
def test_left_out_or_null_means_the_defaults(serve, path, body):
    running = serve()
    nulls = dict.fromkeys(("session_id", "workload", "cache_ttl", "cache_pin", "cache_store"))
    for fields in ({}, nulls):
        assert running.post(path, body | fields | {"max_tokens": 1}).status_code == 200
    for request in running.engine.submitted:
        assert (request.session_id, request.workload, request.ttl) == (None, None, None)
        assert request.store and not request.pin


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("session_id", 7, "string"),
        ("session_id", "", "1 to 256"),
        ("session_id", "x" * 257, "1 to 256"),
        ("session_id", "\ud800", "surrogate"),
        ("workload", "chatty", "chat, document, code, batch"),
        ("workload", ["chat"], "Valid"),
        ("cache_ttl", 0, "more than 0"),
        ("cache_ttl", -1.5, "more than 0"),
        ("cache_ttl", "60", "number"),
        ("cache_ttl", True, "number"),
        ("cache_pin", 1, "true or false"),
        ("cache_store", "no", "true or false"),
        ("cache_tll", 5, "cache_ttl"),
    ],
)
def test_wrong_values_are_refused_by_name(serve, path, body, field, value, says):
    running = serve()
    reply = running.post(path, content=json.dumps(body | {field: value}))  # httpx refuses \ud800
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == field
    assert says in error["message"], error
    assert not running.engine.submitted
