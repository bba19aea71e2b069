"""A key's workload class: from the keys file, over HTTP, to the tier that the context goes to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell.base.config import load_config
from stepwell.base.errors import ConfigError
from stepwell.base.hierarchy import WorkloadClass
from stepwell.cli.tier_report import read_report
from stepwell.server.lifecycle import check_settings
from tests.api.conftest import HOUSE, Running, start_server
from tests.api.running import wait_until

KEYS = "# who may call\nada:k-ada\nada:k-night workload=batch\n\nk-alone workload=document\n"


@pytest.fixture
def keys_file(tmp_path: Path) -> str:
    path = tmp_path / "keys.txt"
    path.write_text(KEYS)
    return str(path)


@pytest.mark.parametrize(
    ("key", "field", "expected"),
    [
        ("k-ada", None, None),
        ("k-night", None, WorkloadClass.BATCH),
        ("k-alone", None, WorkloadClass.DOCUMENT),
        ("k-ada", "code", WorkloadClass.CODE),
        ("k-night", "chat", WorkloadClass.CHAT),
    ],
)
def test_the_field_goes_before_the_key(serve, keys_file, key, field, expected):
    running = serve(api_keys_file=keys_file)
    for path, body in (
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    ):
        body |= {"max_tokens": 1, "workload": field}
        headers = {"authorization": f"Bearer {key}"}
        assert running.post(path, body, headers=headers).status_code == 200
    assert [request.workload for request in running.engine.submitted] == [expected] * 2


def test_keys_of_one_tenant_share_its_context(serve, keys_file):
    running = serve(api_keys_file=keys_file)
    body = {"prompt": "x" * 200, "max_tokens": 1}
    cached = []
    for key in ("k-ada", "k-night"):
        reply = running.post("/v1/completions", body, headers={"authorization": f"Bearer {key}"})
        cached.append(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached == [0, 192]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("ada:k-secret workload=chatty", ("'chatty'", "chat, document, code, batch")),
        ("ada:k-secret workload=", ("''", "chat, document, code, batch")),
        ("k-secret workload=Batch", ("'Batch'", "chat, document, code, batch")),
        ("ada:k-secret worklod=batch", ("more than a key", "workload=batch")),
        ("ada:k-secret workload=chat workload=code", ("more than a key", "workload=batch")),
        ("ada: workload=batch", ("empty", "tenant:key")),
        (":k-secret", ("empty", "tenant:key")),
    ],
)
def test_what_cannot_be_read_is_refused_at_the_start(tmp_path, entry, says):
    file = tmp_path / "keys.txt"
    file.write_text(f"# comment\nbob:fine\n{entry}\n")
    for settings, place in (
        ({"server.api_keys_file": str(file)}, "keys.txt, line 3"),
        ({"server.api_keys": ["bob:fine", entry]}, "server.api_keys, entry 2"),
    ):
        with pytest.raises(ConfigError) as caught:
            check_settings(load_config(None, settings))
        text = f"{caught.value} {caught.value.hint}"
        assert place in text and "secret" not in text
        assert all(word in text for word in says), text


@pytest.fixture
def tiered(tmp_path: Path, keys_file: str) -> Iterator[Running]:
    """The house model with a host and a disk tier."""
    if not (HOUSE / "model.safetensors").exists():
        pytest.skip("models/house has not been trained yet")
    pytest.importorskip("torch")
    from stepwell.engine.loop import build_engine_loop

    overrides: dict[str, Any] = {
        "model.path": str(HOUSE), "cache.pool": "64MiB", "tiers.host": "64MiB",
        "tiers.disk": str(tmp_path / "disk"), "tiers.disk_capacity": "256MiB",
    }  # fmt: skip
    running = start_server(build_engine_loop(load_config(None, overrides)), api_keys_file=keys_file)
    yield running
    running.stop()


def stored(running: Running) -> dict[str, float]:
    """Bytes that each tier has been given."""
    page = running.get("/metrics", headers={"authorization": "Bearer k-ada"}).text
    return {name: of["stored_bytes"] for name, of in read_report(page).tiers.items()}


def went_to(running: Running, before: dict[str, float]) -> set[str]:
    """The tiers that have been given more since."""
    return {name for name, size in stored(running).items() if size > before[name]}


def open_orders(running: Running) -> int:
    """Stores that have not ended."""
    tiers = running.engine.stats().tiers
    assert tiers is not None
    return int(tiers.open_orders)


def test_context_goes_where_the_keys_class_belongs(tiered):
    cases = [
        ("k-ada", {}, {"host"}),
        ("k-night", {}, {"disk"}),
        ("k-night", {"workload": "code"}, {"host", "disk"}),
    ]
    for number, (key, fields, wanted) in enumerate(cases):
        before = stored(tiered)

        def arrived(before: dict[str, float] = before, wanted: set[str] = wanted) -> bool:
            return went_to(tiered, before) >= wanted and not open_orders(tiered)

        body = {"prompt": f"{number} " + "word " * 400, "max_tokens": 2} | fields
        headers = {"authorization": f"Bearer {key}"}
        reply = tiered.post("/v1/completions", body, headers=headers)
        assert reply.status_code == 200, reply.text
        wait_until(arrived)
        time.sleep(0.5)  # in which it would have gone elsewhere, too
        wait_until(lambda: not open_orders(tiered))
        assert went_to(tiered, before) == wanted
