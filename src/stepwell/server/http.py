"""One HTTP exchange over raw ASGI: bounded body, JSON reply or event stream, disconnect.

No framework: a handful of fixed paths needs none, and the streaming path is the server's hottest.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from stepwell.base.errors import BodyTooLarge, RequestError, StepwellError
from stepwell.server.errors import error_body, error_headers, http_status

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON = ((b"content-type", b"application/json"),)
_EVENTS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies such as nginx would otherwise collect chunks
)
_DONE = b"data: [DONE]\n\n"


class Exchange:
    """A request and its one reply. `status` is 0 until the reply has started."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: str = scope.get("query_string", b"").decode("latin-1")
        self.status = 0
        self.reply_id = ""
        self._headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self._receive = receive
        self._send = send

    def header(self, name: str) -> str | None:
        """First value of a header (lower-case name), as Latin-1 text."""
        wanted = name.encode("latin-1")
        for key, value in self._headers:
            if key == wanted:
                return value.decode("latin-1")
        return None

    async def body(self, *, limit: int) -> bytes:
        """The whole body, at most `limit` bytes, told by its header or counted as it comes.

        Raises BodyTooLarge, and RequestError when the client left in the middle.
        """
        declared = self.header("content-length") or "0"
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise RequestError("the client left before the body was complete.")
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def disconnected(self) -> None:
        """Returns when the client has left. Call after the body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def reply_json(
        self, payload: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """The whole reply as JSON."""
        text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
        await self.reply(text.encode(), status=status, content_headers=_JSON, headers=headers)

    async def reply_error(self, error: StepwellError, *, retry_after: float | None = None) -> None:
        """The whole reply as an error in OpenAI's shape; inside a stream, as its last event."""
        if self.status:
            await self.write(event(error_body(error)))
            await self.end_events()
            return
        headers = error_headers(error, retry_after=retry_after)
        if isinstance(error, BodyTooLarge):
            headers["connection"] = "close"  # the rest of the body is not read
        await self.reply_json(error_body(error), status=http_status(error), headers=headers)

    async def reply(
        self,
        body: bytes,
        *,
        status: int,
        content_headers: tuple[tuple[bytes, bytes], ...],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """The whole reply as bytes."""
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, [*content_headers, length], headers)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def start_events(self) -> None:
        """Begin a stream of server-sent events."""
        await self._start(200, list(_EVENTS), None)

    async def write(self, data: bytes) -> None:
        """Send bytes of a started stream; waits when the client reads slowly."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_events(self) -> None:
        """The closing event, and the end of the reply."""
        await self._send({"type": "http.response.body", "body": _DONE, "more_body": False})

    async def _start(
        self,
        status: int,
        content_headers: list[tuple[bytes, bytes]],
        headers: Mapping[str, str] | None,
    ) -> None:
        self.status = int(status)
        extra = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in (headers or {}).items()]
        if self.reply_id:
            extra.append((b"x-request-id", self.reply_id.encode("latin-1")))
        await self._send(
            {
                "type": "http.response.start",
                "status": int(status),
                "headers": [*content_headers, *extra],
            }
        )


def event(payload: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body exceeds {limit} bytes.", hint="Shorten it, or raise server.max_body."
    )
