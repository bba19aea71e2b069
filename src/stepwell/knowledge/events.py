"""What happened, each event sealed with all that came before it."""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from dataclasses import dataclass

from stepwell.knowledge.errors import KnowledgeDamaged

EVENTS = """
CREATE TABLE events (
  number INTEGER PRIMARY KEY, at TEXT NOT NULL, what TEXT NOT NULL, id TEXT NOT NULL,
  by TEXT NOT NULL, detail TEXT NOT NULL, seal BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`id`: an entry, a release or empty."""

    at: str
    what: str
    id: str
    by: str
    detail: str = ""


class EventLog:
    """Rows of a table in a file that others own."""

    def __init__(self, db: sqlite3.Connection, *, key: bytes, name: str) -> None:
        """`name`: of the file. Raises KnowledgeDamaged when an event was changed, put in or taken
        out of the middle; a missing end is not seen."""
        self._db, self._key, self._seal = db, key, b""
        seals = [seal for (seal,) in db.execute("SELECT seal FROM events ORDER BY number")]
        for event, seal in zip(self.all(), seals, strict=True):
            self._seal = self._sealed(event)
            if self._seal != seal:
                raise KnowledgeDamaged(
                    f"{name}: the event of {event.at} is not what was logged.",
                    hint="Restore a backup.",
                )

    def add(self, event: Event) -> None:
        seal = self._sealed(event)
        self._db.execute(
            "INSERT INTO events (at, what, id, by, detail, seal) VALUES (?, ?, ?, ?, ?, ?)",
            (event.at, event.what, event.id, event.by, event.detail, seal),
        )
        self._seal = seal

    def all(self) -> tuple[Event, ...]:
        """Oldest first."""
        query = "SELECT at, what, id, by, detail FROM events ORDER BY number"
        return tuple(
            Event(at=at, what=what, id=name, by=by, detail=detail)
            for at, what, name, by, detail in self._db.execute(query)
        )

    def _sealed(self, event: Event) -> bytes:
        fields = (event.at, event.what, event.id, event.by, event.detail)
        text = json.dumps(fields, ensure_ascii=True).encode()
        return hmac.new(self._key, self._seal + text, hashlib.sha256).digest()
