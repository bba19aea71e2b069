"""From what is confirmed to what everybody is given: plan, check, write, switch.

A release is made whole (entries, packs, digest) before the pointer moves to it, and none is ever
changed, so that a rollback is the pointer moved back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from stepwell.knowledge.context import Asking, Context, packs_of
from stepwell.knowledge.entry import Entry, Status
from stepwell.knowledge.gate import Gate, rivals
from stepwell.knowledge.harness import Case
from stepwell.knowledge.index import Index
from stepwell.knowledge.markdown import from_markdown, to_markdown
from stepwell.knowledge.policy import Policy, Releaser, Scope
from stepwell.knowledge.records import Records
from stepwell.knowledge.render import CountTokens
from stepwell.knowledge.session import Shown
from stepwell.knowledge.truth import Contents, Truth, diff_entries, digest


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

    def plan(self, *, by: str, retire: Collection[str], unusable: Collection[str]) -> Plan:
        """The current release, less `retire` and what is replaced, with what is ready."""
        current = self.truth.current()
        before = self.truth.contents(current).entries if current else {}
        gone = {*retire, *self.records.tombstones()}
        held_entries = {k: from_markdown(v) for k, v in before.items() if k not in gone}
        ready, held = self._ready(by, unusable)
        about: dict[str, list[Entry]] = defaultdict(list)
        for entry in (*held_entries.values(), *ready.values()):
            about[entry.payload.subject].append(entry)
        for entry in ready.values():
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
                ready[entry.id] = entry
        return ready, held

    def _why_not(self, entry: Entry, by: str, unusable: Collection[str]) -> str:
        people = self.gate.confirmers(entry.id)
        if len(people) < self.policy.confirmers:
            return f"confirmed by {len(people)} of {self.policy.confirmers}"
        if self.policy.releaser is Releaser.OTHER and set(people) == {by}:
            return "confirmed only by who releases"
        if entry.trust < self.policy.release_trust:
            return f"trust {entry.trust.name.lower()} is too low"
        return "the schema changed" if entry.id in unusable else ""


def _rival(entry: Entry, about: list[Entry]) -> str:
    """The first entry of the same subject that says otherwise, unless one replaces the other."""
    for other in about:
        if (
            rivals(other, entry.kind.value, entry.area)
            and other.payload.claim != entry.payload.claim
            and other.id not in entry.supersedes
            and entry.id not in other.supersedes
        ):
            return other.id
    return ""


def asker(
    entries: Mapping[str, Entry],
    *,
    packs: Mapping[str, str],
    base: Asking,
    make_index: Callable[[], Index],
    budget_tokens: int,
) -> tuple[Callable[[Case], Context], Index]:
    """What a case would be given if these entries were released; the caller closes the index."""
    index = make_index()
    index.put(entries.values())
    index.set_live(list(entries))
    asking = replace(base, index=index)

    def ask(case: Case) -> Context:
        pack = packs.get(case.area, packs.get("", ""))
        return asking.assemble(
            case.question,
            Scope(area=case.area),
            pack=pack,
            shown=Shown(asking.release),
            budget_tokens=budget_tokens,
        )

    return ask, index
