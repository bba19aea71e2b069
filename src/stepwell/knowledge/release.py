"""From what is confirmed to what everybody is given: plan, check, write, switch.

A release is made whole (entries, packs, digest) before the pointer moves to it, and none is ever
changed, so that a rollback is the pointer moved back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from stepwell.knowledge.contents import Contents, diff_entries, digest
from stepwell.knowledge.context import packs_of
from stepwell.knowledge.entry import Entry, Status
from stepwell.knowledge.gate import Gate, rivals
from stepwell.knowledge.markdown import from_markdown, to_markdown
from stepwell.knowledge.policy import Policy, Releaser
from stepwell.knowledge.records import Records
from stepwell.knowledge.render import CountTokens
from stepwell.knowledge.screen import unsafe
from stepwell.knowledge.truth import Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a release would hold. `held`: confirmed entries that stay behind -> why. `digest`: what
    a waiver has to name. `diff`: for the eye."""

    contents: Contents
    entries: Mapping[str, Entry]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    held: Mapping[str, str]
    digest: str
    diff: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Reads only."""

    records: Records
    truth: Truth
    gate: Gate
    policy: Policy
    count_tokens: CountTokens

    def plan(
        self,
        *,
        by: str,
        retire: Collection[str],
        unusable: Collection[str],
        screened: Mapping[str, str] = MappingProxyType({}),
    ) -> Plan:
        """The current release, less `retire` and what is replaced, with what is ready. `screened`:
        entries that stay behind besides -> why (`screen`)."""
        current = self.truth.current()
        before = self.truth.contents(current).entries if current else {}
        gone = {*retire, *self.records.tombstones()}
        held_entries = {k: from_markdown(v) for k, v in before.items() if k not in gone}
        ready, held = self._ready(by, unusable)
        held |= {name: why for name, why in screened.items() if name in ready}
        self._hold_doubles(ready, held, held_entries)
        for entry in ready.values():
            if entry.id not in held and (why := self._outvoted(entry, held_entries)):
                held[entry.id] = why
        about: dict[str, list[Entry]] = defaultdict(list)
        standing = (entry for entry in ready.values() if entry.id not in held)
        for entry in (*held_entries.values(), *standing):
            about[entry.payload.subject].append(entry)
        for entry in (entry for entry in ready.values() if entry.id not in held):
            if rival := _rival(entry, about[entry.payload.subject]):
                held[entry.id] = f"contradicts {rival}"
        added = {name: entry for name, entry in ready.items() if name not in held}
        replaced = {old for entry in added.values() for old in entry.supersedes}
        after = {k: e for k, e in held_entries.items() if k not in replaced} | {
            name: replace(entry, contradicts=(), status=Status.RELEASED)
            for name, entry in added.items()
        }
        texts = {name: before.get(name) or to_markdown(entry) for name, entry in after.items()}
        packs = packs_of(after.values(), policy=self.policy, count_tokens=self.count_tokens)
        contents = Contents(entries=texts, packs=packs)
        return Plan(
            contents=contents,
            entries=after,
            added=tuple(sorted(added)),
            removed=tuple(sorted(before.keys() - after.keys())),
            held=dict(sorted(held.items())),
            digest=digest(contents),
            diff=diff_entries(before, texts, old=current or "nothing", new="next"),
        )

    def _ready(self, by: str, unusable: Collection[str]) -> tuple[dict[str, Entry], dict[str, str]]:
        ready: dict[str, Entry] = {}
        held: dict[str, str] = {}
        for entry in self.records.with_status(Status.CONFIRMED):
            if why := self._why_not(entry, by, unusable):
                held[entry.id] = why
            else:
                replaces = self.gate.replaced_by(entry.id)
                ready[entry.id] = replace(entry, supersedes=replaces)
        return ready, held

    def _hold_doubles(
        self, ready: Mapping[str, Entry], held: dict[str, str], released: Mapping[str, Entry]
    ) -> None:
        """Of entries that make the same claim, only the one that most people vouch for comes in,
        of equals the oldest."""
        first: dict[tuple[str, ...], str] = {same_claim(e): name for name, e in released.items()}

        def order(entry: Entry) -> tuple[int, str, str]:
            return -self._net(entry.id), entry.provenance.at, entry.id

        for entry in sorted(ready.values(), key=order):
            other = first.setdefault(same_claim(entry), entry.id)
            if other != entry.id:
                held[entry.id] = f"says the same as {other}"

    def _outvoted(self, entry: Entry, released: Mapping[str, Entry]) -> str:
        """What is released gives way to as many people as vouch for it, and what is no rival only
        to as many as a release needs. (`retire` takes it out in any case.)"""
        for old in entry.supersedes:
            if (there := released.get(old)) is None:
                continue
            ours, theirs = self._net(entry.id), self._net(old)
            if ours < theirs:
                return f"replaces {old}, for which {theirs} people vouch, with {ours}"
            votes = self.records.votes(entry.id)
            named = sum(vote.confirms and old in vote.supersedes for vote in votes)
            if not _contradict(entry, there) and named < self.policy.confirmers:
                return f"replaces {old}, say {named} of {self.policy.confirmers}"
        return ""

    def _net(self, name: str) -> int:
        holds, against = self.gate.support(name)
        return holds - against

    def _why_not(self, entry: Entry, by: str, unusable: Collection[str]) -> str:
        people = self.gate.confirmers(entry.id)
        holds, against = self.gate.support(entry.id)
        if holds - against < self.policy.confirmers:
            rejected = f", rejected by {against}" if against else ""
            return f"confirmed by {holds} of {self.policy.confirmers}{rejected}"
        if self.policy.releaser is Releaser.OTHER and set(people) == {by}:
            return "confirmed only by who releases"
        if entry.trust < self.policy.release_trust:
            return f"trust {entry.trust.name.lower()} is too low"
        if entry.id in unusable:
            return "the schema changed"
        return unsafe(entry)


def _rival(entry: Entry, about: list[Entry]) -> str:
    """The first entry of the same subject that says otherwise, unless one replaces the other."""
    for other in about:
        replaced = other.id in entry.supersedes or entry.id in other.supersedes
        if _contradict(entry, other) and not replaced:
            return other.id
    return ""


def _contradict(one: Entry, other: Entry) -> bool:
    return (
        one.payload.subject == other.payload.subject
        and rivals(other, one.kind.value, one.area)
        and other.payload.claim != one.payload.claim
    )


def same_claim(entry: Entry) -> tuple[str, ...]:
    """Equal for entries that say the same of the same."""
    return entry.area, entry.kind.value, entry.payload.subject, entry.payload.claim
