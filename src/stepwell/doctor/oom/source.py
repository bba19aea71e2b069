"""What to read: a file, standard input, a log or a snapshot, told by its first bytes."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stepwell.base.errors import ConfigError
from stepwell.doctor.oom.explain import LogReport, explain_log
from stepwell.doctor.oom.plain_pickle import UnreadableSnapshot, load_plain
from stepwell.doctor.oom.snapshot import parse_snapshot
from stepwell.doctor.oom.snapshot_explain import explain_sums
from stepwell.doctor.oom.snapshot_sums import DeviceSums, sum_devices
from stepwell.doctor.oom.words import Explanation

_PICKLE = b"\x80"
_JSON_HEAD = 1 << 16


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in one source; `log` or `devices` says what it was. `explanation` None: a log
    without a message that is known."""

    explanation: Explanation | None
    log: LogReport | None = None
    devices: tuple[DeviceSums, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        known = self.explanation
        common = {
            "known": known is not None,
            "explanation": None if known is None else known.as_dict(),
            "finding": None if known is None else known.finding().as_dict(),
        }
        if self.log is not None:
            return common | self.log.as_dict()
        return common | {"devices": [sums.as_dict() for sums in self.devices]}


def read_source(name: str) -> Report:
    """`name`: a path, or - for standard input. Raises ConfigError for what cannot be opened,
    UnreadableSnapshot for a damaged snapshot."""
    if name == "-":
        return read_stream(sys.stdin.buffer)
    try:
        with Path(name).expanduser().open("rb") as stream:
            return read_stream(stream)
    except OSError as error:
        raise ConfigError(
            f"cannot read {name}: {error.strerror or error}.", hint="Name a log or a snapshot."
        ) from error


def read_stream(stream: BinaryIO) -> Report:
    """A pickle begins with its protocol, a JSON snapshot has `segments`; the rest is a log."""
    buffered = io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream
    head = buffered.read(_JSON_HEAD)
    if head.startswith(_PICKLE):
        return read_snapshot(load_plain(head + buffered.read()))
    if head.lstrip()[:1] in (b"{", b"[") and (b'"segments"' in head or b'"total_size"' in head):
        try:
            return read_snapshot(json.loads(head + buffered.read()))
        except (ValueError, RecursionError) as error:
            raise UnreadableSnapshot(f"not JSON that can be read: {error}.") from error
    log = explain_log(_lines(head, buffered))
    return Report(log.explanation, log=log)


def read_snapshot(value: Any) -> Report:
    """The device that failed last, else the one that holds most."""
    devices = sum_devices(parse_snapshot(value))
    if not devices:
        raise UnreadableSnapshot("the snapshot has no segments and no failed request.")
    failed = [sums for sums in devices if sums.oom is not None]
    chosen = failed[-1] if failed else max(devices, key=lambda sums: sums.reserved)
    return Report(explain_sums(chosen), devices=devices)


def _lines(head: bytes, stream: BinaryIO) -> Iterator[str]:
    """Lines of text of a stream whose beginning was read. What is no UTF-8 is shown as such."""
    *whole, rest = head.split(b"\n")
    yield from (line.decode(errors="replace") for line in whole)
    for line in stream:
        yield (rest + line).decode(errors="replace")
        rest = b""
    if rest:
        yield rest.decode(errors="replace")
