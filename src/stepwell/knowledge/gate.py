"""What may become knowledge, and on whose word.

Captures are quarantined as candidates; a person confirms them; a release makes them everybody's
(`release`). Nothing is merged silently: the same claim adds evidence, another claim about the same
subject is stored beside the first and both are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from stepwell.knowledge.claim import Claim
from stepwell.knowledge.entry import (
    Dependency,
    Entry,
    Provenance,
    Status,
    new_entry,
    said,
)
from stepwell.knowledge.errors import EntryErased, GateClosed, UnknownEntry
from stepwell.knowledge.hubs import hub_findings
from stepwell.knowledge.parts import Parts
from stepwell.knowledge.payload import Payload, Template, check, kind_of, texts
from stepwell.knowledge.policy import (
    CONFIRMING,
    Capture,
    Captured,
    Evidence,
    Outcome,
)
from stepwell.knowledge.records import Vote
from stepwell.knowledge.safety import lint
from stepwell.knowledge.sql import shape, tables_and_columns
from stepwell.knowledge.words import words

_SHINGLE = 8
_COPIED_SHARE = 0.5
_LITERAL = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(?:\.\d+)?")


class Gate:
    """Decides; `records` and `index` hold what came of it.

    Nobody's word changes what another person has in force: what one enters merges only into what is
    released, or into what says the same on the same ground; votes are by person, the last counts.
    """

    def __init__(self, parts: Parts) -> None:
        self._records, self._index, self._sessions = parts.records, parts.index, parts.sessions
        self._policy, self._parts = parts.policy, parts

    def capture(self, claim: Claim) -> Captured:
        """See `base.Knowledge.capture`."""
        if self._policy.capture is Capture.OFF:
            raise GateClosed(
                "capture is off for this tenant.", hint="Policy(capture=Capture.QUARANTINE)."
            )
        check(claim.payload)
        self._refuse_erased("", said(area=claim.area, payload=claim.payload))
        if copied := self._copied(claim):
            self._parts.log("retrieved", copied, by=claim.by)
            return Captured(id=copied, outcome=Outcome.RETRIEVED)
        same, other = self._of_subject(claim.payload, claim.area)
        entry = self._made(claim, contradicts=tuple(item.id for item in other))
        if known := self._known(entry, same, claim.by):
            return self._merge(known, claim.evidence, claim.by)
        return self._add(entry, claim, same=tuple(item.id for item in same))

    def _made(self, claim: Claim, *, contradicts: tuple[str, ...]) -> Entry:
        return new_entry(
            claim.payload,
            area=claim.area,
            triggers=tuple(claim.triggers),
            depends_on=self._dependencies(claim.payload, claim.depends_on),
            validity=claim.validity,
            provenance=Provenance(
                source=claim.source,
                by=claim.by,
                at=self._parts.now(),
                parents=tuple(claim.parents),
            ),
            parents=[self.entry(name).trust for name in claim.parents],
            contradicts=contradicts,
        )

    def _add(self, entry: Entry, claim: Claim, *, same: tuple[str, ...]) -> Captured:
        findings = (*lint(entry), *hub_findings(entry, self._index))
        if self._records.pending(claim.by) >= self._policy.pending:
            raise GateClosed(
                f"{self._policy.pending} candidates of {claim.by!r} wait for a decision.",
                hint="Confirm or reject some.",
            )
        self._records.put(entry, by=claim.by, findings=findings)
        self._note(entry.id, "captured", claim.evidence, claim.by)
        return Captured(
            id=entry.id,
            outcome=Outcome.NEW,
            findings=findings,
            contradicts=entry.contradicts,
            same=same,
        )

    def _note(self, name: str, what: str, evidence: Evidence, by: str) -> None:
        self._records.add_evidence(name, evidence, by=by, at=self._parts.now())
        self._parts.log(what, name, by=by, detail=evidence.value)

    def confirm(
        self, name: str, *, by: str, evidence: Evidence, supersedes: Sequence[str]
    ) -> Entry:
        """See `base.Knowledge.confirm`."""
        if evidence not in CONFIRMING:
            valid = ", ".join(sorted(item.value for item in CONFIRMING))
            raise GateClosed(f"{evidence.value} does not confirm.", hint=f"Valid: {valid}.")
        entry = self.entry(name)
        if entry.status is Status.RETIRED and self._records.get(name) is None:
            raise GateClosed(f"{name} was released and is retired.", hint="Capture it again.")
        if findings := self._records.findings(name):
            raise GateClosed(f"{name} has findings: {', '.join(findings)}.", hint="Edit it first.")
        for old in supersedes:
            self.entry(old)
        self._note(name, "confirmed", evidence, by)
        before = {vote.by: vote.supersedes for vote in self._records.votes(name) if vote.confirms}
        links = tuple(dict.fromkeys((*before.get(by, ()), *supersedes)))
        self._records.vote(name, Vote(by, True, links))
        if entry.status is Status.RELEASED:
            return entry
        entry = entry.with_status(Status.CONFIRMED)
        self._records.replace(entry)
        if name not in self._index or self._index.get(name) != entry:
            self._index.put([entry])
        self.show(name)
        return replace(entry, supersedes=links)

    def show(self, name: str) -> None:
        """Put a confirmed entry into its confirmers' contexts, with what each says it replaces."""
        confirming = [vote for vote in self._records.votes(name) if vote.confirms]
        self._index.set_confirmers(name, {vote.by: vote.supersedes for vote in confirming})

    def reject(self, name: str, *, by: str, reason: str) -> Entry:
        """See `base.Knowledge.reject`."""
        entry = self.entry(name)
        if self._records.get(name) is None:
            raise GateClosed(f"{name} is released.", hint="Release without it: retire=(id,).")
        self._records.vote(name, Vote(by, False))
        self._records.add_evidence(name, Evidence.REJECTED, by=by, at=self._parts.now())
        self._parts.log("rejected", name, by=by, detail=reason)
        if self.confirmers(name):
            self.show(name)
            return self.entry(name)
        return self.retire(entry)

    def retire(self, entry: Entry) -> Entry:
        """Take what is not released out of every context."""
        entry = entry.with_status(Status.RETIRED)
        self._records.replace(entry)
        self._index.remove(entry.id)
        return entry

    def failed(self, error: str, question: str, *, by: str) -> str | None:
        """Log a failure; its signature from the second time on."""
        signature = _LITERAL.sub("?", " ".join(error.split()))[:500]
        times = self._records.fail(signature, question)
        self._parts.log("failed", "", by=by)
        return signature if times >= 2 else None

    def entry(self, name: str) -> Entry:
        """With its status of now. Raises UnknownEntry, EntryErased."""
        self._refuse_erased(name)
        if (held := self._records.get(name)) is not None:
            return replace(held, supersedes=self.replaced_by(name))
        if name not in self._index:
            raise UnknownEntry(f"no entry {name!r}.", hint="`entries` lists them.", param="id")
        live = name in self._index.live()
        return self._index.get(name).with_status(Status.RELEASED if live else Status.RETIRED)

    def confirmers(self, name: str) -> tuple[str, ...]:
        """People whose last word on it is that it holds."""
        return tuple(vote.by for vote in self._records.votes(name) if vote.confirms)

    def support(self, name: str) -> tuple[int, int]:
        """People whose last word is that it holds, and that it does not."""
        votes = self._records.votes(name)
        holds = sum(vote.confirms for vote in votes)
        return holds, len(votes) - holds

    def replaced_by(self, name: str) -> tuple[str, ...]:
        """What it replaces, says any of its confirmers."""
        votes = [vote for vote in self._records.votes(name) if vote.confirms]
        return tuple(dict.fromkeys(old for vote in votes for old in vote.supersedes))

    def _refuse_erased(self, name: str, what: str = "") -> None:
        if self._records.was_erased(name, what):
            named = name or "what this says"
            raise EntryErased(f"{named} was erased.", hint="It cannot come back.", param="id")

    def _known(self, entry: Entry, same: Sequence[Entry], by: str) -> Entry | None:
        """What a capture adds evidence to: the released entry of the same claim, the entry that is
        the same in all, or one that nobody but `by` has had a hand in."""
        for other in same:
            if other.id == entry.id or other.status is Status.RELEASED or self._only(other, by):
                return other
        return None

    def _only(self, entry: Entry, by: str) -> bool:
        people = {who for _, who in self._records.evidence(entry.id)}
        people |= {vote.by for vote in self._records.votes(entry.id)}
        return people | {self._records.author(entry.id)} == {by}

    def _merge(self, entry: Entry, evidence: Evidence, by: str) -> Captured:
        self._note(entry.id, "merged", evidence, by)
        self._records.seen_again(entry.id)
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
                known[entry.id] = entry.with_status(Status.RELEASED)
        near = [
            entry
            for _, entry in sorted(known.items())
            if entry.status is not Status.RETIRED and rivals(entry, kind_of(payload).value, area)
        ]
        same = [e for e in near if e.payload.claim == payload.claim and e.area == area]
        return same, [e for e in near if e.payload.claim != payload.claim]

    def _copied(self, claim: Claim) -> str:
        """The entry that the answer was given and that this one only repeats; else empty."""
        given = set(claim.given)
        if claim.session is not None:
            given.update(self._sessions.offered(claim.session))
        for name in sorted(given):
            if name in self._index and _repeats(claim.payload, self._index.get(name).payload):
                return name
        return ""

    def _dependencies(self, payload: Payload, names: Iterable[str]) -> tuple[Dependency, ...]:
        found = {name.casefold() for name in names}
        if isinstance(payload, Template):
            found |= set(tables_and_columns(payload.sql))
        hashes = self._records.hashes()
        return tuple(Dependency(name=name, hash=hashes.get(name, "")) for name in sorted(found))


def rivals(entry: Entry, kind: str, area: str) -> bool:
    """Whether an entry of that kind and area could contradict this one, the subject being equal."""
    return entry.kind.value == kind and (entry.area == area or "" in (entry.area, area))


def _repeats(new: Payload, given: Payload) -> bool:
    """The same claim of the same kind, or text half of which stands in the other."""
    if isinstance(new, Template) and isinstance(given, Template):
        return shape(new.sql) == shape(given.sql)
    if kind_of(new) is kind_of(given) and new.claim == given.claim:
        return True
    ours, theirs = _shingles(new), _shingles(given)
    return bool(ours) and len(ours & theirs) >= _COPIED_SHARE * len(ours)


def _shingles(payload: Payload) -> set[tuple[str, ...]]:
    found = words(" ".join(texts(payload).values()))
    return {tuple(found[i : i + _SHINGLE]) for i in range(len(found) - _SHINGLE + 1)}
