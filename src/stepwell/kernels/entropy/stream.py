"""Streams: symbols to bytes and back with static tables. This is what callers use.

    offset  bytes  field
         0      1  version
         1      1  lanes: 1, 8 or 32
         2      1  1 for a pattern ([tokens, p] symbols), else 0
         3      1  zero
         4      4  tokens of a pattern, else the number of symbols
         8  4 * l  state of each lane
            2 * w  words, in the order that decoding reads them

Little-endian. Tables and contexts are not in it: both sides must have the same ones. A stream
ends in a known state, so bytes that were changed are nearly always refused, but this is no
checksum: the tier has one.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.kernels import registry
from stepwell.kernels.entropy.base import (
    LOWER,
    U8,
    U16,
    U32,
    Coder,
    Pattern,
    StreamError,
    lanes_for,
)
from stepwell.kernels.entropy.tables import RansTables

_HEADER = struct.Struct("<BBBBI")
_VERSION = 1
_LANES = (1, 8, 32)
MAX_COUNT = 1 << 28  # symbols of a stream: what a hostile header can make a decoder allocate


def _load(name: str) -> Any:
    from importlib import import_module

    return import_module(f"stepwell.kernels.entropy.{name}")


_VERSIONS = (
    registry.Version(
        name="cpu",
        because="compiled, 32 lanes",
        load=lambda: _load("cpu"),
        refusal=lambda subject: None,
    ),
    registry.Version(
        name="reference",
        because="plain Python",
        load=lambda: _load("reference"),
        refusal=lambda subject: None,
    ),
)


def coder() -> Coder:
    """The version that runs; the choice is recorded."""
    chosen: Coder = registry.choose("entropy", _VERSIONS, subject=None, key="cpu")
    return chosen


def encode(symbols: U8, contexts: NDArray[np.uint16], tables: RansTables) -> bytes:
    """Symbols [n] with a context each [n], or symbols [tokens, p] with the same contexts [p] for
    every token. ValueError where shapes disagree or a symbol or context is not in the tables."""
    symbols, contexts = _checked(symbols, contexts, tables)
    if symbols.shape[symbols.ndim - 1 :] != contexts.shape:
        raise ValueError(f"contexts {contexts.shape} for symbols {symbols.shape}")
    if symbols.size and int(symbols.max()) >= tables.symbols:
        raise ValueError(f"symbol {symbols.max()}: the tables have {tables.symbols}")
    flat = symbols.ravel()
    if len(flat) > MAX_COUNT:
        raise ValueError(f"{len(flat)} symbols: a stream has at most {MAX_COUNT}")
    lanes = lanes_for(len(flat))
    pattern = Pattern.of(contexts, count=len(flat))
    states, words = coder().encode(flat, pattern, tables.encode_table, lanes=lanes)
    header = _HEADER.pack(_VERSION, lanes, symbols.ndim - 1, 0, len(symbols))
    return b"".join((header, states.tobytes(), words.tobytes()))


def decode(
    data: bytes | bytearray | memoryview,
    contexts: NDArray[np.uint16],
    tables: RansTables,
    *,
    tokens: int | None = None,
) -> U8:
    """What `encode` was given: [n], or [tokens, p] for a pattern. `tokens`, where known, must be
    the number of a pattern's tokens: a wrong one is then refused before anything is allocated.

    StreamError (a ValueError) for bytes that are not such a stream; at most 256 MiB are allocated
    and the time is bounded by the number of symbols, whatever the bytes say.
    """
    view = memoryview(data).cast("B")
    count, shape, lanes = _parsed(view, len(contexts))
    if len(view) % 2:
        raise StreamError("sizes do not add up")
    if tokens is not None and shape != (tokens, len(contexts)):
        raise StreamError(f"the stream holds {shape} symbols, not {(tokens, len(contexts))}")
    out = np.empty(count, np.uint8)
    words, states, pattern = _body(view, contexts, tables, count=count, lanes=lanes)
    coder().decode(words, states, pattern, tables.decode_table, out)
    return out.reshape(shape)


def decode_prefix(
    data: bytes | bytearray | memoryview, contexts: NDArray[np.uint16], tables: RansTables
) -> tuple[U8, int]:
    """The symbols [n] that the leading bytes of a stream give, those behind them as 0, and how many
    they give. For streams of [n] symbols; StreamError as `decode`, and for fewer bytes than
    `head_bytes`."""
    view = memoryview(data).cast("B")
    count, shape, lanes = _parsed(view, len(contexts))
    if len(shape) != 1:
        raise StreamError("a pattern has no prefixes")
    out = np.empty(count, np.uint8)
    view = view[: len(view) - len(view) % 2]
    words, states, pattern = _body(view, contexts, tables, count=count, lanes=lanes)
    given = coder().decode_prefix(words, states, pattern, tables.decode_table, out)
    out[given:] = 0
    return out, given


def head_bytes(count: int) -> int:
    """Bytes of a stream of so many symbols before its first word."""
    return _HEADER.size + 4 * lanes_for(count)


def _body(
    view: memoryview,
    contexts: NDArray[np.uint16],
    tables: RansTables,
    *,
    count: int,
    lanes: int,
) -> tuple[U16, U32, Pattern]:
    """Words, states to overwrite, and the pattern."""
    _, contexts = _checked(np.empty(0, np.uint8), contexts, tables)
    body = np.frombuffer(view[_HEADER.size :], np.uint8)
    states = body[: 4 * lanes].view("<u4").copy()
    if (states < LOWER).any():
        raise StreamError("a lane begins below its range")
    return body[4 * lanes :].view("<u2"), states, Pattern.of(contexts, count=count)


def _checked(
    symbols: U8, contexts: NDArray[np.uint16], tables: RansTables
) -> tuple[U8, NDArray[np.uint16]]:
    if symbols.dtype != np.uint8 or contexts.dtype != np.uint16:
        raise ValueError("symbols are uint8 and contexts uint16")
    if symbols.ndim not in (1, 2) or contexts.ndim != 1:
        raise ValueError("symbols are [n] or [tokens, p], contexts [n] or [p]")
    if contexts.size and int(contexts.max()) >= tables.contexts:
        raise ValueError(f"context {contexts.max()}: the tables have {tables.contexts}")
    return np.ascontiguousarray(symbols), np.ascontiguousarray(contexts)


def _parsed(view: memoryview, width: int) -> tuple[int, tuple[int, ...], int]:
    """(symbols, shape, lanes) from the header, checked against the contexts' number."""
    if len(view) < _HEADER.size:
        raise StreamError("shorter than its header")
    version, lanes, pattern, zero, number = _HEADER.unpack_from(view)
    if version != _VERSION or lanes not in _LANES or pattern > 1 or zero:
        raise StreamError("not a stream of this version")
    shape = (number, width) if pattern else (number,)
    count = number * width if pattern else number
    if not pattern and number != width:
        raise StreamError(f"a stream of {number} symbols, but {width} contexts")
    if count > MAX_COUNT:
        raise StreamError(f"a stream of {count} symbols")
    if len(view) < head_bytes(count) or lanes != lanes_for(count):
        raise StreamError("sizes do not add up")
    return count, shape, lanes
