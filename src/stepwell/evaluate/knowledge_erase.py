"""Erasing leaves nothing behind: a canary word, looked for in every byte of every file."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from stepwell.evaluate.knowledge_loop import open_base
from stepwell.evaluate.knowledge_teach import RELEASER
from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.entry import Status
from stepwell.knowledge.erase import History
from stepwell.knowledge.payload import Document, Gotcha, Metric, Payload, Template
from stepwell.knowledge.policy import Evidence, Scope, Session

CANARY = "zanzibarcanary"
_SAID: tuple[Payload, ...] = (
    Gotcha(about="orders", rule=f"Ask {CANARY} first."),
    Metric(name=f"{CANARY} rate", expression="COUNT(*)", table="orders"),
    Template(question=f"How many orders has {CANARY}?", sql="SELECT COUNT(*) FROM orders"),
    Document(title=f"About {CANARY}", text=f"The word is {CANARY}."),
)


def erase_figures() -> dict[str, Any]:
    """Released entries of several kinds, a candidate and a failure name the canary; all are erased
    with their history. `before`: how often the same scan finds it while it is there."""
    with TemporaryDirectory(prefix="knowledge-") as name:
        folder = Path(name)
        base = open_base(folder)
        try:
            ids = _fill(base)
            before = canaries(folder, CANARY)
            start = perf_counter()
            for entry_id in ids:
                base.erase(entry_id, by=RELEASER, history=History.ERASE)
            seconds = perf_counter() - start
            while_open = canaries(folder, CANARY)
        finally:
            base.close()
        return {
            "erase_canaries_left": max(while_open, canaries(folder, CANARY)),
            "found_before": before,
            "erase_s": round(seconds, 3),
            "entries": len(ids),
            "files": sum(path.is_file() for path in folder.rglob("*")),
        }


def _fill(base: Knowledge) -> list[str]:
    ids = []
    for payload in _SAID:
        name = base.capture(payload, by="user", evidence=Evidence.USER_CONFIRMED).id
        base.confirm(name, by="user")
        base.confirm(name, by="reviewer")
        ids.append(name)
    base.release(by=RELEASER)
    waits = Document(title="Waits", text=f"{CANARY} too")
    base.capture(waits, by="user", evidence=Evidence.EXECUTED)
    base.context(f"What of {CANARY}?", Session(id="s", scope=Scope(user="user")))
    base.failed(f"no such column: {_SAID[1].subject}", question=texts_of(_SAID[2]), by="user")
    return [*ids, *(entry.id for entry in base.entries(Status.CANDIDATE))]


def texts_of(payload: Payload) -> str:
    """The question that a template answers."""
    assert isinstance(payload, Template)
    return payload.question


def canaries(folder: Path, word: str) -> int:
    """Occurrences of a word in all files below, in either case, raw and inflated."""
    return sum(
        data.lower().count(word.encode())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for data in _readings(path.read_bytes())
    )


def _readings(data: bytes) -> Iterator[bytes]:
    """The bytes, and what any zlib stream in them inflates to (git objects and packs)."""
    yield data
    start = data.find(b"\x78")
    while start >= 0:
        with contextlib.suppress(zlib.error):
            yield zlib.decompressobj().decompress(data[start:])
        start = data.find(b"\x78", start + 1)
