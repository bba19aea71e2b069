"""Making releases, checking them against cases, and moving the pointer."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from stepwell.knowledge.context import Context
from stepwell.knowledge.entry import Entry, Status
from stepwell.knowledge.errors import GateClosed, ReleaseBlocked
from stepwell.knowledge.gate import Gate
from stepwell.knowledge.harness import Ask, Case, Reader, Verdict, Waiver, judge, sign
from stepwell.knowledge.index import Index
from stepwell.knowledge.parts import Parts
from stepwell.knowledge.policy import Scope
from stepwell.knowledge.release import Plan, Planner, same_claim
from stepwell.knowledge.retrieve import CAUTIONS
from stepwell.knowledge.screen import twisted, uncalled
from stepwell.knowledge.session import Shown
from stepwell.knowledge.standing import Standing

_SCREEN_TOKENS = 1 << 20  # no entry is left out of a screening for want of room


class Releases:
    """Owner of what is written to truth, but for erasing (`erase`)."""

    def __init__(self, parts: Parts, gate: Gate, standing: Standing) -> None:
        self._parts, self._gate, self._standing = parts, gate, standing

    def plan(self, *, by: str, retire: Collection[str]) -> Plan:
        """See `base.Knowledge.plan`."""
        for name in retire:
            self._gate.entry(name)
        planner = Planner(
            records=self._parts.records,
            truth=self._parts.truth,
            gate=self._gate,
            policy=self._parts.policy,
            count_tokens=self._parts.count_tokens,
        )
        found = planner.plan(by=by, retire=retire, unusable=self._standing.unusable)
        if screened := self._screened(found):
            unusable = self._standing.unusable
            found = planner.plan(by=by, retire=retire, unusable=unusable, screened=screened)
        return found

    def _screened(self, plan: Plan) -> dict[str, str]:
        """What of a plan stays behind whatever the cases say. Cautions come by name, not by rank,
        so those that come in are asked for among themselves."""
        added = (plan.entries[name] for name in plan.added)
        coming = {entry.id: entry for entry in added if entry.kind in CAUTIONS}
        areas = sorted({entry.area for entry in coming.values()})
        ask, index = self._asker(coming, {}, _SCREEN_TOKENS)
        with contextlib.closing(index):

            def given(question: str) -> list[str]:
                asked = (Case(id="", question=question, area=area) for area in areas)
                return [name for case in asked for name in ask(case).fresh]

            return uncalled(given) | twisted(plan.added, plan.entries)

    def release(self, plan: Plan, *, by: str) -> str:
        """Write what is planned and point to it."""
        truth, index, records = self._parts.truth, self._parts.index, self._parts.records
        name = truth.write(plan.contents, by=by, at=self._parts.clock())
        truth.point(name)
        index.put(plan.entries[added] for added in plan.added)
        index.set_built(name)
        for added in plan.added:
            records.drop(added)
            self._absorb(plan.entries[added], by)
        self._parts.log("released", name, by=by)
        self._standing.refresh()
        return name

    def _absorb(self, released: Entry, by: str) -> None:
        """What makes the same claim and waits is done with."""
        for other in self._parts.records.of_subject(released.payload.subject):
            if same_claim(other) == same_claim(released) and other.status is not Status.RETIRED:
                self._gate.retire(other)
                self._parts.log("absorbed", other.id, by=by, detail=released.id)

    def check(self, verdict: Verdict) -> None:
        """Raises ReleaseBlocked."""
        if verdict.blocking:
            raise ReleaseBlocked(
                f"{len(verdict.blocking)} cases pass now and would fail:"
                f" {', '.join(verdict.blocking[:5])}.",
                hint="Leave out what breaks them, or sign a waiver for each.",
            )

    def judge(
        self,
        plan: Plan,
        cases: Iterable[Case],
        reader: Reader,
        *,
        waivers: Sequence[Waiver],
        budget_tokens: int,
    ) -> Verdict:
        """See `base.Knowledge.judge`."""
        truth, index = self._parts.truth, self._parts.index
        current = truth.current()
        live = {name: index.get(name) for name in index.live()}
        packs = truth.contents(current).packs if current else {}
        before, old = self._asker(live, packs, budget_tokens)
        after, new = self._asker(plan.entries, plan.contents.packs, budget_tokens)
        try:
            return judge(
                cases,
                before=before,
                after=after,
                reader=reader,
                waivers=waivers,
                key=self._parts.key,
                digest=plan.digest,
            )
        finally:
            old.close()
            new.close()

    def culprits(
        self, plan: Plan, cases: Iterable[Case], reader: Reader, *, budget_tokens: int
    ) -> dict[str, tuple[str, ...]]:
        """See `base.Knowledge.culprits`."""
        ask, index = self._asker(plan.entries, plan.contents.packs, budget_tokens)
        usual = self._standing.unusable
        found: dict[str, tuple[str, ...]] = {}

        def passes_without(case: Case, *names: str) -> bool:
            index.set_unusable(usual | set(names))
            return reader(case, ask(case))

        with contextlib.closing(index):
            for case in cases:
                index.set_unusable(usual)
                given = ask(case)
                if not reader(case, given):
                    found[case.id] = tuple(n for n in given.ids if passes_without(case, n))
        return found

    def _asker(
        self, entries: Mapping[str, Entry], packs: Mapping[str, str], budget_tokens: int
    ) -> tuple[Ask, Index]:
        """What a case would be given if these were released; the caller closes the index."""
        index = self._parts.index.holding(entries)
        index.set_unusable(self._standing.unusable)
        asking = replace(self._standing.asking(), index=index)

        def ask(case: Case) -> Context:
            return asking.assemble(
                case.question,
                Scope(area=case.area),
                pack=packs.get(case.area, packs.get("", "")),
                shown=Shown(asking.release),
                budget_tokens=budget_tokens,
            )

        return ask, index

    def context_of(self, name: str, question: str, area: str, *, budget_tokens: int) -> Context:
        """See `base.Knowledge.context_of`."""
        index, packs = self._parts.index, self._parts.truth.contents(name).packs
        held = self._parts.truth.ids(name) - self._parts.records.tombstones()
        entries = {entry_id: index.get(entry_id) for entry_id in held if entry_id in index}
        ask, older = self._asker(entries, packs, budget_tokens)
        with contextlib.closing(older):
            return replace(ask(Case(id="", question=question, area=area)), release=name)

    def sign_waiver(self, plan: Plan, *, case_id: str, by: str, reason: str) -> Waiver:
        """See `base.Knowledge.sign_waiver`."""
        if not reason.strip():
            raise GateClosed("a waiver needs a reason.", hint="Say why the case may break.")
        self._parts.log("waived", case_id, by=by, detail=reason)
        return sign(self._parts.key, case_id=case_id, by=by, reason=reason, digest=plan.digest)

    def rollback(self, to: str, *, by: str) -> str:
        """See `base.Knowledge.rollback`."""
        self._parts.truth.contents(to)
        self._parts.truth.point(to)
        self._parts.log("rolled_back", to, by=by)
        self._standing.refresh()
        return to
