"""Traces: who asked for what, when; read from files, one JSON object a line.

Mooncake (FAST'25): `timestamp` (ms), `input_length`, `output_length` (tokens), `hash_ids` (one id
for each 512-token block of the input; equal ids mean equal prefix blocks, the last may be partial).

Our own (`stepwell serve --record FILE`), version 1:

    {"v": 1, "t": 12.5, "session": "9f..", "tenant": "41..", "class": "chat",
     "prompt": 700, "output": 31, "block": 32, "blocks": ["a1b2..", ...]}

One line for each choice that has ended, in that order; they are read in the order of arrival (`t`,
in seconds from the start). `session`, `tenant` and `blocks` are hashes under a random salt that is
thrown away (null where there is none): no text and no names are recorded. `blocks` are the full
blocks of prompt *and* output, `block` tokens each; the prompt's come first.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from stepwell.base.errors import ConfigError
from stepwell.base.hierarchy import WorkloadClass

MOONCAKE_BLOCK = 512


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """`time`: seconds. `prompt`, `output`: tokens. `blocks`: keys of the prompt's blocks.
    `produced`: keys of the full blocks that the output completes."""

    time: float
    prompt: int
    output: int
    blocks: tuple[bytes, ...]
    produced: tuple[bytes, ...] = ()
    session: str | None = None
    tenant: str = ""
    workload: WorkloadClass | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """`block_tokens`: tokens of a block."""

    name: str
    block_tokens: int
    requests: Sequence[TraceRequest]


def read_requests(path: Path, *, limit: int = 0) -> Trace:
    """The first `limit` requests (0: all) of a trace of either format.

    Raises ConfigError for a file that cannot be read or is no such trace.
    """
    rows = list(read_rows(path, limit=limit))
    if not rows:
        raise ConfigError(f"{path} has no requests.", param="trace")
    try:
        if "hash_ids" in rows[0]:
            requests = [_mooncake(row) for row in rows]
            return Trace(path.stem, MOONCAKE_BLOCK, requests)
        requests = sorted((_recorded(row) for row in rows), key=lambda request: request.time)
        return Trace(path.stem, int(rows[0]["block"]), requests)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} is neither a Mooncake trace nor one of `stepwell serve --record`.",
            hint="See `stepwell simulate --help` for the formats.", param="trace",
        ) from error  # fmt: skip


def read_rows(path: Path, *, limit: int = 0) -> Iterator[Mapping[str, Any]]:
    """JSON objects of the first `limit` lines (0: all). Raises ConfigError."""
    try:
        with path.open(encoding="utf-8") as file:
            count = 0
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                yield _row(line, path, number)
                count += 1
                if count == limit:
                    return
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.", param="trace") from error


class TraceRecorder:
    """Writes our format. `file`: text, owned by the caller. Hashes are salted anew each time."""

    def __init__(self, file: TextIO, *, block_tokens: int, start: float) -> None:
        self._file = file
        self._block = block_tokens
        self._start = start
        self._salt = secrets.token_bytes(16)

    def write(
        self, *, now: float, keys: Iterable[bytes], prompt: int, output: int,
        session: str | None = None, tenant: str = "", workload: WorkloadClass | None = None,
    ) -> None:  # fmt: skip
        """One request; `now` is its arrival on the clock that `start` was read from."""
        row = {
            "v": 1,
            "t": round(now - self._start, 6),
            "session": None if session is None else self._hash(session.encode()),
            "tenant": self._hash(tenant.encode()) if tenant else None,
            "class": None if workload is None else workload.value,
            "prompt": prompt,
            "output": output,
            "block": self._block,
            "blocks": [self._hash(key) for key in keys],
        }
        self._file.write(json.dumps(row, separators=(",", ":")) + "\n")

    def _hash(self, data: bytes) -> str:
        return hashlib.blake2b(data, digest_size=8, key=self._salt).hexdigest()


def _row(line: str, path: Path, number: int) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise ConfigError(f"{path}, line {number}, is not JSON.", param="trace") from error
    return row


def _mooncake(row: Mapping[str, Any]) -> TraceRequest:
    blocks = tuple(int(number).to_bytes(8, "little") for number in row["hash_ids"])
    return TraceRequest(
        row["timestamp"] / 1000.0, int(row["input_length"]), int(row["output_length"]), blocks
    )


def _recorded(row: Mapping[str, Any]) -> TraceRequest:
    blocks = tuple(bytes.fromhex(text) for text in row["blocks"])
    own = int(row["prompt"]) // int(row["block"])
    return TraceRequest(
        float(row["t"]), int(row["prompt"]), int(row["output"]), blocks[:own], blocks[own:],
        row["session"], row["tenant"] or "",
        None if row["class"] is None else WorkloadClass(row["class"]),
    )  # fmt: skip
