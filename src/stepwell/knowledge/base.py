"""The knowledge base of one tenant: the one way in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time

from stepwell.knowledge.entry import (
    ALWAYS,
    Dependency,
    Entry,
    Provenance,
    Source,
    Status,
    Validity,
    new_entry,
)
from stepwell.knowledge.errors import GateClosed, UnknownEntry
from stepwell.knowledge.payload import Payload, texts
from stepwell.knowledge.policy import (
    CONFIRMING,
    Capture,
    Captured,
    Evidence,
    Outcome,
    Pattern,
    Policy,
    Scope,
    Session,
)
from stepwell.knowledge.words import content_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An entry that a question brought up. `patterns`: by which ways."""

    entry: Entry
    patterns: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a request is given, in this order: `pack` (the same bytes for every request of an area
    and a release), `session` (only ever extended), `tail` (of this request alone).

    `ids`: every entry in it. `fresh`: those that this question selected, in order of relevance.
    `release`: empty before the first one.
    """

    pack: str
    session: str
    tail: str
    ids: tuple[str, ...]
    fresh: tuple[str, ...]
    entries: tuple[Entry, ...]
    release: str

    @property
    def text(self) -> str:
        """All parts, joined: what precedes the question."""
        return self.pack + self.session + self.tail


class Knowledge:
    """Not safe for several threads. Methods raise the errors of `knowledge.errors`."""

    def __init__(self, folder: Path, *, tenant: str, policy: Policy) -> None:
        self._folder, self._tenant, self._policy = folder, tenant, policy
        self._entries: dict[str, Entry] = {}
        self._releases: list[frozenset[str]] = []
        self._current = -1

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        tenant: str,
        policy: Policy | None = None,
        clock: Callable[[], float] = time,
    ) -> Knowledge:
        """Open or create `folder/<tenant>`. `clock`: seconds since 1970."""
        return cls(Path(folder) / tenant, tenant=tenant, policy=policy or Policy())

    def close(self) -> None:
        """Close the files."""

    def capture(
        self,
        payload: Payload,
        *,
        by: str,
        evidence: Evidence,
        source: Source = Source.MODEL,
        area: str = "",
        triggers: Sequence[str] = (),
        depends_on: Sequence[str] = (),
        parents: Sequence[str] = (),
        validity: Validity = ALWAYS,
        session: Session | None = None,
    ) -> Captured:
        """Store a candidate: in nobody's context until it is confirmed.

        `depends_on`: `table` or `table.column`; what a template's SQL names is added, and hashes
        are those last given to `drift`. `parents`: entries it was made from. `session`: where the
        answer was given; what its context already said is not captured again.
        """
        if self._policy.capture is Capture.OFF:
            raise GateClosed("capture is off.", hint="Policy(capture=Capture.QUARANTINE).")
        entry = new_entry(
            payload,
            area=area,
            triggers=tuple(triggers),
            depends_on=tuple(Dependency(name=name) for name in depends_on),
            validity=validity,
            provenance=Provenance(source=source, by=by, at="", parents=tuple(parents)),
            parents=(),
        )
        known = entry.id in self._entries
        self._entries.setdefault(entry.id, entry)
        return Captured(id=entry.id, outcome=Outcome.MERGED if known else Outcome.NEW)

    def confirm(
        self,
        entry_id: str,
        *,
        by: str,
        evidence: Evidence = Evidence.USER_CONFIRMED,
        edited: Payload | None = None,
        supersedes: Sequence[str] = (),
    ) -> Entry:
        """A person vouches for a candidate: it is in `by`'s context from the next request on.

        `edited`: what the person made of it; the candidate is retired and the edit confirmed.
        `supersedes`: entries that it replaces for everybody once released.
        """
        if evidence not in CONFIRMING:
            raise GateClosed(f"{evidence.value} does not confirm.", hint="A person has to.")
        self._entries[entry_id] = self.entry(entry_id).with_status(Status.CONFIRMED)
        return self._entries[entry_id]

    def reject(self, entry_id: str, *, by: str, reason: str = "") -> Entry:
        """Retire a candidate, or a confirmed entry that is not released."""
        self._entries[entry_id] = self.entry(entry_id).with_status(Status.RETIRED)
        return self._entries[entry_id]

    def entry(self, entry_id: str) -> Entry:
        """Raises UnknownEntry, EntryErased."""
        if entry_id not in self._entries:
            raise UnknownEntry(f"no entry {entry_id!r}.", hint="See `entries`.", param="id")
        return self._entries[entry_id]

    def search(self, text: str, scope: Scope, budget_tokens: int = 1024) -> tuple[Found, ...]:
        """Best first, at most `budget_tokens` of rendered text. Changes nothing."""
        asked = set(content_words(text))
        usable = (Status.CONFIRMED, Status.RELEASED)
        hits = [
            (len(asked & set(content_words(" ".join(texts(entry.payload).values())))), entry)
            for entry in self._entries.values()
            if entry.status in usable and entry.area in ("", scope.area)
        ]
        ranked = sorted(((n, e) for n, e in hits if n), key=lambda hit: (-hit[0], hit[1].id))
        return tuple(Found(entry=entry, patterns=(Pattern.DOMAIN,)) for _, entry in ranked[:8])

    def context(self, question: str, session: Session, budget_tokens: int = 1024) -> Context:
        """What the request is to be given; remembers in the session what was shown.

        `budget_tokens`: for the part that this question selects.
        """
        found = self.search(question, session.scope, budget_tokens)
        entries = tuple(hit.entry for hit in found)
        tail = "".join("\n".join(texts(entry.payload).values()) + "\n" for entry in entries)
        ids = tuple(entry.id for entry in entries)
        release = f"r{self._current + 1:04}" if self._current >= 0 else ""
        return Context(
            pack="", session="", tail=tail, ids=ids, fresh=ids, entries=entries, release=release
        )

    def release(self, *, by: str) -> str:
        """Make what is confirmed everybody's; the name of the new release.

        Raises ReleaseBlocked when a regression case passes before and fails after.
        """
        ready = {i for i, e in self._entries.items() if e.status is Status.CONFIRMED}
        for name in ready:
            self._entries[name] = self._entries[name].with_status(Status.RELEASED)
        before = self._releases[self._current] if self._current >= 0 else frozenset()
        self._releases.append(before | ready)
        self._current = len(self._releases) - 1
        return f"r{self._current + 1:04}"

    def rollback(self, to: str, *, by: str) -> str:
        """Make an earlier release current again; rendered bytes are those of then."""
        self._current = int(to.removeprefix("r")) - 1
        return to

    def erase(self, entry_id: str, *, by: str, history: bool = False) -> None:
        """Remove an entry from rows, index, vectors and the current release; with `history` from
        every release that ever held it. Only a tombstone with its id stays."""
        self._entries.pop(entry_id, None)

    def drift(self, schema_hashes: Mapping[str, str]) -> tuple[str, ...]:
        """Tell what the schema is now: `table` or `table.column` -> hash. Entries that depend on
        something that changed or is gone are not used until `revalidate`; returns their ids."""
        return tuple(
            entry.id
            for entry in self._entries.values()
            if any(d.hash and schema_hashes.get(d.name) != d.hash for d in entry.depends_on)
        )

    def revalidate(self, entry_id: str, *, by: str) -> None:
        """A person vouches that an entry still holds under the schema of now."""
