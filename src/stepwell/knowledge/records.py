"""What cannot be rebuilt: candidates, confirmations, evidence, failures, drift, events, tombstones.

One SQLite file in WAL mode. Events name entries and people by id and hold no text of entries, so
erasing need not touch them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stepwell.knowledge.entry import Entry, Status
from stepwell.knowledge.errors import KnowledgeDamaged
from stepwell.knowledge.markdown import from_markdown, to_markdown
from stepwell.knowledge.policy import Evidence

_FORMAT = 1
_TABLES = """
CREATE TABLE entries (
  id TEXT PRIMARY KEY, status TEXT NOT NULL, by TEXT NOT NULL, findings TEXT NOT NULL,
  subject TEXT NOT NULL, times INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX entries_by_subject ON entries (subject);
CREATE INDEX entries_by_person ON entries (by, status);
CREATE TABLE evidence (
  id TEXT NOT NULL, what TEXT NOT NULL, by TEXT NOT NULL, at TEXT NOT NULL,
  UNIQUE (id, what, by));
CREATE TABLE events (
  number INTEGER PRIMARY KEY, at TEXT NOT NULL, what TEXT NOT NULL, id TEXT NOT NULL,
  by TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE tombstones (id TEXT PRIMARY KEY, at TEXT NOT NULL, by TEXT NOT NULL);
CREATE TABLE hashes (name TEXT PRIMARY KEY, hash TEXT NOT NULL);
CREATE TABLE validated (id TEXT NOT NULL, name TEXT NOT NULL, hash TEXT NOT NULL,
  PRIMARY KEY (id, name));
CREATE TABLE failures (signature TEXT PRIMARY KEY, times INTEGER NOT NULL, question TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`id`: an entry, a release or empty."""

    at: str
    what: str
    id: str
    by: str
    detail: str = ""


class Records:
    """Rows by entry id."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        try:
            self._db.executescript("PRAGMA secure_delete=ON; PRAGMA journal_mode=WAL;")
            if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
                self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={_FORMAT}; COMMIT;")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise KnowledgeDamaged(f"{path.name}: {error}.", hint="Restore a backup.") from None

    def close(self) -> None:
        self._db.close()

    def put(self, entry: Entry, *, by: str, findings: Iterable[str]) -> None:
        """A candidate, with who captured it."""
        self._db.execute(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, 1, ?)",
            (
                entry.id,
                entry.status.value,
                by,
                ",".join(findings),
                entry.payload.subject,
                to_markdown(entry),
            ),
        )

    def replace(self, entry: Entry) -> None:
        """New status or links of one that is there."""
        self._db.execute(
            "UPDATE entries SET status = ?, body = ? WHERE id = ?",
            (entry.status.value, to_markdown(entry), entry.id),
        )

    def get(self, entry_id: str) -> Entry | None:
        row = self._db.execute("SELECT body FROM entries WHERE id = ?", (entry_id,)).fetchone()
        return from_markdown(row[0]) if row else None

    def findings(self, entry_id: str) -> tuple[str, ...]:
        row = self._db.execute("SELECT findings FROM entries WHERE id = ?", (entry_id,)).fetchone()
        return tuple(filter(None, row[0].split(","))) if row else ()

    def with_status(self, status: Status) -> list[Entry]:
        """In order of id."""
        query = "SELECT body FROM entries WHERE status = ? ORDER BY id"
        return [from_markdown(body) for (body,) in self._db.execute(query, (status.value,))]

    def of_subject(self, subject: str) -> list[Entry]:
        """Whatever their kind and status."""
        query = "SELECT body FROM entries WHERE subject = ? ORDER BY id"
        return [from_markdown(body) for (body,) in self._db.execute(query, (subject,))]

    def seen_again(self, entry_id: str) -> None:
        """Count a further capture of the same."""
        self._db.execute("UPDATE entries SET times = times + 1 WHERE id = ?", (entry_id,))

    def times(self, entry_id: str) -> int:
        """How often it was captured."""
        row = self._db.execute("SELECT times FROM entries WHERE id = ?", (entry_id,)).fetchone()
        return int(row[0]) if row else 0

    def pending(self, by: str) -> int:
        """Candidates that a principal has waiting."""
        query = "SELECT count(*) FROM entries WHERE by = ? AND status = ?"
        return int(self._db.execute(query, (by, Status.CANDIDATE.value)).fetchone()[0])

    def drop(self, entry_id: str) -> None:
        """The row; evidence stays."""
        self._db.execute("DELETE FROM entries WHERE id = ?", (entry_id,))

    def add_evidence(self, entry_id: str, what: Evidence, *, by: str, at: str) -> None:
        """One principal counts once for each kind."""
        row = (entry_id, what.value, by, at)
        self._db.execute("INSERT OR IGNORE INTO evidence VALUES (?, ?, ?, ?)", row)

    def evidence(self, entry_id: str) -> tuple[tuple[Evidence, str], ...]:
        """(what, by), oldest first."""
        query = "SELECT what, by FROM evidence WHERE id = ? ORDER BY rowid"
        return tuple((Evidence(w), by) for w, by in self._db.execute(query, (entry_id,)))

    def log(self, event: Event) -> None:
        self._db.execute(
            "INSERT INTO events (at, what, id, by, detail) VALUES (?, ?, ?, ?, ?)",
            (event.at, event.what, event.id, event.by, event.detail),
        )

    def events(self) -> tuple[Event, ...]:
        """Oldest first."""
        query = "SELECT at, what, id, by, detail FROM events ORDER BY number"
        return tuple(
            Event(at=at, what=what, id=name, by=by, detail=detail)
            for at, what, name, by, detail in self._db.execute(query)
        )

    def fail(self, signature: str, question: str) -> int:
        """Count a failure; how often it has been seen."""
        self._db.execute(
            "INSERT INTO failures VALUES (?, 1, ?)"
            " ON CONFLICT (signature) DO UPDATE SET"
            " times = times + 1, question = excluded.question",
            (signature, question),
        )
        query = "SELECT times FROM failures WHERE signature = ?"
        return int(self._db.execute(query, (signature,)).fetchone()[0])

    def set_hashes(self, hashes: Mapping[str, str]) -> None:
        """What the schema is now; nothing else exists."""
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM hashes")
        self._db.executemany("INSERT INTO hashes VALUES (?, ?)", list(hashes.items()))
        self._db.execute("COMMIT")

    def hashes(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT name, hash FROM hashes"))

    def validate(self, entry_id: str, hashes: Mapping[str, str]) -> None:
        """Name -> hash under which a person said that the entry holds."""
        rows = [(entry_id, name, value) for name, value in hashes.items()]
        self._db.executemany("INSERT OR REPLACE INTO validated VALUES (?, ?, ?)", rows)

    def validated(self) -> dict[str, dict[str, str]]:
        """Entry id -> name -> hash."""
        found: dict[str, dict[str, str]] = {}
        for name, what, value in self._db.execute("SELECT id, name, hash FROM validated"):
            found.setdefault(name, {})[what] = value
        return found

    def bury(self, entry_id: str, *, by: str, at: str) -> None:
        """Leave nothing of an entry but a tombstone. `scrub` cleans the file."""
        self._db.execute("BEGIN")
        for table in ("entries", "evidence", "validated"):
            self._db.execute(f"DELETE FROM {table} WHERE id = ?", (entry_id,))
        self._db.execute("INSERT OR IGNORE INTO tombstones VALUES (?, ?, ?)", (entry_id, at, by))
        self._db.execute("COMMIT")

    def forget_failures(self, texts: Iterable[str]) -> None:
        """Failures whose signature or question is or contains one of the texts."""
        self._db.executemany(
            "DELETE FROM failures WHERE instr(signature, ?1) OR instr(question, ?1)",
            [(text,) for text in texts if text],
        )

    def tombstones(self) -> frozenset[str]:
        return frozenset(row[0] for row in self._db.execute("SELECT id FROM tombstones"))

    def scrub(self) -> None:
        """Leave no byte of what was deleted in the file."""
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
