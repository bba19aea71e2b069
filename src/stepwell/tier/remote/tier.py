"""RemoteTier: one key per chunk on a Valkey or Redis server; the value is the chunk's frame.

The frame holds the chunk's key, so a value that was filed under a wrong name, or a reply that
belongs to another command, does not verify. A value that does not verify is deleted. Commands are
idempotent: one that finds its pooled connection dead is sent once more on a new one; one that
times out is not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stepwell.base.errors import ConfigError
from stepwell.codec.buffers import flat_views, total_bytes
from stepwell.tier.contract import (
    KEY_BYTES,
    Buffer,
    Doomed,
    ReadOutcome,
    StoredChunk,
    TierUsage,
    WriteOutcome,
)
from stepwell.tier.frame import (
    HEADER_BYTES,
    FrameFault,
    FrameHeader,
    build_header,
    check_body,
    parse_header,
)
from stepwell.tier.remote.config import RemoteConfig
from stepwell.tier.remote.wire import Replies, ServerError, pack, pack_gathered, socket_of

_Answer = TypeVar("_Answer")
_DELETE_AT_ONCE = 512
_META_BYTES = 256  # as much of a meta as is looked at


class RemoteTier:
    """A shared tier: other processes read, write and delete the same entries.

    All calls raise OSError (TimeoutError, ConnectionError, ...) when the server cannot be reached,
    does not answer in time or refuses. `usage().capacity` is 0: the memory is the server's.
    """

    def __init__(self, config: RemoteConfig) -> None:
        """Connects at the first call, not here. ConfigError for a URL that cannot be read."""
        self._config = config
        self._prefix = config.prefix.encode()
        self._client = _client(config)
        self._lock = threading.Lock()
        self._usage = TierUsage(capacity=0, used=0, chunks=0)
        self._closed = False

    def read(self, key: bytes, out: Sequence[Buffer]) -> ReadOutcome:
        """Receive the value straight into `out` and verify it there."""
        return self.read_batch([key], [out])[0]

    def read_batch(
        self, keys: Sequence[bytes], outs: Sequence[Sequence[Buffer]]
    ) -> list[ReadOutcome]:
        """Ask for all, then receive all: the way to the server is waited for once."""
        views = [flat_views(out) for out in outs]
        commands = b"".join(pack(b"GET", self._name(key)) for key in keys)

        def exchange(connection: Any) -> list[ReadOutcome]:
            connection.send_packed_command([commands])
            replies = Replies(socket_of(connection))
            return [_receive(replies, key, out) for key, out in zip(keys, views, strict=True)]

        outcomes = self._exchange(exchange)
        bad = [k for k, o in zip(keys, outcomes, strict=True) if o is ReadOutcome.CORRUPT]
        self._count(reads=len(keys), corrupt=len(bad))
        if bad:
            self.delete(bad)
        return outcomes

    def write(self, key: bytes, parts: Sequence[Buffer], *, meta: bytes = b"") -> WriteOutcome:
        """Send the frame, unless the key is there already: then only its time to live begins anew.

        FULL when the server is out of memory and evicts nothing.
        """
        views = flat_views(parts)
        size = HEADER_BYTES + len(meta) + total_bytes(views)
        if size > self._config.max_value_bytes:
            raise OSError(f"{size} bytes are more than the network tier takes in one value")
        ttl = b"%d" % self._config.ttl_seconds
        touch = [b"EXPIRE", self._name(key), ttl] if self._config.ttl_seconds else None
        touch = touch or [b"EXISTS", self._name(key)]
        header = build_header(key=key, parts=views, meta=meta)
        expiry = [b"EX", ttl] if self._config.ttl_seconds else []
        command = pack_gathered([b"SET", self._name(key)], [header + meta, *views], expiry)

        def exchange(connection: Any) -> WriteOutcome:
            replies = Replies(socket_of(connection))
            connection.send_packed_command([pack(*touch)])
            if replies.status() != b"0":
                return WriteOutcome.PRESENT
            connection.send_packed_command(command)
            try:
                replies.status()
            except ServerError as error:
                if error.code == "OOM":
                    return WriteOutcome.FULL
                raise
            return WriteOutcome.STORED

        outcome = self._exchange(exchange)
        self._count(writes=outcome is WriteOutcome.STORED)
        return outcome

    def delete(self, keys: Iterable[bytes]) -> None:
        """Forget these, for everybody."""
        names = [self._name(key) for key in keys]
        with self._errors():
            for start in range(0, len(names), _DELETE_AT_ONCE):
                self._client.unlink(*names[start : start + _DELETE_AT_ONCE])

    def erase(self, keys: Iterable[bytes], *, also: Doomed | None = None) -> None:
        """Unlink these, for everybody; with `also`, walk over all that has our prefix. What the
        server has written to disk (RDB, AOF) is its own configuration's affair."""
        doomed = list(keys)
        if also is not None:
            with self._errors():
                names = list(
                    self._client.scan_iter(match=self._prefix + b"*", count=_DELETE_AT_ONCE)
                )
            found = [bytes.fromhex(name[len(self._prefix) :].decode()) for name in names]
            metas = self._metas(found)
            doomed += [key for key, meta in zip(found, metas, strict=True) if also(key, meta)]
        self.delete(doomed)

    def contains(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        """Which of these the server has, in one exchange."""
        if not keys:
            return frozenset()
        with self._errors():
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.exists(self._name(key))
            found = pipeline.execute()
        return frozenset(key for key, there in zip(keys, found, strict=True) if there)

    def size_of(self, key: bytes) -> int | None:
        """Bytes of the payload, by the frame's header."""
        return self.sizes_of([key])[0]

    def sizes_of(self, keys: Sequence[bytes]) -> list[int | None]:
        """Of all of them in one exchange."""
        with self._errors():
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.getrange(self._name(key), 0, HEADER_BYTES - 1)
            starts = pipeline.execute()
        headers = [parse_header(memoryview(start)) for start in starts]
        return [None if isinstance(h, FrameFault) else h.payload_size for h in headers]

    def scan(self) -> Iterator[StoredChunk]:
        """Nothing: what others keep there is not one process's to list. Ask `contains`."""
        return iter(())

    def flush(self) -> None:
        """Nothing: whether the server keeps what it has is its own configuration."""

    def usage(self) -> TierUsage:
        """This process's counters; capacity and use are the server's and are given as 0."""
        with self._lock:
            return self._usage

    def close(self) -> None:
        """Close the connections; later calls raise OSError."""
        self._closed = True
        self._client.close()

    def damage(self, key: bytes, *, at: int = 0) -> None:
        """Flip a bit of the stored payload, below verification: for fault injection only."""
        header = self._header(key)
        if header is None or not header.payload_size:
            return
        offset = HEADER_BYTES + header.meta_size + at % header.payload_size
        with self._errors():
            old = self._client.getrange(self._name(key), offset, offset)
            self._client.setrange(self._name(key), offset, bytes([old[0] ^ 1]))

    def _metas(self, keys: Sequence[bytes]) -> list[bytes]:
        """What each was written with; empty where nothing can be read."""
        starts: list[bytes] = []
        with self._errors():
            for at in range(0, len(keys), _DELETE_AT_ONCE):
                pipeline = self._client.pipeline(transaction=False)
                for key in keys[at : at + _DELETE_AT_ONCE]:
                    pipeline.getrange(self._name(key), 0, HEADER_BYTES + _META_BYTES - 1)
                starts += pipeline.execute()
        headers = [parse_header(memoryview(start)[:HEADER_BYTES]) for start in starts]
        return [
            b"" if isinstance(header, FrameFault)
            else bytes(start[HEADER_BYTES : HEADER_BYTES + header.meta_size])
            for start, header in zip(starts, headers, strict=True)
        ]  # fmt: skip

    def _header(self, key: bytes) -> FrameHeader | None:
        with self._errors():
            start = self._client.getrange(self._name(key), 0, HEADER_BYTES - 1)
        header = parse_header(start)
        return None if isinstance(header, FrameFault) else header

    def _name(self, key: bytes) -> bytes:
        if len(key) != KEY_BYTES:
            raise ValueError(f"keys have {KEY_BYTES} bytes")
        return self._prefix + key.hex().encode()

    def _exchange(self, exchange: Callable[[Any], _Answer]) -> _Answer:
        """Run it on a pooled connection, once more if that turns out to be dead."""
        try:
            return self._exchange_once(exchange)
        except ConnectionError:
            return self._exchange_once(exchange)

    def _exchange_once(self, exchange: Callable[[Any], _Answer]) -> _Answer:
        pool = self._client.connection_pool
        with self._errors():
            connection = pool.get_connection()
            try:
                return exchange(connection)
            except BaseException:
                connection.disconnect()  # replies may be left in it
                raise
            finally:
                pool.release(connection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """redis-py's errors as OSError."""
        if self._closed:
            raise OSError("the network tier is closed")
        try:
            yield
        except redis.exceptions.TimeoutError as error:
            raise TimeoutError(str(error)) from error
        except redis.exceptions.AuthenticationError as error:
            raise PermissionError(str(error)) from error
        except redis.exceptions.ConnectionError as error:
            raise ConnectionError(str(error)) from error
        except redis.exceptions.RedisError as error:
            raise OSError(str(error)) from error

    def _count(self, *, reads: int = 0, writes: int = 0, corrupt: int = 0) -> None:
        with self._lock:
            usage = self._usage
            self._usage = replace(
                usage,
                reads=usage.reads + reads,
                writes=usage.writes + writes,
                corrupt=usage.corrupt + corrupt,
            )


def _client(config: RemoteConfig) -> redis.Redis:
    try:
        client = redis.Redis.from_url(
            config.url, retry=Retry(NoBackoff(), 0), **config.client_options()
        )
        client.connection_pool.make_connection()  # checks the URL's options; connects nowhere
        return client
    except (ValueError, TypeError):
        raise ConfigError(
            "the network tier's URL cannot be read.",
            hint="Write scheme://host:port/db; in a user or password, write / ? # @ as %2F %3F "
            "%23 %40, or give the password by STEPWELL_REMOTE_PASSWORD.",
            param="tiers.remote",
        ) from None  # its message quotes what it took for a port: a part of the password


def _receive(replies: Replies, key: bytes, out: Sequence[Buffer]) -> ReadOutcome:
    """One reply to GET, read to its end whatever it holds."""
    size = replies.bulk_size()
    if size is None:
        return ReadOutcome.MISSING
    left = size
    start = memoryview(bytearray(min(size, HEADER_BYTES)))
    replies.into(start)
    left -= len(start)
    header = parse_header(start)
    good = not isinstance(header, FrameFault) and header.frame_size == size
    if good and not isinstance(header, FrameFault) and header.payload_size == total_bytes(out):
        meta = memoryview(bytearray(header.meta_size))
        for view in (meta, *out):
            replies.into(view)
            left -= len(view)
        good = check_body(header, key=key, meta=meta, parts=out) is None
    else:
        good = False
    replies.skip(left)
    replies.end_bulk()
    return ReadOutcome.OK if good else ReadOutcome.CORRUPT
