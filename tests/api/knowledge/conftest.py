"""A server over the fake engine with a knowledge base, and one client a key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

pytest.importorskip("dulwich")
pytest.importorskip("sqlglot")

from tests.api.fake_engine import FakeEngine, FakeInfo
from tests.api.running import Running, start_server

KEYS = [
    "shop:k-app user=app roles=propose",
    "shop:k-ann user=ann roles=propose,confirm",
    "shop:k-bob user=bob roles=confirm,propose",
    "shop:k-eve user=eve roles=release,erase,propose",
    "shop:k-read user=rex",
    "rival:k-rival user=mal roles=propose,confirm,release,erase",
]
GOTCHA = {"kind": "gotcha", "payload": {"about": "orders.status", "rule": "stale; use state"}}
METRIC = {
    "kind": "metric",
    "payload": {"name": "turnover", "expression": "sum(total)", "table": "orders"},
}
ASK = "turnover by status of orders?"

HTTP = httpx.Client(
    trust_env=False, timeout=60, limits=httpx.Limits(max_keepalive_connections=0), verify=False
)
"""Making one costs more than a call."""


@dataclass
class Client:
    """Calls of one key."""

    root: str
    key: str

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}"}
        url = f"{self.root}/v1/knowledge/{path}"
        return HTTP.request(method, url, json=body, headers=headers)

    def get(self, path: str) -> Any:
        reply = self.call("GET", path)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def post(self, path: str, body: Any = None, *, status: int = 200) -> Any:
        reply = self.call("POST", path, body)
        assert reply.status_code == status, reply.text
        return reply.json()

    def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        reply = self.call(method, path, body)
        return reply.status_code, reply.json()["error"]["code"]

    def propose(self, entry: Any = GOTCHA) -> str:
        return str(self.post("entries", entry, status=201)["id"])

    def chat(self, question: Any = ASK, **knowledge: Any) -> dict[str, Any]:
        """The whole reply. `question`: a text or messages."""
        messages = question
        if isinstance(question, str):
            messages = [{"role": "user", "content": question}]
        body = {"messages": messages, "max_tokens": 2, "temperature": 0, "knowledge": knowledge}
        headers = {"authorization": f"Bearer {self.key}"}
        reply = HTTP.post(f"{self.root}/v1/chat/completions", json=body, headers=headers)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())


@dataclass
class Shop:
    """A server and its keys."""

    running: Running

    def __getattr__(self, name: str) -> Client:
        return Client(self.running.root, f"k-{name}")

    def prompt(self) -> str:
        """The last prompt that the engine was given."""
        ids = self.running.engine.submitted[-1].prompt_token_ids
        return str(self.running.engine.tokenizer.decode(ids))


class LongEngine(FakeEngine):
    """Takes prompts that hold packs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.info = FakeInfo(max_model_len=16384)


@pytest.fixture
def open_shop(tmp_path) -> Iterator[Callable[..., Shop]]:
    """open_shop(**settings of [knowledge]) -> Shop."""
    started: list[Running] = []

    def start(**settings: Any) -> Shop:
        chosen = {"folder": str(tmp_path / "kb"), "capture": "quarantine"} | settings
        started.append(start_server(LongEngine(), api_keys=KEYS, knowledge=chosen))
        return Shop(started[-1])

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def shop(open_shop) -> Shop:
    return open_shop()


@pytest.fixture(scope="module")
def one_shop(tmp_path_factory) -> Iterator[Shop]:
    """One for tests that change nothing."""
    folder = str(tmp_path_factory.mktemp("kb"))
    chosen = {"folder": folder, "capture": "quarantine"}
    running = start_server(LongEngine(), api_keys=KEYS, knowledge=chosen)
    yield Shop(running)
    running.stop()


@pytest.fixture(scope="session")
def driver(tmp_path_factory) -> Iterator[Any]:
    """One browser for all tests of the page."""
    from tests.api.knowledge.browser import chromium

    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(driver, shop) -> Iterator[Any]:
    """The page of the shop's server, which must not complain."""
    from tests.api.knowledge.browser import Page

    page = Page(driver, shop.running.root)
    yield page
    assert page.complaints() == []
