"""What one request is given: the pack, what the session was shown, a tail of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stepwell.knowledge.entry import Entry
from stepwell.knowledge.index import Index
from stepwell.knowledge.policy import Policy, Scope
from stepwell.knowledge.render import PREAMBLE, CountTokens, canonical, ids_in, render, render_entry
from stepwell.knowledge.retrieve import Found, select
from stepwell.knowledge.session import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a request is given, in this order: `pack` (the same bytes for every request of an area
    and a release), `session` (only ever extended), `tail` (of this request alone).

    `ids`: every entry in it, in order of appearance; `entries`: the same. `fresh`: what this
    question selected, in order of relevance, wherever it stands. `release`: empty before the first.
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


def pack_text(
    entries: Iterable[Entry], area: str, *, policy: Policy, count_tokens: CountTokens
) -> str:
    """What every request of an area is given in front; canonical order, cut at `pack_tokens`.

    An entry that holds only for some days is never in it.
    """
    chosen, left = [], policy.pack_tokens
    for entry in canonical(entries):
        fits = entry.kind in policy.pack_kinds and entry.area in ("", area)
        if fits and not entry.validity.limited:
            cost = count_tokens(render_entry(entry))
            if cost <= left:
                left -= cost
                chosen.append(entry)
    return PREAMBLE + render(chosen)


def packs_of(
    entries: Iterable[Entry], *, policy: Policy, count_tokens: CountTokens
) -> dict[str, str]:
    """Area -> pack, for no area and for each that an entry belongs to."""
    held = list(entries)
    areas = {"", *(entry.area for entry in held)}
    return {a: pack_text(held, a, policy=policy, count_tokens=count_tokens) for a in sorted(areas)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """All that a context depends on besides the question and the session. `day`: ISO, UTC."""

    index: Index
    policy: Policy
    count_tokens: CountTokens
    day: str
    release: str

    def find(self, question: str, scope: Scope, budget_tokens: int) -> tuple[Found, ...]:
        return select(
            self.index,
            question,
            scope,
            day=self.day,
            policy=self.policy,
            budget_tokens=budget_tokens,
            count_tokens=self.count_tokens,
        )

    def assemble(
        self, question: str, scope: Scope, *, pack: str, shown: Shown, budget_tokens: int
    ) -> Context:
        """Extends `shown` by released entries that the question needs and the pack has not; what is
        only confirmed goes into the tail."""
        pack = self._without_hidden(pack, scope)
        found = self.find(question, scope, budget_tokens)
        fresh = tuple(item.entry.id for item in found)
        there = {*ids_in(pack), *shown.ids}
        new = [item.entry for item in found if item.entry.id not in there]
        visible = self.index.visible(fresh, scope, self.day)
        settled = canonical(entry for entry in new if visible[entry.id])
        shown.text += render(settled)
        shown.ids += [entry.id for entry in settled]
        tail = render(entry for entry in new if not visible[entry.id])
        if not pack and (shown.text or tail):
            pack = PREAMBLE
        ids = (*ids_in(pack), *shown.ids, *ids_in(tail))
        shown.offered.update(ids)
        return Context(
            pack=pack,
            session=shown.text,
            tail=tail,
            ids=ids,
            fresh=fresh,
            entries=tuple(self.index.shown(name, scope, self.day) for name in ids),
            release=self.release,
        )

    def _without_hidden(self, pack: str, scope: Scope) -> str:
        """A pack is released as it is; what became unusable or was erased since is left out."""
        ids = ids_in(pack)
        seen = self.index.visible(ids, scope, self.day)
        if len(seen) == len(ids):
            return pack
        return PREAMBLE + render(self.index.get(name) for name in ids if name in seen)
