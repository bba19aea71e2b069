"""A streaming completions client that costs little: it shares the cores with what it measures.

Speaks HTTP/1.1 on reused connections and looks at no more of an event than it needs: when it came,
whether it carries a choice, and the usage at the end. A general client library spends more time
on an event than the server does.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from stepwell.base.errors import ConfigError

_LIMIT = 1 << 20
_DONE = b"data: [DONE]"
_NO_CHOICES = b'"choices":[]'


class BadReply(Exception):
    """The server answered something other than a stream of events."""


@dataclass(slots=True)
class Stream:
    """What one reply brought: moments of its events (event loop's clock) and its usage."""

    times: list[float]
    output_tokens: int = 0
    cached_tokens: int = 0


class StreamClient:
    """Connections to one server. `base`: up to and including `/v1`."""

    def __init__(self, base: str, *, model: str, api_key: str = "") -> None:
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{base!r} is no HTTP address.", param="url")
        self._host = parts.hostname
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/")
        self._model = model
        self._key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def complete(self, prompt: tuple[int, ...], max_tokens: int) -> Stream:
        """One streamed completion of token ids, greedy, past any end token. Raises BadReply or
        OSError."""
        body = json.dumps({
            "model": self._model, "prompt": list(prompt), "max_tokens": max_tokens,
            "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True},
        }, separators=(",", ":")).encode()  # fmt: skip
        reader, writer = await self._connection()
        try:
            writer.write(self._head(len(body)) + body)
            await writer.drain()
            stream, reusable = await _read(reader)
        except BaseException:
            writer.close()
            raise
        if reusable:
            self._idle.append((reader, writer))
        else:
            writer.close()
        return stream

    async def close(self) -> None:
        """Close idle connections."""
        while self._idle:
            self._idle.pop()[1].close()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
        return await asyncio.open_connection(self._host, self._port, ssl=self._tls, limit=_LIMIT)

    def _head(self, length: int) -> bytes:
        return (
            f"POST {self._path}/completions HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n{self._key}\r\n"
        ).encode("ascii")


async def _read(reader: asyncio.StreamReader) -> tuple[Stream, bool]:
    """The reply, and whether its connection can be used again."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise BadReply("the connection was closed without a reply") from error
    lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip().lower()
    reusable = headers.get("connection") != "close"
    status = lines[0].split(" ", 2)[1]
    if status != "200":
        text = await reader.read(2000) if reusable else await reader.read()
        raise BadReply(f"HTTP {status}: {text[:300].decode(errors='replace')}")
    if headers.get("transfer-encoding") != "chunked":
        raise BadReply("the reply is not streamed")
    return await _events(reader), reusable


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body's pieces as they come (HTTP's chunked coding)."""
    try:
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            data = await reader.readexactly(size + 2)
            yield data[:-2]
        await reader.readuntil(b"\r\n")
    except asyncio.IncompleteReadError as error:
        raise BadReply("the stream broke off") from error


async def _events(reader: asyncio.StreamReader) -> Stream:
    """Server-sent events until `[DONE]`."""
    clock = asyncio.get_running_loop().time
    stream = Stream([])
    rest, last, done = b"", b"", False
    async for data in _chunks(reader):
        now = clock()
        *events, rest = (rest + data).split(b"\n\n")
        for event in events:
            if event == _DONE:
                done = True
            elif _NO_CHOICES in event:
                last = event
            elif event.startswith(b"data: {"):
                if b'"error":' in event:
                    raise BadReply(event.decode(errors="replace"))
                stream.times.append(now)
    if not done:
        raise BadReply("the stream ended without [DONE]")
    usage: dict[str, Any] = json.loads(last.removeprefix(b"data: "))["usage"] if last else {}
    stream.output_tokens = int(usage.get("completion_tokens", len(stream.times)))
    details = usage.get("prompt_tokens_details") or {}
    stream.cached_tokens = int(details.get("cached_tokens", 0))
    return stream
