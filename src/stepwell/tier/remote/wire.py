"""The server's protocol where it carries values: gathered sends, scattered receives.

redis-py opens, authenticates, encrypts and pools the connections, and everything small goes
through its client. Values do not: its parser collects a reply in pieces of 32 KiB and copies it
three times. Here the bytes of a value go from the socket straight into the caller's buffers.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from stepwell.tier.contract import Buffer

_LINE_BYTES = 64 << 10  # longest line, and what is read ahead at most


class ProtocolError(OSError):
    """The server sent what this code does not understand; the connection is of no use."""


class ServerError(OSError):
    """The server refused a command. `code`: the first word of its message."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.split(" ", 1)[0]


def pack_gathered(
    before: Sequence[bytes], value: Sequence[bytes | Buffer], after: Sequence[bytes]
) -> list[bytes | Buffer]:
    """A command whose arguments are `before`, one argument made of the `value` parts, and `after`,
    as pieces to send. Large parts are not copied; the first, small one travels with the start."""
    count = len(before) + 1 + len(after)
    size = sum(len(part) for part in value)
    start = b"*%d\r\n%s$%d\r\n" % (count, _bulk(before), size)
    end = b"\r\n" + _bulk(after)
    return [start + bytes(value[0]), *value[1:], end]


def pack(*arguments: bytes) -> bytes:
    """A small command."""
    return b"*%d\r\n%s" % (len(arguments), _bulk(arguments))


def _bulk(arguments: Sequence[bytes]) -> bytes:
    return b"".join(b"$%d\r\n%s\r\n" % (len(item), item) for item in arguments)


def socket_of(connection: Any) -> socket.socket:
    """The connected socket of a redis-py connection. redis-py 8 has no public way to it; hence the
    bound on its version in pyproject.toml."""
    found = getattr(connection, "_sock", None)
    if found is None:
        raise ProtocolError("this release of redis-py does not show its socket")
    return found


class Replies:
    """Reads the replies of one exchange on one connection. Raises OSError: then the connection
    must be closed, since the next reply would be read amiss."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._ahead = bytearray(_LINE_BYTES)
        self._view = memoryview(self._ahead)
        self._start = self._end = 0

    def bulk_size(self) -> int | None:
        """The size of the bulk reply that begins here, None for "no such key"."""
        line = self._line()
        if line[:1] != b"$":
            raise ProtocolError(f"a reply begins with {line[:16]!r}")
        if line == b"$-1":
            return None
        if not line[1:].isdigit():
            raise ProtocolError(f"{line[:16]!r} is no size")
        return int(line[1:])

    def status(self) -> bytes:
        """A status or an integer."""
        line = self._line()
        if line[:1] not in (b"+", b":"):
            raise ProtocolError(f"a reply begins with {line[:16]!r}")
        return line[1:]

    def into(self, out: Buffer) -> None:
        """The next bytes, as many as `out` has."""
        ready = min(len(out), self._end - self._start)
        out[:ready] = self._view[self._start : self._start + ready]
        self._start += ready
        while ready < len(out):
            count = self._socket.recv_into(out[ready:])
            if not count:
                raise ConnectionError("the server closed the connection")
            ready += count

    def skip(self, size: int) -> None:
        """Drop the next bytes."""
        waste = memoryview(bytearray(min(size, _LINE_BYTES)))
        while size:
            step = min(size, len(waste))
            self.into(waste[:step])
            size -= step

    def end_bulk(self) -> None:
        """What follows the bytes of a bulk reply."""
        end = memoryview(bytearray(2))
        self.into(end)
        if bytes(end) != b"\r\n":
            raise ProtocolError("a reply is longer than it said")

    def _line(self) -> bytes:
        """One line without its end. Raises ServerError if the server reports one. What is read
        beyond the line is kept; little is read, so that values need not be copied from there."""
        while (at := self._ahead.find(b"\r\n", self._start, self._end)) < 0:
            if self._start:
                kept = bytes(self._view[self._start : self._end])
                self._ahead[: len(kept)] = kept
                self._start, self._end = 0, len(kept)
            limit = min(self._end + 256, _LINE_BYTES)
            count = self._socket.recv_into(self._view[self._end : limit]) if limit else 0
            if not count:
                raise ConnectionError("the server closed the connection within a line")
            self._end += count
        line = bytes(self._view[self._start : at])
        self._start = at + 2
        if line[:1] == b"-":
            raise ServerError(line[1:].decode("utf-8", "replace"))
        return line
