"""What can be found: rebuilt from truth and from confirmed entries whenever it is missing.

One SQLite file for a tenant: rows, FTS5 over titles and bodies, vectors as blobs. Scope is part of
every query: what the asker may not see is not ranked, so it moves nobody's results. An entry is
visible when the current release holds it (`live`) or when the asker confirmed it, and not while it
is unusable (schema drift) or outside its days.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepwell.knowledge.embed import Embedder
from stepwell.knowledge.entities import Entities, Named
from stepwell.knowledge.entry import Entry
from stepwell.knowledge.markdown import from_markdown, to_markdown
from stepwell.knowledge.payload import (
    Document,
    Gotcha,
    Kind,
    Metric,
    Relationship,
    Schema,
    Template,
    texts,
)
from stepwell.knowledge.policy import Scope
from stepwell.knowledge.words import content_words, words

_FORMAT = 1
_TABLES = """
CREATE TABLE entries (
  key INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, area TEXT NOT NULL,
  live INTEGER NOT NULL, unusable INTEGER NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL,
  body TEXT NOT NULL);
CREATE TABLE confirmers (key INTEGER NOT NULL, user TEXT NOT NULL, PRIMARY KEY (key, user));
CREATE TABLE built (release TEXT NOT NULL);
CREATE TABLE vectors (key INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(title, body, tokenize='porter unicode61');
"""
_VISIBLE = """
  e.unusable = 0 AND e.area IN ('', :area) AND e.first <= :day AND (e.last = '' OR :day <= e.last)
  AND (e.live OR EXISTS (SELECT 1 FROM confirmers c WHERE c.key = e.key AND c.user = :user))
"""
_TITLE_WEIGHT = 4.0
# Below this cosine two texts have nothing to do with each other; chosen, not measured.
_LEAST_COSINE = 0.3
_BATCH = 500


@dataclass(frozen=True, slots=True)
class _Held:
    """What is kept in memory of an entry."""

    entry: Entry
    triggers: tuple[str, ...]
    vocabulary: frozenset[str]


def named_by(entry: Entry) -> tuple[str, ...]:
    """An entry's triggers, and the names that its payload speaks of."""
    own: tuple[str, ...] = ()
    match entry.payload:
        case Schema(table=table):
            own = (table,)
        case Relationship(left=left, right=right):
            own = (f"{left.partition('.')[0]} + {right.partition('.')[0]}",)
        case Metric(name=name):
            own = (name,)
        case Gotcha(about=about):
            own = (about,)
    return tuple(dict.fromkeys((*entry.triggers, *own)))


def title_of(entry: Entry) -> str:
    """What weighs more than the body when words are compared."""
    match entry.payload:
        case Template(question=question):
            own = question
        case Document(title=title):
            own = title
        case _:
            own = entry.payload.subject
    return " ".join((own, *entry.triggers))


class Index:
    """Entries by id, words, vector and entity."""

    def __init__(self, path: Path | None, *, embedder: Embedder | None) -> None:
        """`path`: None keeps it in memory."""
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
        self._embedder = embedder
        self._entities = Entities()
        self._held: dict[int, _Held] = {}
        self._keys: dict[str, int] = {}
        self._subjects: dict[str, set[int]] = defaultdict(set)
        self._vectors: dict[int, np.ndarray] = {}
        self._matrix: tuple[np.ndarray, np.ndarray] | None = None
        self._db.executescript("PRAGMA secure_delete=ON; PRAGMA journal_mode=WAL;")
        if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
            self._db.executescript(f"{_TABLES} PRAGMA user_version={_FORMAT};")
        for key, body in self._db.execute("SELECT key, body FROM entries"):
            self._hold(key, from_markdown(body))
        live = self._db.execute("SELECT id FROM entries WHERE live")
        self._live = frozenset(name for (name,) in live)
        for key, blob in self._db.execute("SELECT key, vector FROM vectors"):
            self._vectors[key] = np.frombuffer(blob, dtype=np.float32)

    def close(self) -> None:
        self._db.close()

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._keys

    def get(self, entry_id: str) -> Entry:
        """Raises KeyError."""
        return self._held[self._keys[entry_id]].entry

    def ids(self) -> frozenset[str]:
        """All, visible to anybody or not."""
        return frozenset(self._keys)

    def of_subject(self, subject: str) -> list[Entry]:
        """Whatever their kind, visible or not."""
        return [self._held[key].entry for key in sorted(self._subjects.get(subject, ()))]

    def built(self) -> str:
        """The newest release that it was built with; empty when it has to be built anew."""
        row = self._db.execute("SELECT release FROM built").fetchone()
        return row[0] if row else ""

    def set_built(self, release: str) -> None:
        self._db.execute("DELETE FROM built")
        self._db.execute("INSERT INTO built VALUES (?)", (release,))

    def clear(self) -> None:
        """Before it is built anew."""
        self.set_built("")
        for entry_id in list(self._keys):
            self.remove(entry_id)

    def put(self, entries: Iterable[Entry]) -> None:
        """Add, or replace what has the same id."""
        ready = list(entries)
        vectors = self._embed([self._text(entry) for entry in ready])
        self._db.execute("BEGIN")
        for place, entry in enumerate(ready):
            self._delete(entry.id)
            row = (
                entry.id,
                entry.kind.value,
                entry.area,
                entry.validity.first,
                entry.validity.last,
            )
            key = self._db.execute(
                "INSERT INTO entries (id, kind, area, first, last, live, unusable, body)"
                " VALUES (?, ?, ?, ?, ?, 0, 0, ?)",
                (*row, to_markdown(entry)),
            ).lastrowid
            assert key is not None
            self._db.execute(
                "INSERT INTO words (rowid, title, body) VALUES (?, ?, ?)",
                (key, title_of(entry), " ".join(texts(entry.payload).values())),
            )
            if vectors is not None:
                self._vectors[key] = vectors[place]
                self._db.execute(
                    "INSERT INTO vectors VALUES (?, ?)", (key, vectors[place].tobytes())
                )
            self._hold(key, entry)
        self._db.execute("COMMIT")
        self._matrix = None

    def set_live(self, ids: Collection[str]) -> None:
        """What the current release holds; nothing else of what was released is visible."""
        self._db.execute("BEGIN")
        self._db.execute("UPDATE entries SET live = 0 WHERE live")
        rows = [(self._keys[name],) for name in ids]
        self._db.executemany("UPDATE entries SET live = 1 WHERE key = ?", rows)
        self._db.execute("COMMIT")
        self._live = frozenset(ids)

    def live(self) -> frozenset[str]:
        """What the current release holds."""
        return self._live

    def set_confirmers(self, entry_id: str, users: Iterable[str]) -> None:
        """Who sees it although no release holds it."""
        key = self._keys[entry_id]
        self._db.execute("DELETE FROM confirmers WHERE key = ?", (key,))
        rows = [(key, user) for user in users]
        self._db.executemany("INSERT INTO confirmers VALUES (?, ?)", rows)

    def set_unusable(self, ids: Collection[str]) -> None:
        """These and no others."""
        self._db.execute("BEGIN")
        self._db.execute("UPDATE entries SET unusable = 0 WHERE unusable")
        rows = [(name,) for name in ids]
        self._db.executemany("UPDATE entries SET unusable = 1 WHERE id = ?", rows)
        self._db.execute("COMMIT")

    def remove(self, entry_id: str) -> None:
        """Rows, words and vector."""
        self._db.execute("BEGIN")
        self._delete(entry_id)
        self._db.execute("COMMIT")
        self._matrix = None

    def scrub(self) -> None:
        """Leave no byte of what was removed in the file: FTS5 keeps deleted words until its
        segments are merged, SQLite keeps pages until a vacuum, the log until a checkpoint."""
        self._db.execute("INSERT INTO words (words) VALUES ('optimize')")
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def visible(self, ids: Iterable[str], scope: Scope, day: str) -> dict[str, bool]:
        """Those that the asker may see -> whether they are released."""
        keys = [self._keys[name] for name in ids if name in self._keys]
        seen = self._visible_of(keys, scope, day, tuple(Kind))
        return {name: name in self._live for key in seen for name in (self._held[key].entry.id,)}

    def by_words(
        self, text: str, scope: Scope, day: str, *, kinds: Sequence[Kind], limit: int
    ) -> list[str]:
        """Ids of entries that share words with the text, best BM25 first."""
        asked = sorted({word for word in content_words(text)})
        if not asked or not kinds:
            return []
        query = f"""
          SELECT e.id FROM words JOIN entries e ON e.key = words.rowid
          WHERE words MATCH :match AND e.kind IN ({_listed(kinds)}) AND {_VISIBLE}
          ORDER BY bm25(words, {_TITLE_WEIGHT}, 1.0), e.id LIMIT :limit"""
        match = " OR ".join(f'"{word}"' for word in asked)
        values = {**_asker(scope, day), "match": match, "limit": limit}
        return [name for (name,) in self._db.execute(query, values)]

    def by_vector(
        self, text: str, scope: Scope, day: str, *, kinds: Sequence[Kind], limit: int
    ) -> list[str]:
        """Ids by cosine, best first; empty without an embedder."""
        asked = self._embed([text])
        if asked is None or not self._vectors:
            return []
        if self._matrix is None:
            keys = np.array(sorted(self._vectors), dtype=np.int64)
            self._matrix = keys, np.stack([self._vectors[key] for key in keys.tolist()])
        keys, matrix = self._matrix
        scores = matrix @ asked[0]
        order = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores >= _LEAST_COSINE)]
        found: list[str] = []
        for start in range(0, len(order), _BATCH):
            batch = [int(key) for key in keys[order[start : start + _BATCH]]]
            allowed = self._visible_of(batch, scope, day, kinds)
            found += [self._held[key].entry.id for key in batch if key in allowed]
            if len(found) >= limit:
                break
        return found[:limit]

    def by_entity(
        self, text: str, scope: Scope, day: str, *, kinds: Sequence[Kind]
    ) -> dict[str, Named]:
        """Id -> how the text names it, of all that it names."""
        named = self._entities.named(text)
        allowed = self._visible_of(list(named), scope, day, kinds)
        return {self._held[key].entry.id: named[key] for key in allowed}

    def _visible_of(
        self, keys: Sequence[int], scope: Scope, day: str, kinds: Sequence[Kind]
    ) -> set[int]:
        found: set[int] = set()
        for start in range(0, len(keys), _BATCH):
            some = ", ".join(str(key) for key in keys[start : start + _BATCH])
            query = f"""SELECT e.key FROM entries e
              WHERE e.key IN ({some}) AND e.kind IN ({_listed(kinds)}) AND {_VISIBLE}"""
            found.update(key for (key,) in self._db.execute(query, _asker(scope, day)))
        return found

    def vocabulary(self, entry_id: str) -> frozenset[str]:
        """Stemmed words of an entry's title and text."""
        return self._held[self._keys[entry_id]].vocabulary

    def _hold(self, key: int, entry: Entry) -> None:
        used = words(" ".join((title_of(entry), *texts(entry.payload).values())))
        held = _Held(entry, named_by(entry), frozenset(used))
        self._held[key], self._keys[entry.id] = held, key
        self._subjects[entry.payload.subject].add(key)
        self._entities.add(key, held.triggers, held.vocabulary)

    def _delete(self, entry_id: str) -> None:
        key = self._keys.pop(entry_id, None)
        if key is None:
            return
        held = self._held.pop(key)
        self._subjects[held.entry.payload.subject].discard(key)
        self._entities.remove(key, held.triggers, held.vocabulary)
        self._live -= {entry_id}
        self._vectors.pop(key, None)
        for table, column in (("entries", "key"), ("confirmers", "key"), ("vectors", "key"),
                              ("words", "rowid")):  # fmt: skip
            self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (key,))

    def _text(self, entry: Entry) -> str:
        return f"{title_of(entry)}\n{' '.join(texts(entry.payload).values())}"

    def _embed(self, parts: Sequence[str]) -> np.ndarray | None:
        return self._embedder(parts).astype(np.float32) if self._embedder and parts else None


def _asker(scope: Scope, day: str) -> dict[str, str | int]:
    return {"area": scope.area, "user": scope.user, "day": day}


def _listed(kinds: Sequence[Kind]) -> str:
    return ", ".join(f"'{kind.value}'" for kind in kinds)
