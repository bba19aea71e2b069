"""What can be found: rebuilt from truth and from confirmed entries whenever it is missing.

An entry is visible when the current release holds it (`live`) or when the asker confirmed it, and
not while it is unusable (schema drift) or outside its area and its days. What is released and what
each person confirmed are separate tiers: what the asker may not see is not ranked, and moves no
score, no word that counts as misspelt and no order. Bodies and vectors are kept in one SQLite
file; the rest is made of them in memory.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

import numpy as np

from stepwell.knowledge.embed import Embedder
from stepwell.knowledge.entities import Named
from stepwell.knowledge.entry import Entry
from stepwell.knowledge.formats import whole
from stepwell.knowledge.lexicon import Stems, Used
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
from stepwell.knowledge.tier import Held, Tier, View, by_cosine, by_name, by_words, seen
from stepwell.knowledge.words import content_words, words

_FORMAT = 2
_TABLES = """
CREATE TABLE entries (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE vectors (id TEXT PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE built (release TEXT NOT NULL);
"""


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

    def __init__(
        self, path: Path | None, *, embedder: Embedder | None, stems: Stems | None = None
    ) -> None:
        """`path`: None keeps it in memory. `stems`: of another index, which stays open."""
        if path is not None:
            _drop_other_format(path)
        self._db = sqlite3.connect(
            path or ":memory:", isolation_level=None, check_same_thread=False
        )
        self._db.executescript("PRAGMA secure_delete=ON; PRAGMA journal_mode=WAL;")
        if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
            self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={_FORMAT}; COMMIT;")
        self._embedder, self._stems, self._own_stems = embedder, stems or Stems(), stems is None
        self._held: dict[str, Held] = {}
        self._subjects: dict[str, set[str]] = defaultdict(set)
        self._live: frozenset[str] = frozenset()
        self._unusable: frozenset[str] = frozenset()
        self._released = Tier()
        self._own: dict[str, Tier] = defaultdict(Tier)
        vectors = dict(self._db.execute("SELECT id, vector FROM vectors"))
        for name, body in self._db.execute("SELECT id, body FROM entries"):
            blob = vectors.get(name)
            vector = None if blob is None else np.frombuffer(blob, dtype=np.float32)
            self._hold(from_markdown(body), vector)

    def close(self) -> None:
        self._db.close()
        if self._own_stems:
            self._stems.close()

    def holding(self, entries: Mapping[str, Entry]) -> Index:
        """Another index, in memory, where exactly these are live; close it before this one."""
        made = Index(None, embedder=self._embedder, stems=self._stems)
        known = [self._held.get(name) for name in entries]
        for held in known:
            if held is not None and held.entry == entries[held.entry.id]:
                made._keep(held)
        made.put(entry for name, entry in entries.items() if name not in made)
        made.set_live(list(entries))
        return made

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._held

    def get(self, entry_id: str) -> Entry:
        """Raises KeyError."""
        return self._held[entry_id].entry

    def ids(self) -> frozenset[str]:
        """All, visible to anybody or not."""
        return frozenset(self._held)

    def of_subject(self, subject: str) -> list[Entry]:
        """Whatever their kind, visible or not."""
        return [self._held[name].entry for name in sorted(self._subjects.get(subject, ()))]

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
        self._db.execute("DELETE FROM entries")
        self._db.execute("DELETE FROM vectors")
        self._held.clear()
        self._subjects.clear()
        self._live = self._unusable = frozenset()
        self._released = Tier()
        self._own.clear()

    def put(self, entries: Iterable[Entry]) -> None:
        """Add, or replace what has the same id; not visible before `set_live` or
        `set_confirmers`."""
        ready = list(entries)
        vectors = self._embed([_text(entry) for entry in ready])
        with whole(self._db):
            for place, entry in enumerate(ready):
                self._delete(entry.id)
                row = (entry.id, to_markdown(entry))
                self._db.execute("INSERT INTO entries VALUES (?, ?)", row)
                vector = None if vectors is None else vectors[place]
                if vector is not None:
                    blob = vector.tobytes()
                    self._db.execute("INSERT INTO vectors VALUES (?, ?)", (entry.id, blob))
                self._hold(entry, vector)

    def set_live(self, ids: Collection[str]) -> None:
        """What the current release holds; nothing else of what was released is visible."""
        now = frozenset(ids)
        self._released.remove(self._released.held.keys() - now)
        for name in sorted(now):
            if self._released.held.get(name) is not self._held[name]:
                self._released.add(self._held[name])
        self._live = now
        for tier in self._own.values():
            tier.remove(now)

    def live(self) -> frozenset[str]:
        """What the current release holds."""
        return self._live

    def set_confirmers(self, entry_id: str, users: Mapping[str, tuple[str, ...]]) -> None:
        """Who sees it although no release holds it, and what it replaces for each."""
        for user, tier in self._own.items():
            if user not in users:
                tier.remove([entry_id])
        held = self._held[entry_id]
        for user, supersedes in users.items() if entry_id not in self._live else ():
            entry = replace(held.entry, supersedes=supersedes)
            there = self._own[user].held.get(entry_id)
            if there is None or there.entry != entry:
                self._own[user].add(replace(held, entry=entry))

    def set_unusable(self, ids: Collection[str]) -> None:
        """These and no others."""
        self._unusable = frozenset(ids)

    def remove(self, entry_id: str) -> None:
        """From rows, words, names and vectors."""
        with whole(self._db):
            self._delete(entry_id)

    def scrub(self) -> None:
        """Leave no byte of what was removed in the file: SQLite keeps pages until a vacuum, the log
        until a checkpoint."""
        self._stems.forget()
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def visible(self, ids: Collection[str], scope: Scope, day: str) -> dict[str, bool]:
        """Those that the asker may see -> whether they are released."""
        found = seen(self._tiers(scope), ids, self._view(scope, day, tuple(Kind)))
        return {name: name in self._live for name in ids if name in found}

    def shown(self, entry_id: str, scope: Scope, day: str) -> Entry:
        """The entry as the asker is given it: it names no rival that he may not see, and replaces
        what he says it does. Raises KeyError."""
        own = self._own.get(scope.user)
        held = own.held.get(entry_id) if own is not None else None
        entry = (held or self._held[entry_id]).entry
        if not entry.contradicts:
            return entry
        rivals = self.visible(entry.contradicts, scope, day)
        return replace(entry, contradicts=tuple(rivals))

    def by_words(
        self, text: str, scope: Scope, day: str, *, kinds: Sequence[Kind], limit: int
    ) -> list[str]:
        """Ids of entries that share words with the text, best BM25 first."""
        stems = sorted(set(self._stems.of(" ".join(content_words(text)))))
        view = self._view(scope, day, kinds)
        return by_words(self._tiers(scope), stems, view, limit) if stems else []

    def by_vector(
        self, text: str, scope: Scope, day: str, *, kinds: Sequence[Kind], limit: int
    ) -> list[str]:
        """Ids by cosine, best first; empty without an embedder."""
        asked = self._embed([text])
        if asked is None:
            return []
        return by_cosine(self._tiers(scope), asked[0], self._view(scope, day, kinds), limit)

    def by_entity(
        self, text: str, scope: Scope, day: str, *, kinds: Sequence[Kind]
    ) -> Mapping[str, Named]:
        """Id -> how the text names it, of all that it names."""
        return by_name(self._tiers(scope), text, self._view(scope, day, kinds))

    def stems(self, text: str) -> set[str]:
        """Porter stems, as words are compared by."""
        return set(self._stems.of(text))

    def stems_of(self, entry_id: str) -> AbstractSet[str]:
        """Those of an entry's title and text."""
        return self._held[entry_id].used.weights.keys()

    def vocabulary(self, entry_id: str) -> frozenset[str]:
        """Words of an entry's title and text, plurals cut (`words`)."""
        return self._held[entry_id].vocabulary

    def _tiers(self, scope: Scope) -> list[Tier]:
        own = self._own.get(scope.user) if scope.user else None
        return [self._released] if own is None else [self._released, own]

    def _view(self, scope: Scope, day: str, kinds: Sequence[Kind]) -> View:
        return View(scope, day, tuple(kinds), self._unusable)

    def _hold(self, entry: Entry, vector: np.ndarray | None) -> None:
        title, body = title_of(entry), " ".join(texts(entry.payload).values())
        used = Used.of(self._stems.of(title), self._stems.of(body))
        vocabulary = frozenset(words(f"{title} {body}"))
        self._keep(Held(entry, named_by(entry), vocabulary, used, vector))

    def _keep(self, held: Held) -> None:
        self._held[held.entry.id] = held
        self._subjects[held.entry.payload.subject].add(held.entry.id)

    def _delete(self, entry_id: str) -> None:
        held = self._held.pop(entry_id, None)
        if held is None:
            return
        self._subjects[held.entry.payload.subject].discard(entry_id)
        for tier in (self._released, *self._own.values()):
            tier.remove([entry_id])
        self._live -= {entry_id}
        for table in ("entries", "vectors"):
            self._db.execute(f"DELETE FROM {table} WHERE id = ?", (entry_id,))

    def _embed(self, parts: Sequence[str]) -> np.ndarray | None:
        return self._embedder(parts).astype(np.float32) if self._embedder and parts else None


def _text(entry: Entry) -> str:
    return f"{title_of(entry)}\n{' '.join(texts(entry.payload).values())}"


def _drop_other_format(path: Path) -> None:
    """A file of another format is only a cache of one: it is made anew."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _FORMAT):
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            path.with_name(name).unlink(missing_ok=True)
