"""Keys, tenants, limits, and what is open."""

from __future__ import annotations

import logging

import openai
import pytest

from stepwell.base.config import load_config
from stepwell.base.errors import ConfigError
from stepwell.server.lifecycle import check_settings

KEYS = {"api_keys": ["ada:secret-ada", "bob:secret-bob", "secret-alone"]}
LONG_PROMPT = "x" * 200


def complete(running, key, **fields):
    client = running.openai(key)
    return client.completions.create(model="fake", **({"prompt": "a", "max_tokens": 1} | fields))


def test_keys_are_asked_for_everywhere_but_health(serve):
    running = serve(**KEYS)
    for path in ("/v1/models", "/metrics", "/v1/nothing"):
        reply = running.get(path)
        assert reply.status_code == (404 if path == "/v1/nothing" else 401), path
    assert running.get("/v1/models").json()["error"]["code"] == "invalid_api_key"
    assert running.get("/v1/models").headers["www-authenticate"] == "Bearer"
    assert running.post("/v1/completions", {"prompt": "a"}).status_code == 401
    assert running.post("/invocations", {"prompt": "a"}).status_code == 401
    assert running.get("/health").status_code == running.get("/ping").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
def test_without_keys_only_this_machine_may_be_named(serve, host):
    running = serve()
    reply = running.get("/v1/models", headers={"host": host})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "untrusted_host")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000"])
def test_without_keys_loopback_names_are_fine(serve, host):
    assert serve().get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil:80"])
def test_without_keys_nothing_is_taken_from_pages_of_other_sites(serve, origin):
    reply = serve().post("/v1/completions", {"prompt": "a"}, headers={"origin": origin})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "untrusted_host")


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:80"])
def test_without_keys_pages_of_this_machine_are_fine(serve, origin):
    assert serve().get("/v1/models", headers={"origin": origin}).status_code == 200


def test_with_keys_any_name_is_fine(serve):
    headers = {"host": "models.example", "authorization": "Bearer secret-ada"}
    assert serve(**KEYS).get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("key", ["wrong", "SECRET-ADA", "ada:secret-ada", "secret", "ä"])
def test_wrong_keys(serve, key):
    running = serve(**KEYS)
    headers = {b"authorization": f"Bearer {key}".encode()}
    assert running.get("/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize("header", ["", "Bearer", "Basic secret-ada", "secret-ada"])
def test_malformed_authorization(serve, header):
    running = serve(**KEYS)
    assert running.get("/v1/models", headers={"authorization": header}).status_code == 401


def test_tenants_share_no_cached_tokens(serve):
    running = serve(**KEYS)
    for key in ("secret-ada", "secret-bob", "secret-alone"):
        first = complete(running, key, prompt=LONG_PROMPT)
        again = complete(running, key, prompt=LONG_PROMPT)
        assert first.usage.prompt_tokens_details.cached_tokens == 0
        assert again.usage.prompt_tokens_details.cached_tokens == 192
    tenants = {request.tenant for request in running.engine.submitted}
    assert {"ada", "bob"} < tenants and len(tenants) == 3


def test_keys_reach_neither_logs_nor_replies(serve, caplog):
    caplog.set_level(logging.DEBUG)
    running = serve(**KEYS)
    complete(running, "secret-ada")
    with pytest.raises(openai.AuthenticationError) as caught:
        complete(running, "secret-typo")
    seen = (
        caplog.text
        + str(caught.value)
        + running.get("/metrics", headers={"authorization": "Bearer secret-bob"}).text
    )
    assert "stepwell" in seen
    own = "".join(r.getMessage() for r in caplog.records if r.name.startswith(("stepwell", "uvi")))
    for key in ("secret-ada", "secret-bob", "secret-typo"):
        assert key not in own and key not in str(caught.value)


def test_requests_per_minute_per_tenant(serve):
    running = serve(**KEYS, requests_per_minute=2)
    complete(running, "secret-ada")
    complete(running, "secret-ada")
    with pytest.raises(openai.RateLimitError) as caught:
        complete(running, "secret-ada")
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 31
    complete(running, "secret-bob")


def test_tokens_per_minute_count_the_output(serve):
    running = serve(tokens_per_minute=100)
    complete(running, "none", max_tokens=300)
    with pytest.raises(openai.RateLimitError) as caught:
        complete(running, "none")
    # 300 output and 2 prompt tokens on an allowance of 100: about two minutes to wait.
    assert 100 <= int(caught.value.response.headers["retry-after"]) <= 130


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_other_addresses_need_a_key(host):
    config = load_config(None, {"server.host": host})
    with pytest.raises(ConfigError) as caught:
        check_settings(config)
    assert caught.value.param == "server.host"
    with_key = load_config(None, {"server.host": host, "server.api_keys": ["t:k"]})
    assert len(check_settings(with_key)) == 1
    assert len(check_settings(config, sagemaker=True)) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_none(host):
    assert len(check_settings(load_config(None, {"server.host": host}))) == 0


def test_keys_from_a_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# team\nada:one\n\n two \n")
    ring = check_settings(load_config(None, {"server.api_keys_file": str(file)}))
    assert ring.caller_of("Bearer one").tenant == "ada"
    assert ring.caller_of("bearer two").tenant.startswith("key-")
    file.write_text("# nothing\n")
    with pytest.raises(ConfigError):
        check_settings(load_config(None, {"server.api_keys_file": str(file)}))
    with pytest.raises(ConfigError):
        check_settings(load_config(None, {"server.api_keys_file": str(tmp_path / "none")}))
