"""What cannot be rebuilt: candidates, confirmations, evidence, failures, drift, events, tombstones.

One SQLite file in WAL mode. Events name entries and people by id and hold no text of entries, so
erasing need not touch them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stepwell.knowledge.entry import Entry, Status
from stepwell.knowledge.events import EVENTS, EventLog
from stepwell.knowledge.formats import open_file, whole
from stepwell.knowledge.markdown import from_markdown, to_markdown
from stepwell.knowledge.policy import Evidence

_FORMAT = 4
_TABLES = """
CREATE TABLE entries (
  id TEXT PRIMARY KEY, status TEXT NOT NULL, by TEXT NOT NULL, findings TEXT NOT NULL,
  subject TEXT NOT NULL, times INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX entries_by_subject ON entries (subject);
CREATE INDEX entries_by_person ON entries (by, status);
CREATE TABLE evidence (
  id TEXT NOT NULL, what TEXT NOT NULL, by TEXT NOT NULL, at TEXT NOT NULL,
  UNIQUE (id, what, by));
CREATE TABLE votes (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL, by TEXT NOT NULL, confirms INTEGER NOT NULL,
  supersedes TEXT NOT NULL, UNIQUE (id, by));
CREATE TABLE tombstones (
  id TEXT PRIMARY KEY, said TEXT NOT NULL, at TEXT NOT NULL, by TEXT NOT NULL);
CREATE TABLE hashes (name TEXT PRIMARY KEY, hash TEXT NOT NULL);
CREATE TABLE validated (id TEXT NOT NULL, name TEXT NOT NULL, hash TEXT NOT NULL,
  PRIMARY KEY (id, name));
CREATE TABLE outcomes (id TEXT NOT NULL, by TEXT NOT NULL, good INTEGER NOT NULL,
  bad INTEGER NOT NULL, PRIMARY KEY (id, by));
CREATE TABLE failures (signature TEXT PRIMARY KEY, times INTEGER NOT NULL, question TEXT NOT NULL);
"""
_STEPS = {
    3: """
CREATE TABLE outcomes (id TEXT NOT NULL, by TEXT NOT NULL, good INTEGER NOT NULL,
  bad INTEGER NOT NULL, PRIMARY KEY (id, by));
"""
}


@dataclass(frozen=True, slots=True)
class Vote:
    """A person's last word on an entry. `supersedes`: what it replaces, says who confirms."""

    by: str
    confirms: bool
    supersedes: tuple[str, ...] = ()


class Records:
    """Rows by entry id."""

    def __init__(self, path: Path, *, key: bytes) -> None:
        """`key`: seals the events. Raises KnowledgeDamaged, KnowledgeFormat."""
        self._db = open_file(path, tables=_TABLES + EVENTS, number=_FORMAT, steps=_STEPS)
        try:
            self.events = EventLog(self._db, key=key, name=path.name)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def put(self, entry: Entry, *, by: str, findings: Iterable[str]) -> None:
        """A candidate, with who captured it."""
        self._db.execute(
            "INSERT OR REPLACE INTO entries VALUES (?1, ?2, ?3, ?4, ?5,"
            " 1 + coalesce((SELECT times FROM entries WHERE id = ?1), 0), ?6)",
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

    def how_many(self, status: Status) -> int:
        """Entries of a status."""
        query = "SELECT count(*) FROM entries WHERE status = ?"
        return int(self._db.execute(query, (status.value,)).fetchone()[0])

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

    def vote(self, entry_id: str, vote: Vote) -> None:
        """The last one of a person counts."""
        self._db.execute(
            "INSERT OR REPLACE INTO votes (id, by, confirms, supersedes) VALUES (?, ?, ?, ?)",
            (entry_id, vote.by, vote.confirms, " ".join(vote.supersedes)),
        )

    def votes(self, entry_id: str) -> tuple[Vote, ...]:
        """Oldest first."""
        query = "SELECT by, confirms, supersedes FROM votes WHERE id = ? ORDER BY number"
        return tuple(
            Vote(by, bool(confirms), tuple(supersedes.split()))
            for by, confirms, supersedes in self._db.execute(query, (entry_id,))
        )

    def author(self, entry_id: str) -> str:
        """Who captured it; empty when the row is gone."""
        row = self._db.execute("SELECT by FROM entries WHERE id = ?", (entry_id,)).fetchone()
        return row[0] if row else ""

    def count_outcome(self, entry_id: str, *, by: str, good: bool) -> None:
        """An outcome of a request whose context held the entry."""
        self._db.execute(
            "INSERT INTO outcomes VALUES (?1, ?2, ?3, 1 - ?3) ON CONFLICT (id, by) DO UPDATE SET"
            " good = good + excluded.good, bad = bad + excluded.bad",
            (entry_id, by, int(good)),
        )

    def outcomes(self, entry_id: str) -> list[tuple[int, int]]:
        """Good and bad ones of each person."""
        query = "SELECT good, bad FROM outcomes WHERE id = ? ORDER BY by"
        return list(self._db.execute(query, (entry_id,)))

    def with_outcomes(self) -> list[str]:
        """Ids of which a bad one was counted, in order."""
        query = "SELECT DISTINCT id FROM outcomes WHERE bad > 0 ORDER BY id"
        return [name for (name,) in self._db.execute(query)]

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
        with whole(self._db):
            self._db.execute("DELETE FROM hashes")
            self._db.executemany("INSERT INTO hashes VALUES (?, ?)", list(hashes.items()))

    def hashes(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT name, hash FROM hashes"))

    def validate(self, found: Mapping[str, Mapping[str, str]]) -> None:
        """Entry id -> name -> hash under which the entry holds, besides that of its capture."""
        rows = [(e, name, value) for e, hashes in found.items() for name, value in hashes.items()]
        with whole(self._db):
            self._db.executemany("INSERT OR REPLACE INTO validated VALUES (?, ?, ?)", rows)

    def validated(self) -> dict[str, dict[str, str]]:
        """Entry id -> name -> hash."""
        found: dict[str, dict[str, str]] = {}
        for name, what, value in self._db.execute("SELECT id, name, hash FROM validated"):
            found.setdefault(name, {})[what] = value
        return found

    def bury(self, entry_id: str, said: str, *, by: str, at: str) -> None:
        """Leave nothing of an entry but a tombstone. `said`: a hash of what it said. `scrub` cleans
        the file."""
        row = (entry_id, said, at, by)
        with whole(self._db):
            for table in ("entries", "evidence", "validated", "votes", "outcomes"):
                self._db.execute(f"DELETE FROM {table} WHERE id = ?", (entry_id,))
            self._db.execute("INSERT OR IGNORE INTO tombstones VALUES (?, ?, ?, ?)", row)

    def forget_failures(self, texts: Iterable[str]) -> None:
        """Failures whose signature or question is or contains one of the texts."""
        self._db.executemany(
            "DELETE FROM failures WHERE instr(signature, ?1) OR instr(question, ?1)",
            [(text,) for text in texts if text],
        )

    def was_erased(self, entry_id: str, said: str) -> bool:
        """An entry of that id, or one that said that."""
        query = "SELECT 1 FROM tombstones WHERE id = ? OR said = ?"
        return self._db.execute(query, (entry_id, said)).fetchone() is not None

    def tombstones(self) -> frozenset[str]:
        return frozenset(row[0] for row in self._db.execute("SELECT id FROM tombstones"))

    def scrub(self) -> None:
        """Leave no byte of what was deleted in the file."""
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
