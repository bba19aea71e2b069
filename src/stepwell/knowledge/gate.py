"""What may become knowledge, and on whose word.

Captures are quarantined as candidates; a person confirms them; a release makes them everybody's
(`release`). Nothing is merged silently: the same claim adds evidence, another claim about the same
subject is stored beside the first and both are named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from stepwell.knowledge.entry import (
    Dependency,
    Entry,
    Provenance,
    Source,
    Status,
    Validity,
    entry_id,
    new_entry,
)
from stepwell.knowledge.errors import EntryErased, GateClosed, UnknownEntry
from stepwell.knowledge.index import Index
from stepwell.knowledge.payload import Payload, Template, check, kind_of, texts
from stepwell.knowledge.policy import (
    CONFIRMING,
    Capture,
    Captured,
    Evidence,
    Outcome,
    Policy,
    Session,
)
from stepwell.knowledge.records import Event, Records
from stepwell.knowledge.safety import lint
from stepwell.knowledge.session import Sessions
from stepwell.knowledge.sql import tables_and_columns
from stepwell.knowledge.words import words

_SHINGLE = 8
_COPIED_SHARE = 0.5
_LITERAL = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(?:\.\d+)?")


class Gate:
    """Decides; `records` and `index` hold what came of it. `now`: UTC, ISO 8601."""

    def __init__(
        self,
        *,
        records: Records,
        index: Index,
        sessions: Sessions,
        policy: Policy,
        now: Callable[[], str],
    ) -> None:
        self._records, self._index, self._sessions = records, index, sessions
        self._policy, self._now = policy, now

    def capture(
        self,
        payload: Payload,
        *,
        by: str,
        evidence: Evidence,
        source: Source,
        area: str,
        triggers: Sequence[str],
        depends_on: Sequence[str],
        parents: Sequence[str],
        validity: Validity,
        session: Session | None,
    ) -> Captured:
        """See `base.Knowledge.capture`."""
        if self._policy.capture is Capture.OFF:
            raise GateClosed(
                "capture is off for this tenant.", hint="Policy(capture=Capture.QUARANTINE)."
            )
        check(payload)
        self._refuse_erased(entry_id(area=area, payload=payload))
        if session is not None and (copied := self._copied(payload, session)):
            self._log("retrieved", copied, by)
            return Captured(id=copied, outcome=Outcome.RETRIEVED)
        same, other = self._of_subject(payload, area)
        if same:
            return self._merge(same[0], evidence, by)
        entry = new_entry(
            payload,
            area=area,
            triggers=tuple(triggers),
            depends_on=self._dependencies(payload, depends_on),
            validity=validity,
            provenance=Provenance(source=source, by=by, at=self._now(), parents=tuple(parents)),
            parents=[self.entry(name).trust for name in parents],
            contradicts=tuple(item.id for item in other),
        )
        findings = lint(entry)
        if self._records.pending(by) >= self._policy.pending:
            raise GateClosed(
                f"{self._policy.pending} candidates of {by!r} wait for a decision.",
                hint="Confirm or reject some.",
            )
        self._records.put(entry, by=by, findings=findings)
        self._records.add_evidence(entry.id, evidence, by=by, at=self._now())
        self._log("captured", entry.id, by, detail=evidence.value)
        return Captured(
            id=entry.id, outcome=Outcome.NEW, findings=findings, contradicts=entry.contradicts
        )

    def confirm(
        self, name: str, *, by: str, evidence: Evidence, supersedes: Sequence[str]
    ) -> Entry:
        """See `base.Knowledge.confirm`."""
        if evidence not in CONFIRMING:
            valid = ", ".join(sorted(item.value for item in CONFIRMING))
            raise GateClosed(f"{evidence.value} does not confirm.", hint=f"Valid: {valid}.")
        entry = self.entry(name)
        if entry.status is Status.RETIRED:
            raise GateClosed(f"{name} is retired.", hint="Capture it again in other words.")
        if findings := self._records.findings(name):
            raise GateClosed(f"{name} has findings: {', '.join(findings)}.", hint="Edit it first.")
        for old in supersedes:
            self.entry(old)
        self._records.add_evidence(name, evidence, by=by, at=self._now())
        self._log("confirmed", name, by, detail=evidence.value)
        if entry.status is Status.RELEASED:
            return entry
        links = tuple(dict.fromkeys((*entry.supersedes, *supersedes)))
        entry = _linked(entry, links).with_status(Status.CONFIRMED)
        self._records.replace(entry)
        self._index.put([entry])
        self._index.set_confirmers(name, self.confirmers(name))
        return entry

    def reject(self, name: str, *, by: str, reason: str) -> Entry:
        """See `base.Knowledge.reject`."""
        entry = self.entry(name)
        if self._records.get(name) is None:
            raise GateClosed(f"{name} is released.", hint="Release without it: retire=(id,).")
        entry = entry.with_status(Status.RETIRED)
        self._records.replace(entry)
        self._index.remove(name)
        self._log("rejected", name, by, detail=reason)
        return entry

    def failed(self, error: str, question: str, *, by: str) -> str | None:
        """Log a failure; its signature from the second time on."""
        signature = _LITERAL.sub("?", " ".join(error.split()))[:500]
        times = self._records.fail(signature, question)
        self._log("failed", "", by)
        return signature if times >= 2 else None

    def entry(self, name: str) -> Entry:
        """With its status of now. Raises UnknownEntry, EntryErased."""
        self._refuse_erased(name)
        if (held := self._records.get(name)) is not None:
            return held
        if name not in self._index:
            raise UnknownEntry(f"no entry {name!r}.", hint="`entries` lists them.", param="id")
        live = name in self._index.live()
        return self._index.get(name).with_status(Status.RELEASED if live else Status.RETIRED)

    def confirmers(self, name: str) -> tuple[str, ...]:
        """People who vouched for it, each once."""
        found = [by for what, by in self._records.evidence(name) if what in CONFIRMING]
        return tuple(dict.fromkeys(found))

    def _refuse_erased(self, name: str) -> None:
        if name in self._records.tombstones():
            raise EntryErased(f"{name} was erased.", hint="It cannot come back.", param="id")

    def _merge(self, entry: Entry, evidence: Evidence, by: str) -> Captured:
        self._records.add_evidence(entry.id, evidence, by=by, at=self._now())
        self._records.seen_again(entry.id)
        self._log("merged", entry.id, by, detail=evidence.value)
        return Captured(
            id=entry.id,
            outcome=Outcome.MERGED,
            findings=self._records.findings(entry.id),
            contradicts=entry.contradicts,
        )

    def _of_subject(self, payload: Payload, area: str) -> tuple[list[Entry], list[Entry]]:
        """Candidates, confirmed and released entries that say the same, and another thing."""
        live = self._index.live()
        known = {e.id: e for e in self._records.of_subject(payload.subject)}
        for entry in self._index.of_subject(payload.subject):
            if entry.id in live:
                known.setdefault(entry.id, entry)
        near = [
            entry
            for _, entry in sorted(known.items())
            if entry.status is not Status.RETIRED and rivals(entry, kind_of(payload).value, area)
        ]
        same = [e for e in near if e.payload.claim == payload.claim and e.area == area]
        return same, [e for e in near if e.payload.claim != payload.claim]

    def _copied(self, payload: Payload, session: Session) -> str:
        """The entry that the session was given and that this one only repeats; else empty."""
        for name in sorted(self._sessions.offered(session)):
            if name in self._index and _repeats(payload, self._index.get(name).payload):
                return name
        return ""

    def _dependencies(self, payload: Payload, names: Iterable[str]) -> tuple[Dependency, ...]:
        found = {name.casefold() for name in names}
        if isinstance(payload, Template):
            found |= set(tables_and_columns(payload.sql))
        hashes = self._records.hashes()
        return tuple(Dependency(name=name, hash=hashes.get(name, "")) for name in sorted(found))

    def _log(self, what: str, name: str, by: str, detail: str = "") -> None:
        self._records.log(Event(at=self._now(), what=what, id=name, by=by, detail=detail))


def rivals(entry: Entry, kind: str, area: str) -> bool:
    """Whether an entry of that kind and area could contradict this one, the subject being equal."""
    return entry.kind.value == kind and (entry.area == area or "" in (entry.area, area))


def _linked(entry: Entry, supersedes: Collection[str]) -> Entry:
    return replace(entry, supersedes=tuple(supersedes))


def _repeats(new: Payload, given: Payload) -> bool:
    """The same claim of the same kind, or text half of which stands in the other."""
    if kind_of(new) is kind_of(given) and new.claim == given.claim:
        return True
    ours, theirs = _shingles(new), _shingles(given)
    return bool(ours) and len(ours & theirs) >= _COPIED_SHARE * len(ours)


def _shingles(payload: Payload) -> set[tuple[str, ...]]:
    found = words(" ".join(texts(payload).values()))
    return {tuple(found[i : i + _SHINGLE]) for i in range(len(found) - _SHINGLE + 1)}
