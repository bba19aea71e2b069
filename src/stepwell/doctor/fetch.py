"""Reading a live server: its metrics page and what it says of its model. Changes nothing there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from stepwell.base.errors import ConfigError
from stepwell.doctor.alias import Engine, detect, prefixes
from stepwell.doctor.errors import MetricsRefused, NotMetrics, ServerUnreachable, UnknownEngine
from stepwell.doctor.page import Page, read_page
from stepwell.doctor.reading import Reading, read
from stepwell.doctor.window import Window, make_window

_PAGE = "/metrics"
_ENGINES = "Stepwell, vLLM, SGLang (with --enable-metrics), TGI, LMCache"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the server says of its model; empty and None where it does not say. `root`: where its
    weights come from. `max_model_len`: tokens."""

    name: str = ""
    root: str = ""
    max_model_len: int | None = None


class Server:
    """One server. `url`: its root, an address that ends with /v1, or that of a metrics page."""

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 5.0
    ) -> None:
        if "://" not in url:
            url = f"http://{url}"
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is not a web address.", hint="Write http://HOST:PORT.")
        base = url.rstrip("/")
        self.page_url = base if base.endswith(_PAGE) else base.removesuffix("/v1") + _PAGE
        self.root = self.page_url.removesuffix(_PAGE)
        self._client = httpx.Client(
            headers=dict(headers or {}), trust_env=False, timeout=timeout, follow_redirects=True
        )

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def page(self) -> Page:
        """The metrics page. Raises DoctorError."""
        reply = self._get(self.page_url)
        if reply.status_code in (401, 403):
            raise MetricsRefused(
                f"{self.page_url} wants a key (HTTP {reply.status_code}).",
                hint="Give one with --api-key KEY or --header 'Name: value'.",
            )
        if reply.status_code != 200:
            raise MetricsRefused(
                f"{self.page_url} answers HTTP {reply.status_code}.",
                hint="Name the page itself if it has another path; SGLang has one only with "
                "--enable-metrics.",
            )
        page = read_page(reply.text)
        if not page.samples:
            raise NotMetrics(
                f"what {self.page_url} answers is not in Prometheus' text format.",
                hint="Name the server's root or its metrics page.",
            )
        return page

    def engine(self, page: Page) -> Engine:
        """Whose page it is. Raises UnknownEngine."""
        engine = detect(page)
        if engine is None:
            found = ", ".join(prefixes(page)[:8]) or "nothing but the process"
            raise UnknownEngine(
                f"the metrics of {self.page_url} are of no engine that is known here ({found}).",
                hint=f"Known: {_ENGINES}. Name the engine's own page, not a proxy's; else send "
                "us the page.",
            )
        return engine

    def model(self) -> ModelCard:
        """From /v1/models, or TGI's /info; an empty card where neither answers."""
        card = self._json("/v1/models")
        rows = card.get("data") if isinstance(card, dict) else None
        if isinstance(rows, list) and rows and isinstance(rows[0], dict):
            row = rows[0]
            return ModelCard(_text(row, "id"), _text(row, "root"), _count(row, "max_model_len"))
        info = self._json("/info")
        if isinstance(info, dict):
            name = _text(info, "model_id")
            return ModelCard(name, name, _count(info, "max_total_tokens"))
        return ModelCard()

    def json(self, path: str) -> Any:
        """What a path answers as JSON; None where it does not."""
        return self._json(path)

    def debug_memory(self) -> Mapping[str, Any] | None:
        """Live tensors and large containers, from /debug/memory; None where there is no such
        page (Stepwell has one with `server.debug`)."""
        found = self._json("/debug/memory")
        return found if isinstance(found, dict) else None

    def watch(
        self, *, seconds: float, every: float, on_look: Callable[[float], None] | None = None
    ) -> Window:
        """Readings over `seconds`, one each `every` seconds and at least two. A look that fails
        after the first is counted as missed. Raises DoctorError."""
        page = self.page()
        engine = self.engine(page)
        start = time.monotonic()
        readings = [read(page, engine, at=start, wall=time.time())]
        missed = 0
        for due in _moments(seconds, every):
            time.sleep(max(0.0, start + due - time.monotonic()))
            try:
                readings.append(self._look(engine))
            except (ServerUnreachable, MetricsRefused, NotMetrics):
                missed += 1
            if on_look is not None:
                on_look(due)
        return make_window(readings, missed=missed)

    def answers(self) -> bool:
        """Whether /health answers at all."""
        try:
            return self._client.get(self.root + "/health").status_code < 500
        except httpx.HTTPError:
            return False

    def _look(self, engine: Engine) -> Reading:
        page = self.page()
        return read(page, engine, at=time.monotonic(), wall=time.time())

    def _get(self, url: str) -> httpx.Response:
        try:
            return self._client.get(url)
        except httpx.TimeoutException as error:
            hint = "Is the address right? Give it more time with --timeout."
            if self.answers():
                hint = "The server itself answers, so its engine may hang: look at its log."
            raise ServerUnreachable(f"{url} did not answer in time.", hint=hint) from error
        except httpx.HTTPError as error:
            raise ServerUnreachable(
                f"no answer from {url}: {error or type(error).__name__}.",
                hint="Is the server running, and the address right?",
            ) from error

    def _json(self, path: str) -> Any:
        try:
            reply = self._client.get(self.root + path)
            return reply.json() if reply.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            return None


@contextmanager
def connected(
    url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 5.0
) -> Iterator[Server]:
    """A server that is let go of at the end. Raises ConfigError for what is no address."""
    server = Server(url, headers=headers, timeout=timeout)
    try:
        yield server
    finally:
        server.close()


def _moments(seconds: float, every: float) -> list[float]:
    """When to look again, in seconds from the first look."""
    count = max(1, round(seconds / every)) if every > 0 else 1
    return [seconds * (i + 1) / count for i in range(count)]


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else ""


def _count(row: Mapping[str, Any], key: str) -> int | None:
    value = row.get(key)
    return value if isinstance(value, int) and value > 0 else None
