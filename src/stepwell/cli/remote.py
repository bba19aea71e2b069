"""A client of the HTTP API: streamed chat turns with their timing, and the metrics page."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from stepwell.base.errors import StepwellError

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})? (\S+)$")
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 600.0


class RemoteError(StepwellError):
    """The server refused or could not be reached; `code` is the server's own."""

    def __init__(self, message: str, *, code: str = "server_unreachable", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(frozen=True, slots=True)
class TurnStats:
    """One answer: tokens, and seconds from sending to the first text and to the end."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    first_token: float
    total: float

    @property
    def tokens_per_second(self) -> float:
        """Output tokens after the first, per second."""
        seconds = self.total - self.first_token
        return (self.output_tokens - 1) / seconds if seconds > 0 and self.output_tokens > 1 else 0.0


class RemoteChat:
    """Chat turns against a running server. `url` ends with /v1."""

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        base = url.rstrip("/")
        self._root = base.removesuffix("/v1")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(
            headers=headers,
            trust_env=False,
            timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
        )
        self.stats: TurnStats | None = None

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def model(self) -> str:
        """Name of the served model."""
        reply = self._get("/v1/models")
        return str(reply.json()["data"][0]["id"])

    def metrics_page(self) -> str:
        """Text of /metrics. Raises RemoteError."""
        return str(self._get("/metrics").text)

    def metrics(self) -> dict[str, float]:
        """Samples of /metrics by name, those with several labels summed."""
        found: dict[str, float] = {}
        for line in self.metrics_page().splitlines():
            match = _SAMPLE.match(line)
            if match is not None:
                found[match[1]] = found.get(match[1], 0.0) + float(match[2])
        return found

    def turn(self, messages: list[dict[str, str]], **fields: Any) -> Generator[str, None, None]:
        """Texts of an answer as they come; afterwards `stats` is set. Raises RemoteError."""
        body = {"messages": messages, "stream": True, **fields}
        body["stream_options"] = {"include_usage": True}
        start = time.perf_counter()
        first = 0.0
        usage: dict[str, Any] = {}
        try:
            url = self._root + "/v1/chat/completions"
            with self._client.stream("POST", url, json=body) as reply:
                _check(reply)
                for payload in _events(reply):
                    usage = payload.get("usage") or usage
                    text = _text(payload)
                    if text and not first:
                        first = time.perf_counter() - start
                    if text:
                        yield text
        except httpx.HTTPError as error:
            raise _unreachable(self._root, error) from error
        total = time.perf_counter() - start
        self.stats = TurnStats(
            prompt_tokens=usage.get("prompt_tokens", 0),
            cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
            output_tokens=usage.get("completion_tokens", 0),
            first_token=first or total,
            total=total,
        )

    def _get(self, path: str) -> httpx.Response:
        try:
            reply = self._client.get(self._root + path)
        except httpx.HTTPError as error:
            raise _unreachable(self._root, error) from error
        _check(reply)
        return reply


def _events(reply: httpx.Response) -> Iterator[dict[str, Any]]:
    """Payloads of server-sent events up to [DONE]. Raises RemoteError for an error event."""
    for line in reply.iter_lines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        payload = json.loads(line.removeprefix("data: "))
        if "error" in payload:
            raise _refusal(payload)
        yield payload


def _text(payload: dict[str, Any]) -> str:
    choices = payload.get("choices") or []
    return (choices[0]["delta"].get("content") or "") if choices else ""


def _check(reply: httpx.Response) -> None:
    if reply.status_code == 200:
        return
    reply.read()
    try:
        payload = reply.json()
    except ValueError:
        payload = None
    if not isinstance(payload, dict) or "error" not in payload:
        raise RemoteError(f"HTTP {reply.status_code} from {reply.url}.", code="http_error")
    raise _refusal(payload)


def _refusal(payload: dict[str, Any]) -> RemoteError:
    error = payload["error"]
    return RemoteError(str(error.get("message")), code=str(error.get("code") or "server_error"))


def _unreachable(root: str, error: httpx.HTTPError) -> RemoteError:
    return RemoteError(
        f"no answer from {root}: {error or type(error).__name__}.", hint="Is the server running?"
    )
