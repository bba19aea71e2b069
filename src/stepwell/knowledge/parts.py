"""What one open knowledge base is made of: its files, rules and clock, shared by their owners."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stepwell.knowledge.embed import Embedder
from stepwell.knowledge.errors import KnowledgeError
from stepwell.knowledge.events import Event
from stepwell.knowledge.index import Index
from stepwell.knowledge.policy import Policy
from stepwell.knowledge.records import Records
from stepwell.knowledge.render import CountTokens
from stepwell.knowledge.session import Sessions
from stepwell.knowledge.truth import Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """`clock`: seconds since 1970. `key`: the tenant's own, signs waivers and events."""

    truth: Truth
    records: Records
    index: Index
    sessions: Sessions
    policy: Policy
    embedder: Embedder | None
    count_tokens: CountTokens
    clock: Callable[[], float]
    key: bytes

    def now(self) -> str:
        """UTC, ISO 8601."""
        return datetime.fromtimestamp(self.clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def day(self) -> str:
        """UTC, ISO 8601."""
        return self.now()[:10]

    def log(self, what: str, name: str, *, by: str, detail: str = "") -> None:
        self.records.events.add(Event(at=self.now(), what=what, id=name, by=by, detail=detail))


def open_parts(
    folder: Path,
    *,
    policy: Policy,
    embedder: Embedder | None,
    count_tokens: CountTokens,
    clock: Callable[[], float],
) -> tuple[Parts, contextlib.ExitStack]:
    """The parts in a tenant's folder, made where they are missing, and what closes them. Raises
    KnowledgeError while another process has them open, KnowledgeDamaged."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, lock)
        truth = Truth(folder / "truth.git")
        undo.callback(truth.close)
        key = _key(folder / "key")
        records = Records(folder / "records.sqlite", key=key)
        undo.callback(records.close)
        index = Index(folder / "index.sqlite", embedder=embedder)
        undo.callback(index.close)
        parts = Parts(
            truth=truth,
            records=records,
            index=index,
            sessions=Sessions(),
            policy=policy,
            embedder=embedder,
            count_tokens=count_tokens,
            clock=clock,
            key=key,
        )
        return parts, undo.pop_all()


def _lock(folder: Path) -> int:
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise KnowledgeError(f"{folder.name} is open elsewhere.", hint="Close it there.") from None
    return handle


def _key(path: Path) -> bytes:
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
    return path.read_bytes()
